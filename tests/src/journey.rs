//! A packet's journey through the paths in memory: how it is built for where it sets out, where it
//! ends, and what is read off it there. Checksums are computed by another library (etherparse).

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv4HeaderSlice, PacketBuilder};
use netbpf_common::abi::{ENDPOINT_SLOTS, Flow, FlowKey, Life, Scope};
use netbpf_common::path::{self, Env, FlowEntry, V4, Verdict};
use netbpf_common::wire::{Be16, V4Addr, protocol, tcp_flags};

use crate::fixture::Hook;
use crate::frame::Frame;
use crate::memory::Memory;
use crate::packet::Ethernet;
use crate::world::{CONTAINERS, Container, GATEWAY_MAC, HOST_DEVICE, OUTSIDE_MAC, UPLINK, UPLINK_MAC};

/// What builders put into the header.
pub const TTL: u8 = 64;

const ETHERNET: usize = 14;
/// Offset in the frame.
const IP_CHECKSUM: usize = ETHERNET + 10;
/// Offsets in the transport header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;

/// What a packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// A TCP segment with these control bits.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
    /// A UDP datagram whose checksum is zero: none.
    UdpWithoutChecksum,
    /// An ICMP echo request. Its identifier is the port of the sender.
    Ping,
    /// An ICMP echo reply. Its identifier is the port of the receiver.
    Pong,
}

impl Speech {
    /// The beginning of a TCP connection.
    pub const SYN: Self = Self::Tcp(tcp_flags::SYN);
    /// The answer to it.
    pub const SYN_ACK: Self = Self::Tcp(tcp_flags::SYN | tcp_flags::ACK);
    /// The middle of a TCP connection.
    pub const ACK: Self = Self::Tcp(tcp_flags::ACK);
    /// The end of one side of a TCP connection.
    pub const FIN: Self = Self::Tcp(tcp_flags::FIN | tcp_flags::ACK);
    /// The answer of a port without a listener.
    pub const REFUSAL: Self = Self::Tcp(tcp_flags::RST | tcp_flags::ACK);
    /// The sudden end of a TCP connection.
    pub const RST: Self = Self::Tcp(tcp_flags::RST);

    /// IP protocol number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp | Self::UdpWithoutChecksum => protocol::UDP,
            Self::Ping | Self::Pong => protocol::ICMP,
        }
    }

    /// What the other side says to it.
    #[must_use]
    pub const fn answer(self) -> Self {
        match self {
            Self::Tcp(tcp_flags::SYN) => Self::SYN_ACK,
            Self::Tcp(_) => Self::ACK,
            Self::Ping => Self::Pong,
            other => other,
        }
    }

    /// What the same side says next.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Tcp(_) => Self::ACK,
            other => other,
        }
    }

    /// The frame. An echo has its identifier at the asking side, as the keys of flows do.
    pub fn frame(self, link: Ethernet, from: SocketAddrV4, to: SocketAddrV4, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let echo = || PacketBuilder::ethernet2(link.from, link.to).ipv4(from.ip().octets(), to.ip().octets(), ttl);
        let builder = match self {
            // What a SYN carried would have to be acknowledged by the next segment.
            Self::Tcp(flags) if flags & tcp_flags::SYN != 0 => return link.segment(from, to, flags, ttl, &[]),
            Self::Tcp(flags) => return link.segment(from, to, flags, ttl, payload),
            Self::Udp => return link.datagram(from, to, ttl, payload),
            Self::UdpWithoutChecksum => {
                let mut frame = link.datagram(from, to, ttl, payload);
                let end = frame.len() - payload.len();
                frame[end - 2..end].fill(0);
                return frame;
            }
            Self::Ping => echo().icmpv4_echo_request(from.port(), 1),
            Self::Pong => echo().icmpv4_echo_reply(to.port(), 1),
        };
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }
}

/// Who speaks to whom, by what protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// The sender.
    pub from: SocketAddrV4,
    /// The receiver.
    pub to: SocketAddrV4,
}

impl Tuple {
    /// Of a packet.
    pub const fn new(speech: Speech, from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self { protocol: speech.protocol(), from, to }
    }

