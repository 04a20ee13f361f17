//! Ethernet frames as bytes: the right ones and the wrong ones.

pub mod extension;
mod fragment;
mod icmp;
mod neighbour;
mod read;

use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep,
    TcpHeader, VlanId,
};
use netbpf_common::wire::tcp_flags;

pub use self::fragment::{fragment_header, fragmented, with_payload};
pub use self::icmp::{IcmpError, icmp};
pub use self::neighbour::{ON_LINK, advertised, solicited_node};
pub use self::read::{Datagram, addresses, tcp_flags};

/// A MAC address.
pub type Mac = [u8; 6];

/// The MAC address of everybody.
pub const BROADCAST: Mac = [0xff; 6];

const TTL: u8 = 64;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// The sequence number after the SYN of both sides of a connection, see [`Ethernet::segment`].
pub const AFTER_SYN: u32 = 1001;
/// The window of its segments.
pub const WINDOW: u16 = 64_240;

/// Sender and receiver of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// Source address.
    pub from: Mac,
    /// Destination address.
    pub to: Mac,
}

impl Ethernet {
    fn builder(self) -> PacketBuilderStep<Ethernet2Header> {
        PacketBuilder::ethernet2(self.from, self.to)
    }

    fn ip(self, from: IpAddr, to: IpAddr, ttl: u8) -> PacketBuilderStep<IpHeaders> {
        self.builder().ip(header(from, to, ttl, IpNumber::UDP))
    }

    /// A UDP datagram.
    pub fn udp(self, from: impl Into<SocketAddr>, to: impl Into<SocketAddr>, payload: &[u8]) -> Vec<u8> {
        self.datagram(from, to, TTL, payload)
    }

    /// A UDP datagram without checksum.
    pub fn udp_without_checksum(
        self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = self.udp(from, to, payload);
        // The checksum is the last field of the UDP header (RFC 768).
        let end = frame.len() - payload.len();
        frame[end - 2..end].fill(0);
        frame
    }

    /// A UDP datagram in a frame with an 802.1Q tag.
    pub fn tagged_udp(
        self,
        vlan: u16,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        payload: &[u8],
    ) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());
        let tag = VlanId::try_new(vlan).expect("a VLAN id has 12 bits");
        let ip = self.builder().single_vlan(tag).ip(header(from.ip(), to.ip(), TTL, IpNumber::UDP));
        let builder = ip.udp(from.port(), to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A TCP SYN.
    pub fn syn(self, from: impl Into<SocketAddr>, to: impl Into<SocketAddr>, sequence: u32) -> Vec<u8> {
        self.numbered(from, to, tcp_flags::SYN, sequence, 0)
    }

    /// A TCP segment in the middle of a connection.
    pub fn tcp_ack(self, from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) -> Vec<u8> {
        self.numbered(from, to, tcp_flags::ACK, 1, 1)
    }

    /// A TCP segment with any control bits, of a connection in which both sides began at the same number and all that was
    /// said is acknowledged.
    pub fn segment(
        self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        flags: u8,
        ttl: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let sequence = if flags & tcp_flags::SYN == 0 { AFTER_SYN } else { AFTER_SYN - 1 };
        let header = TcpHeader { acknowledgment_number: AFTER_SYN, ..TcpHeader::new(0, 0, sequence, WINDOW) };
        self.tcp(from.into(), to.into(), flags, header, ttl, payload)
    }

    /// A TCP segment with any control bits, sequence number and acknowledgment number.
    pub fn numbered(
        self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        flags: u8,
        seq: u32,
        ack: u32,
    ) -> Vec<u8> {
        let header = TcpHeader { acknowledgment_number: ack, ..TcpHeader::new(0, 0, seq, WINDOW) };
        self.tcp(from.into(), to.into(), flags, header, TTL, &[])
    }

    /// A SYN with options as they lie in the header.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn syn_with_options(
        self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        ttl: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = TcpHeader::new(0, 0, AFTER_SYN - 1, WINDOW);
        header.set_options_raw(options).expect("at most 40 bytes");
        self.tcp(from.into(), to.into(), tcp_flags::SYN, header, ttl, payload)
    }

    fn tcp(
        self,
        from: SocketAddr,
        to: SocketAddr,
        flags: u8,
        mut header: TcpHeader,
        ttl: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        (header.source_port, header.destination_port) = (from.port(), to.port());
        (header.fin, header.syn) = (flags & tcp_flags::FIN != 0, flags & tcp_flags::SYN != 0);
        (header.rst, header.ack) = (flags & tcp_flags::RST != 0, flags & tcp_flags::ACK != 0);
        let builder = self.ip(from.ip(), to.ip(), ttl).tcp_header(header);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A UDP datagram with any time to live.
    pub fn datagram(self, from: impl Into<SocketAddr>, to: impl Into<SocketAddr>, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());
        let builder = self.ip(from.ip(), to.ip(), ttl).udp(from.port(), to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A packet of any IP protocol.
    pub fn protocol(self, number: u8, from: impl Into<IpAddr>, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
        self.other(header(from.into(), to.into(), TTL, IpNumber(number)), IpNumber(number), payload)
    }

    fn other(self, header: IpHeaders, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let builder = self.builder().ip(header);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, protocol, payload).expect("a Vec takes all, and the payload fits");
        frame
    }
}

/// An IP header before nothing yet.
///
/// # Panics
/// When the addresses are of two families.
fn header(from: IpAddr, to: IpAddr, ttl: u8, protocol: IpNumber) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(0, ttl, protocol, from.octets(), to.octets());
            IpHeaders::Ipv4(header.expect("an empty payload fits"), Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: protocol,
                hop_limit: ttl,
                source: from.octets(),
                destination: to.octets(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("from {from} to {to}"),
    }
}

/// The sum of the pseudo header of so many bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_header(from: IpAddr, to: IpAddr, protocol: IpNumber, len: usize) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new();
    for address in [from, to] {
        sum = match address {
            IpAddr::V4(address) => sum.add_4bytes(address.octets()),
            IpAddr::V6(address) => sum.add_16bytes(address.octets()),
        };
    }
    sum.add_2bytes([0, protocol.0]).add_4bytes((len as u32).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    const LINK: Ethernet = Ethernet { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 5000);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 53);

    #[test]
    fn a_datagram_reads_back_as_it_was_built() {
        let read = Datagram::parse(&LINK.udp(A, B, b"hello")).expect("UDP");
        assert_eq!((read.from, read.to, read.payload.as_slice()), (A.into(), B.into(), b"hello".as_slice()));
        assert_ne!(read.checksum, 0);
    }

    #[test]
    fn a_datagram_without_checksum_has_zero_there_and_keeps_its_payload() {
        let read = Datagram::parse(&LINK.udp_without_checksum(A, B, b"hello")).expect("UDP");
        assert_eq!((read.checksum, read.payload.as_slice()), (0, b"hello".as_slice()));
    }

    #[test]
    fn a_tag_stands_before_the_ip_header() {
        let frame = LINK.tagged_udp(77, A, B, b"hello");
        assert_eq!(frame[12..18], [0x81, 0x00, 0, 77, 0x08, 0x00]);
    }
}
