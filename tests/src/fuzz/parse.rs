//! Any bytes as a frame: the parser takes what another library (etherparse) takes, reads the same there,
//! and nothing beyond the packet's end.

use etherparse::{Ipv6ExtensionSlice, NetSlice, SlicedPacket, TransportSlice};
use netbpf_common::abi::DropReason;
use netbpf_common::path::{self, Headers as _, Parsed, Part};
use netbpf_common::wire::{Ethernet, Kind, Ports, Tcp};

use super::steps;
use crate::family::TestFamily;
use crate::frame::Frame;
use crate::headers::Headers;
use crate::in_each_family;
use crate::memory::Memory;
use crate::world::UPLINK;

/// The target.
///
/// # Panics
/// When the parser is wrong about these bytes.
pub fn run(bytes: &[u8]) {
    in_each_family!(F => parse::<F>(bytes));
}

fn parse<F: TestFamily>(bytes: &[u8]) {
    let mut frame = Frame::new(UPLINK, bytes.to_vec());
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return };
    let (mut parsed, memory) = (Parsed::default(), Memory::new(1));
    match path::parse::<F, _, _>(&mut frame, &&memory, ethernet, &mut parsed) {
        Ok(()) => is_as_it_says::<F>(&parsed, bytes),
        // Of extension headers there may be more than are looked through, or such as no container may send.
        Err(DropReason::ExtensionHeaders | DropReason::IpOption) if has_extensions(bytes) => {}
        Err(reason) => assert!(!is_ip::<F>(bytes), "{reason:?}, and yet it is a packet"),
    }
    assert_eq!(frame.bytes, bytes, "reading changes nothing");
}

/// What the fixtures send.
pub fn seeds() -> Vec<Vec<u8>> {
    steps().iter().map(|step| step.input.clone()).collect()
}

fn is_as_it_says<F: TestFamily>(parsed: &Parsed<F>, bytes: &[u8]) {
    let (ip, l4) = (&parsed.ip, &parsed.l4);
    assert!(F::HEADER_LEN <= ip.header_len && ip.header_len <= ip.total_len, "{ip:?}");
    let end = Ethernet::LEN + ip.total_len;
    assert!(end as usize <= bytes.len(), "{ip:?} in {} bytes", bytes.len());

    let other = Headers::read(bytes).expect("a header to both");
    assert_eq!((ip.src.into(), ip.dst.into()), (other.source, other.destination));
    assert_eq!((ip.proto, ip.ttl), (other.protocol.0, other.ttl));
    assert_eq!(parsed.l4_at()..end, other.transport.start as u32..other.transport.end as u32);
    assert_eq!(ip.part != Part::Whole, other.is_fragment);
    assert_eq!(ip.part == Part::Later, other.offset != 0);

    let shortest = match l4.kind {
        Kind::Tcp => Tcp::LEN,
        Kind::Sctp => 12,
        Kind::Udp | Kind::EchoRequest | Kind::EchoReply | Kind::Error | Kind::Icmp | Kind::Link => 8,
        Kind::Fragment | Kind::Other => 0,
    };
    assert!(parsed.l4_at() + shortest <= end, "{l4:?} ends behind {ip:?}");
    let word = |offset: u32| {
        let at = (parsed.l4_at() + offset) as usize;
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    };
    let ports = match l4.kind {
        Kind::Tcp | Kind::Udp | Kind::Sctp => (word(0), word(2)),
        Kind::EchoRequest => (word(4), 0),
        Kind::EchoReply => (0, word(4)),
        Kind::Error | Kind::Icmp | Kind::Link | Kind::Fragment | Kind::Other => (0, 0),
    };
    let Ports { sport, dport } = l4.ports;
    assert_eq!((sport.get(), dport.get()), ports, "{l4:?}");
    if l4.mss_at != 0 {
        assert!(parsed.l4_at() + u32::from(l4.mss_at) + 2 <= end, "{l4:?} has its options behind {ip:?}");
    }
    assert!(parsed.segment_len(0) <= u32::from(u16::MAX) && parsed.segment_len(1) > ip.header_len);
}

/// Whether this is IP to another library, with the whole header of its transport.
fn is_ip<F: TestFamily>(bytes: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return false };
    let is_family = match &packet.net {
        Some(NetSlice::Ipv4(_)) => F::HOST.is_ipv4(),
        // The other library looks for what a fragment header says at other places.
        Some(NetSlice::Ipv6(ip)) => {
            let mut extensions = ip.extensions().clone().into_iter();
            F::HOST.is_ipv6() && !extensions.any(|extension| matches!(extension, Ipv6ExtensionSlice::Fragment(_)))
        }
        _ => false,
    };
    let Some(headers) = Headers::read(bytes).filter(|_| is_family && packet.link_exts.is_empty()) else { return false };
    // The other library looks at the frame's end, not at what the headers say of each other.
    let payload = headers.transport.len();
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) => headers.is_fragment || (8..=payload).contains(&usize::from(udp.length())),
        Some(TransportSlice::Tcp(tcp)) => tcp.header_len() <= payload,
        Some(_) => payload >= 8,
        None => false,
    }
}

fn has_extensions(bytes: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(bytes);
    packet.is_ok_and(|packet| matches!(packet.net, Some(NetSlice::Ipv6(ip)) if !ip.extensions().is_empty()))
}