    /// Reads a frame that holds TCP, UDP or an echo over IPv4.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let ip = Ipv4HeaderSlice::from_slice(frame.get(ETHERNET..)?).ok()?;
        let l4 = frame.get(transport(&ip))?;
        let word = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
        let (source, destination) = match (ip.protocol(), l4.first()?) {
            (IpNumber::TCP | IpNumber::UDP, _) => (word(0)?, word(2)?),
            (IpNumber::ICMP, 8) => (word(4)?, 0),
            (IpNumber::ICMP, 0) => (0, word(4)?),
            _ => return None,
        };
        Some(Self {
            protocol: ip.protocol().0,
            from: SocketAddrV4::new(ip.source_addr(), source),
            to: SocketAddrV4::new(ip.destination_addr(), destination),
        })
    }

    /// The way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    /// The key of the flow of such packets that come from `scope`.
    pub fn key(&self, scope: Scope) -> FlowKey<V4Addr> {
        let port = |end: SocketAddrV4| Be16::new(end.port());
        let (from, to) = (self.from, self.to);
        FlowKey::new(scope, self.protocol, (*from.ip()).into(), port(from), (*to.ip()).into(), port(to))
    }
}

/// Where a packet ended, and what it had become.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// What became of it.
    pub verdict: Verdict,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Arrival {
    /// What came of a frame. An echo reply from outside goes on to the host and, as a copy, into a
    /// container; then it is the copy.
    ///
    /// # Panics
    /// When there is a copy, and its original does not go on to the host.
    #[track_caller]
    pub fn new(verdict: Verdict, mut frame: Frame) -> Self {
        match frame.copies.pop() {
            Some((ifindex, bytes)) => {
                assert_eq!(verdict, Verdict::Pass, "the host gets it too");
                assert!(frame.copies.is_empty(), "one container gets it");
                Self { verdict: Verdict::Device { ifindex }, bytes }
            }
            None => Self { verdict, bytes: frame.bytes },
        }
    }

    /// Who speaks to whom at the end of the journey.
    ///
    /// # Panics
    /// When the packet did not get there.
    #[track_caller]
    pub fn tuple(&self) -> Tuple {
        assert!(self.way_back().is_some(), "{:?}", self.verdict);
        Tuple::read(&self.bytes).expect("a packet with ports")
    }

    /// Where an answer to it sets out; nothing if it got nowhere.
    pub fn way_back(&self) -> Option<Hook> {
        match self.verdict {
            Verdict::Pass | Verdict::Drop(_) | Verdict::Done => None,
            // An answer to somebody outside.
            Verdict::Device { ifindex: UPLINK } => Some(Hook::Uplink),
            Verdict::Peer { ifindex } | Verdict::Device { ifindex } => Some(Hook::Egress(ifindex)),
            Verdict::Neighbour { .. } => Some(Hook::Uplink),
            Verdict::Ingress { .. } => Some(Hook::Host),
        }
    }

    /// The control bits of the TCP segment that it is.
    pub fn tcp_flags(&self) -> Option<u8> {
        let is_tcp = Tuple::read(&self.bytes)?.protocol == protocol::TCP;
        is_tcp.then(|| self.bytes.get(ETHERNET + 20 + 13).copied()).flatten()
    }
}

/// Sends a packet with a few bytes of payload.
pub fn send<E: Env<V4>>(env: E, hook: Hook, speech: Speech, from: SocketAddrV4, to: SocketAddrV4) -> Arrival {
    let mut frame = frame_on(hook, speech.frame(link_on(hook), from, to, TTL, b"odd"));
    let verdict = travel(env, hook, &mut frame);
    Arrival::new(verdict, frame)
}

/// Sends the answer to a packet that has arrived.
///
/// # Panics
/// When it has not.
#[track_caller]
pub fn answer<E: Env<V4>>(env: E, arrival: &Arrival, speech: Speech) -> Arrival {
    let Tuple { from, to, .. } = arrival.tuple();
    send(env, arrival.way_back().expect("checked"), speech, to, from)
}

