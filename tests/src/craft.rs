//! IP packets built field by field, for frames that no kernel would send.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};
use netbpf_common::wire::tcp_flags;

use crate::packet::{Ethernet, fragment_header, icmp as icmp_of, pseudo_header};
use crate::version::Version;

/// PSH and URG, which decide nothing.
pub const PSH: u8 = 0x08;
/// See [`PSH`].
pub const URG: u8 = 0x20;

/// An extension header of IPv6: its number, and what follows its first two bytes.
pub type Extension = (u8, &'static [u8]);

/// What an IP header says beyond the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Identification, which the fragments of a datagram share.
    pub id: u16,
    /// Offset of a fragment in bytes; a multiple of eight.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Whether it must not be fragmented; IPv6 packets never are on their way.
    pub whole: bool,
    /// Options of IPv4: whole words.
    pub options: &'static [u8],
    /// Extension headers of IPv6.
    pub extensions: &'static [Extension],
}

impl Ip {
    /// A whole packet.
    pub fn new(from: IpAddr, to: IpAddr) -> Self {
        Self { from, to, ttl: 64, id: 0, offset: 0, more: false, whole: false, options: &[], extensions: &[] }
    }

    /// A frame with such a packet.
    ///
    /// # Panics
    /// When the payload is no IP payload.
    pub fn frame(self, ethernet: Ethernet, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        framed(ethernet, Version::of(self.from), &self.packet(protocol, payload))
    }

    /// The packet alone.
    ///
    /// # Panics
    /// As [`Ip::frame`], and when the addresses are of two families.
    pub fn packet(self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.v4(from.octets(), to.octets(), protocol, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.v6(from.octets(), to.octets(), protocol, payload),
            (from, to) => panic!("from {from} to {to}"),
        }
    }

    fn v4(self, from: [u8; 4], to: [u8; 4], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let mut header = Ipv4Header::new(0, self.ttl, protocol, from, to).expect("an empty payload fits");
        header.identification = self.id;
        (header.dont_fragment, header.more_fragments) = (self.whole, self.more);
        header.fragment_offset = IpFragOffset::try_new(self.offset / 8).expect("an offset has 13 bits");
        header.options = self.options.try_into().expect("whole words");
        header.set_payload_len(payload.len()).expect("the payload fits");
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes(), payload].concat()
    }

    fn v6(self, source: [u8; 16], destination: [u8; 16], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let (mut next_header, mut rest) = (protocol, payload.to_vec());
        if self.more || self.offset > 0 {
            let offset = usize::from(self.offset);
            rest.splice(..0, fragment_header(next_header, offset, self.more, self.id.into()));
            next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
        }
        for (number, body) in self.extensions.iter().rev() {
            let words = u8::try_from((body.len() + 2) / 8 - 1).expect("it is short");
            rest.splice(..0, [&[next_header.0, words], *body].concat());
            next_header = IpNumber(*number);
        }
        let payload_length = u16::try_from(rest.len()).expect("the payload fits");
        let (traffic_class, flow_label, hop_limit) = (0, Ipv6FlowLabel::ZERO, self.ttl);
        let header =
            Ipv6Header { traffic_class, flow_label, payload_length, next_header, hop_limit, source, destination };
        [&header.to_bytes()[..], &rest].concat()
    }
}

/// A frame with an IP packet, or with what pretends to be one.
pub fn framed(ethernet: Ethernet, version: Version, packet: &[u8]) -> Vec<u8> {
    [&ethernet.to[..], &ethernet.from, &version.ether_type(), packet].concat()
}

/// A TCP segment: header and payload.
///
/// # Panics
/// When the payload does not fit.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), seq, 64_240);
    header.acknowledgment_number = ack;
    let has = |flag| flags & flag != 0;
    (header.fin, header.syn, header.rst) = (has(tcp_flags::FIN), has(tcp_flags::SYN), has(tcp_flags::RST));
    (header.ack, header.psh, header.urg) = (has(tcp_flags::ACK), has(PSH), has(URG));
    let sum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload),
        (from, to) => panic!("from {from} to {to}"),
    };
    header.checksum = sum.expect("the payload fits");
    [&header.to_bytes(), payload].concat()
}

/// A UDP datagram: header and payload.
///
/// # Panics
/// When the payload does not fit.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut header = UdpHeader::without_ipv4_checksum(from.port(), to.port(), payload.len()).expect("the payload fits");
    let sum = pseudo_header(from.ip(), to.ip(), IpNumber::UDP, UdpHeader::LEN + payload.len());
    let sum = sum.add_slice(&header.to_bytes()).add_slice(payload).to_ones_complement_with_no_zero();
    header.checksum = sum.to_be();
    [&header.to_bytes(), payload].concat()
}

/// An ICMP message of the family of these addresses: type and code, what follows the checksum, and for an error the packet
/// it is about.
pub fn icmp(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2], word: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], &word[..], payload].concat();
    let sum = match Version::of(from) {
        Version::V4 => Default::default(),
        Version::V6 => pseudo_header(from, to, icmp_of(from), message.len()),
    };
    let checksum = sum.add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
    message
}
