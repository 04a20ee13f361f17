//! IPv4 packets built field by field, for frames that no kernel would send.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, TcpHeader, UdpHeader};
use netbpf_common::wire::tcp_flags;

use crate::packet::Ethernet;

/// PSH and URG, which decide nothing.
pub const PSH: u8 = 0x08;
/// See [`PSH`].
pub const URG: u8 = 0x20;

/// What an IPv4 header says beyond the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Source address.
    pub from: Ipv4Addr,
    /// Destination address.
    pub to: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Identification, which the fragments of a datagram share.
    pub id: u16,
    /// Offset of a fragment in bytes; a multiple of eight.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Whether it must not be fragmented.
    pub whole: bool,
    /// Options: whole words.
    pub options: &'static [u8],
}

impl Ip {
    /// A whole packet.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self { from, to, ttl: 64, id: 0, offset: 0, more: false, whole: false, options: &[] }
    }

    /// A frame with such a packet.
    ///
    /// # Panics
    /// When the payload is no IPv4 payload.
    pub fn frame(self, ethernet: Ethernet, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        framed(ethernet, &self.packet(protocol, payload))
    }

    /// The packet alone.
    ///
    /// # Panics
    /// As [`Ip::frame`].
    pub fn packet(self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header::new(0, self.ttl, protocol, self.from.octets(), self.to.octets());
        let mut header = header.expect("an empty payload fits");
        header.identification = self.id;
        (header.dont_fragment, header.more_fragments) = (self.whole, self.more);
        header.fragment_offset = IpFragOffset::try_new(self.offset / 8).expect("an offset has 13 bits");
        header.options = self.options.try_into().expect("whole words");
        header.set_payload_len(payload.len()).expect("the payload fits");
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes(), payload].concat()
    }
}

/// A frame with an IPv4 packet, or with what pretends to be one.
pub fn framed(ethernet: Ethernet, packet: &[u8]) -> Vec<u8> {
    [&ethernet.to[..], &ethernet.from, &[0x08, 0x00], packet].concat()
}

/// A TCP segment: header and payload.
///
/// # Panics
/// When the payload does not fit.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), seq, 64_240);
    header.acknowledgment_number = ack;
    let has = |flag| flags & flag != 0;
    (header.fin, header.syn, header.rst) = (has(tcp_flags::FIN), has(tcp_flags::SYN), has(tcp_flags::RST));
    (header.ack, header.psh, header.urg) = (has(tcp_flags::ACK), has(PSH), has(URG));
    let sum = header.calc_checksum_ipv4_raw(from.ip().octets(), to.ip().octets(), payload);
    header.checksum = sum.expect("the payload fits");
    [&header.to_bytes(), payload].concat()
}

/// A UDP datagram: header and payload.
///
/// # Panics
/// When the payload does not fit.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let ends = Ipv4Header::new(0, 64, IpNumber::UDP, from.ip().octets(), to.ip().octets()).expect("nothing fits");
    let header = UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ends, payload).expect("the payload fits");
    [&header.to_bytes(), payload].concat()
}

/// An ICMP message; for an error, `payload` is the packet it is about.
pub fn icmp(kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    [&Icmpv4Header::with_checksum(kind, payload).to_bytes(), payload].concat()
}