/// Lets a frame meet the path of a hook.
pub fn travel<E: Env<V4>>(env: E, hook: Hook, frame: &mut Frame) -> Verdict {
    match hook {
        Hook::Egress(_) => path::egress(frame, &env),
        Hook::Uplink => path::uplink(frame, &env),
        Hook::Host | Hook::Forwarded => path::host(frame, &env),
    }
}

/// A frame as the hook finds it.
pub fn frame_on(hook: Hook, bytes: Vec<u8>) -> Frame {
    match hook {
        Hook::Egress(device) => Frame::new(device, bytes),
        Hook::Uplink => Frame { for_us: bytes.starts_with(&UPLINK_MAC), ..Frame::new(UPLINK, bytes) },
        Hook::Host => Frame::new(HOST_DEVICE, bytes),
        Hook::Forwarded => Frame { ingress_ifindex: UPLINK, ..Frame::new(HOST_DEVICE, bytes) },
    }
}

/// The Ethernet addresses of what comes by a hook; a container sends by way of the gateway.
pub fn link_on(hook: Hook) -> Ethernet {
    match hook {
        Hook::Egress(device) => Ethernet { from: container_of(device).mac, to: GATEWAY_MAC },
        Hook::Uplink => Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC },
        Hook::Host | Hook::Forwarded => Ethernet { from: GATEWAY_MAC, to: GATEWAY_MAC },
    }
}

/// The container behind a host-side device.
///
/// # Panics
/// When there is none in the world.
pub fn container_of(device: u32) -> Container {
    let slot = device & (ENDPOINT_SLOTS - 1);
    *CONTAINERS.iter().find(|container| container.slot == slot).expect("a container of the world")
}

/// From which side the packets of a hook come.
pub const fn scope_of(hook: Hook) -> Scope {
    match hook {
        Hook::Egress(_) => Scope::Container,
        Hook::Uplink => Scope::Uplink,
        Hook::Host | Hook::Forwarded => Scope::Host,
    }
}

/// The flow entry that packets of this tuple find when they come by a hook.
pub fn entry<E: Env<V4>>(env: E, hook: Hook, tuple: &Tuple) -> Option<Flow<V4Addr>> {
    Some(copy_of(&env.flow(&tuple.key(scope_of(hook)))?))
}

fn copy_of(entry: &impl FlowEntry<V4Addr>) -> Flow<V4Addr> {
    let mut flow = Flow::default();
    entry.read_into(&mut flow);
    flow
}

/// The original keys of all flows.
///
/// # Panics
/// When a flow is not whole, see [`originals`].
#[track_caller]
pub fn flows(memory: &Memory) -> Vec<FlowKey<V4Addr>> {
    originals(&memory.flows.borrow().iter().map(|(key, entry)| (*key, copy_of(entry))).collect())
}

/// The original keys of the flows in a table.
///
/// # Panics
/// When there is half a flow, a dead one, or a reply key that two flows have.
#[track_caller]
pub fn originals(table: &HashMap<FlowKey<V4Addr>, Flow<V4Addr>>) -> Vec<FlowKey<V4Addr>> {
    let mut originals = Vec::with_capacity(table.len() / 2);
    for (key, flow) in table {
        let other = table.get(&flow.other).unwrap_or_else(|| panic!("half a flow: {key:?}"));
        assert_eq!(other.other, *key, "the other half of {key:?} belongs to another flow");
        assert!(flow.word.same_flow(other.word), "{key:?} and its other half are not of the same flow");
        assert_eq!(flow.is_reply + other.is_reply, 1, "{key:?} has two halves of the same kind");
        assert_ne!(flow.word.life(), Life::Dead, "{key:?} is dead");
        if flow.is_reply == 0 {
            originals.push(*key);
        }
    }
    originals
}

/// Asks the collector to look at every flow; how many it ended.
pub fn collect(memory: &Memory) -> usize {
    flows(memory).iter().filter(|key| path::collect::collect(&memory, key)).count()
}

/// Whether the receiver of a frame would believe the checksum of its IPv4 header.
pub fn is_header_sound(frame: &[u8]) -> bool {
    frame.get(ETHERNET..).and_then(|rest| Ipv4HeaderSlice::from_slice(rest).ok()).is_some_and(|ip| {
        let sum = Sum16BitWords::new().add_slice(ip.slice());
        transport(&ip).end <= frame.len() && sum.ones_complement() == 0
    })
}

/// Whether the receiver of a frame would believe the checksum of its TCP, UDP or ICMP, as far as
/// that has one.
pub fn is_transport_sound(frame: &[u8]) -> bool {
    let Some(ip) = frame.get(ETHERNET..).and_then(|rest| Ipv4HeaderSlice::from_slice(rest).ok()) else { return false };
    let Some(l4) = frame.get(transport(&ip)) else { return false };
    let sum = match ip.protocol() {
        _ if ip.is_fragmenting_payload() => return true,
        IpNumber::UDP if l4.get(6..8) == Some(&[0, 0]) => return true,
        IpNumber::TCP | IpNumber::UDP => pseudo_header(&ip, l4.len()),
        IpNumber::ICMP => Sum16BitWords::new(),
        _ => return true,
    };
    sum.add_slice(l4).ones_complement() == 0
}

/// Leaves the checksum of a TCP or UDP frame to the device: only the sum of the pseudo header stays
/// there (CHECKSUM_PARTIAL).
///
/// # Panics
/// When it is no such frame.
pub fn leave_checksum_to_device(frame: &mut [u8]) {
    let (field, l4) = checksum_field(frame);
    let ip = Ipv4HeaderSlice::from_slice(&frame[ETHERNET..]).expect("a header");
    let partial = !pseudo_header(&ip, l4.len()).ones_complement();
    frame[field].copy_from_slice(&partial.to_ne_bytes());
}

/// Finishes such a checksum as a device does: blindly, over all from the transport header on.
///
/// # Panics
/// When it is no frame with TCP or UDP.
pub fn finish_checksum(frame: &mut [u8]) {
    let (field, l4) = checksum_field(frame);
    let is_udp = field.start == l4.start + UDP_CHECKSUM;
    let sum = Sum16BitWords::new().add_slice(&frame[l4]);
    let sum = if is_udp { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
    frame[field].copy_from_slice(&sum.to_ne_bytes());
}

/// Makes the checksums of an IPv4 frame right again, as far as it is one.
pub fn repair(frame: &mut [u8]) {
    let Ok(ip) = Ipv4HeaderSlice::from_slice(frame.get(ETHERNET..).unwrap_or_default()) else { return };
    let (header, protocol, l4) = (ip.to_header(), ip.protocol(), transport(&ip));
    let pseudo = pseudo_header(&ip, l4.len());
    frame[IP_CHECKSUM..][..2].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let (at, sum) = match protocol {
        IpNumber::TCP => (TCP_CHECKSUM, pseudo),
        IpNumber::UDP => (UDP_CHECKSUM, pseudo),
        IpNumber::ICMP => (ICMP_CHECKSUM, Sum16BitWords::new()),
        _ => return,
    };
    let Some(l4) = frame.get_mut(l4).filter(|l4| l4.len() >= at + 2) else { return };
    l4[at..at + 2].fill(0);
    let sum = sum.add_slice(l4);
    let sum = if protocol == IpNumber::UDP { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
    l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

fn checksum_field(frame: &[u8]) -> (Range<usize>, Range<usize>) {
    let ip = Ipv4HeaderSlice::from_slice(&frame[ETHERNET..]).expect("a header");
    let l4 = transport(&ip);
    let at = l4.start + if ip.protocol() == IpNumber::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    (at..at + 2, l4)
}

fn transport(ip: &Ipv4HeaderSlice<'_>) -> Range<usize> {
    let start = ETHERNET + ip.slice().len();
    start..(ETHERNET + usize::from(ip.total_len())).max(start)
}

fn pseudo_header(ip: &Ipv4HeaderSlice<'_>, len: usize) -> Sum16BitWords {
    Sum16BitWords::new()
        .add_4bytes(ip.source())
        .add_4bytes(ip.destination())
        .add_2bytes([0, ip.protocol().0])
        .add_2bytes((len as u16).to_be_bytes())
}
