//! Ethernet frames as bytes: the right ones and the wrong ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Header,
    Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice, VlanId,
};
use netbpf_common::wire::tcp_flags;

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

    /// An ICMP echo: a request, or else a reply.
    pub fn echo(self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, request: bool, id: u16, ttl: u8) -> Vec<u8> {
        self.echo_with(from.into(), to.into(), request, id, ttl, b"ping")
    }

    /// An ICMP echo that carries something.
    pub fn echo_with(self, from: IpAddr, to: IpAddr, request: bool, id: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
        const SEQUENCE: u16 = 1;
        let ip = self.ip(from, to, ttl);
        let mut frame = Vec::new();
        let written = match (from, request) {
            (IpAddr::V4(_), true) => ip.icmpv4_echo_request(id, SEQUENCE).write(&mut frame, payload),
            (IpAddr::V4(_), false) => ip.icmpv4_echo_reply(id, SEQUENCE).write(&mut frame, payload),
            (IpAddr::V6(_), true) => ip.icmpv6_echo_request(id, SEQUENCE).write(&mut frame, payload),
            (IpAddr::V6(_), false) => ip.icmpv6_echo_reply(id, SEQUENCE).write(&mut frame, payload),
        };
        written.expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A packet of any IP protocol.
    pub fn protocol(self, number: u8, from: impl Into<IpAddr>, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
        self.other(header(from.into(), to.into(), TTL, IpNumber(number)), IpNumber(number), payload)
    }

    /// An ICMP error that quotes the beginning of an IP packet.
    pub fn icmp_error(
        self,
        from: impl Into<IpAddr>,
        to: impl Into<IpAddr>,
        ttl: u8,
        what: IcmpError,
        quote: &[u8],
    ) -> Vec<u8> {
        let (from, to) = (from.into(), to.into());
        let [kind, code] = what.kind_and_code(from);
        let mut message = vec![kind, code, 0, 0];
        message.extend(what.word.to_be_bytes());
        message.extend(quote);
        let protocol = icmp(from);
        let sum = match from {
            IpAddr::V4(_) => Sum16BitWords::new(),
            IpAddr::V6(_) => pseudo_header(from, to, protocol, message.len()),
        };
        let checksum = sum.add_slice(&message).ones_complement();
        message[2..4].copy_from_slice(&checksum.to_ne_bytes());
        let mut header = header(from, to, ttl, protocol);
        if let IpHeaders::Ipv4(header, _) = &mut header {
            // An error may be fragmented: nobody would be told of its own size.
            header.dont_fragment = false;
        }
        self.other(header, protocol, &message)
    }

    /// A middle fragment of a UDP datagram.
    pub fn fragment(self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
        const OFFSET: usize = 1480;
        let mut header = header(from.into(), to.into(), TTL, IpNumber::UDP);
        match &mut header {
            IpHeaders::Ipv4(header, _) => {
                (header.dont_fragment, header.more_fragments, header.fragment_offset) =
                    (false, true, v4_offset(OFFSET));
                self.other(IpHeaders::Ipv4(header.clone(), Default::default()), IpNumber::UDP, payload)
            }
            IpHeaders::Ipv6(..) => {
                let fragment = fragment_header(IpNumber::UDP, OFFSET, true, 0);
                self.other(header, IpNumber::IPV6_FRAGMENTATION_HEADER, &[&fragment[..], payload].concat())
            }
        }
    }

    fn other(self, header: IpHeaders, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let builder = self.builder().ip(header);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, protocol, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// "Who has `target`? Tell `sender`."
    pub fn arp_request(self, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::REQUEST, self.from, sender, [0; 6], target)
    }

    /// "`sender` is at this frame's source address", said to `target`.
    pub fn arp_reply(self, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::REPLY, self.from, sender, self.to, target)
    }

    /// An ARP packet that says whatever it likes.
    pub fn arp(
        self,
        operation: ArpOperation,
        sender_mac: Mac,
        sender: Ipv4Addr,
        target_mac: Mac,
        target: Ipv4Addr,
    ) -> Vec<u8> {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &sender_mac,
            &sender.octets(),
            &target_mac,
            &target.octets(),
        );
        let builder = self.builder().arp(packet.expect("addresses of equal lengths"));
        let mut frame = Vec::with_capacity(builder.size());
        builder.write(&mut frame).expect("a Vec takes all");
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

/// The ICMP of an address's family.
pub const fn icmp(address: IpAddr) -> IpNumber {
    match address {
        IpAddr::V4(_) => IpNumber::ICMP,
        IpAddr::V6(_) => IpNumber::IPV6_ICMP,
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

/// What an ICMP error says (RFC 792, RFC 4443).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    v4: [u8; 2],
    v6: [u8; 2],
    /// What follows the checksum: the MTU, where it is about that.
    word: u32,
}

impl IcmpError {
    /// Nobody listens there.
    pub const PORT_UNREACHABLE: Self = Self::new([3, 3], [1, 4]);
    /// Nobody is there.
    pub const HOST_UNREACHABLE: Self = Self::new([3, 1], [1, 3]);
    /// It may not go on.
    pub const PROHIBITED: Self = Self::new([3, 13], [1, 1]);
    /// The receiver has no such protocol: it does not know the next header.
    pub const PROTOCOL_UNREACHABLE: Self = Self::new([3, 2], [4, 1]);
    /// The hop limit ran out.
    pub const TIME_EXCEEDED: Self = Self::new([11, 0], [3, 0]);
    /// There is a better way; no error, though it quotes a packet in IPv4.
    pub const REDIRECT: Self = Self::new([5, 1], [137, 0]);

    const fn new(v4: [u8; 2], v6: [u8; 2]) -> Self {
        Self { v4, v6, word: 0 }
    }

    /// Too big for a way of this MTU (RFC 1191, RFC 8201): "fragmentation needed" of IPv4.
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self { word: mtu as u32, ..Self::new([3, 4], [2, 0]) }
    }

    /// Type and code in the family of an address.
    pub const fn kind_and_code(self, address: IpAddr) -> [u8; 2] {
        match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// The fragment header of an IPv6 packet (RFC 8200 section 4.5): etherparse 0.19 has offset and flag at other places.
pub fn fragment_header(next: IpNumber, offset: usize, more: bool, id: u32) -> [u8; 8] {
    let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
    let [a, b, c, d] = id.to_be_bytes();
    [next.0, 0, high, low, a, b, c, d]
}

fn v4_offset(bytes: usize) -> IpFragOffset {
    IpFragOffset::try_new((bytes / 8) as u16).expect("an offset has 13 bits")
}

/// A frame with a packet in fragments of `size` bytes of payload, a multiple of eight, in their order.
///
/// # Panics
/// When it holds no IP packet without extensions.
pub fn fragmented(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (headers, payload) = IpHeaders::from_slice(&frame[ETHERNET..]).expect("an IP packet");
    let parts: Vec<_> = payload.payload.chunks(size).collect();
    let fragment = |(number, part): (usize, &&[u8])| {
        let (offset, more) = (number * size, number + 1 < parts.len());
        let mut headers = headers.clone();
        let mut part = part.to_vec();
        match &mut headers {
            IpHeaders::Ipv4(header, _) => {
                (header.identification, header.dont_fragment) = (id, false);
                (header.more_fragments, header.fragment_offset) = (more, v4_offset(offset));
            }
            IpHeaders::Ipv6(header, _) => {
                let next = std::mem::replace(&mut header.next_header, IpNumber::IPV6_FRAGMENTATION_HEADER);
                part.splice(..0, fragment_header(next, offset, more, id.into()));
            }
        }
        with_payload(frame, headers, &part)
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// A frame with another IP packet.
///
/// # Panics
/// When the payload does not fit.
pub fn with_payload(frame: &[u8], mut headers: IpHeaders, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..ETHERNET].to_vec();
    match &mut headers {
        IpHeaders::Ipv4(header, _) => {
            header.set_payload_len(payload.len()).expect("the payload fits");
            header.header_checksum = header.calc_header_checksum();
            bytes.extend(header.to_bytes());
        }
        IpHeaders::Ipv6(header, _) => {
            header.set_payload_length(payload.len()).expect("the payload fits");
            bytes.extend(header.to_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// A UDP datagram as it was read from the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source address and port.
    pub from: SocketAddrV4,
    /// Destination address and port.
    pub to: SocketAddrV4,
    /// Checksum as it stands in the header.
    pub checksum: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Reads a frame; nothing when it holds no UDP over IPv4.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination) = ipv4_addresses(frame)?;
        match packet.transport? {
            TransportSlice::Udp(udp) => Some(Self {
                from: SocketAddrV4::new(source, udp.source_port()),
                to: SocketAddrV4::new(destination, udp.destination_port()),
                checksum: udp.checksum(),
                payload: udp.payload().to_vec(),
            }),
            _ => None,
        }
    }
}

/// Source and destination address of a frame that holds IPv4.
pub fn ipv4_addresses(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let net = packet.net?;
    let ip = net.ipv4_ref()?.header();
    Some((ip.source_addr(), ip.destination_addr()))
}

/// Destination port and the flags SYN and RST of a frame that holds TCP over IPv4.
pub fn tcp_flags(frame: &[u8]) -> Option<(u16, bool, bool)> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some((tcp.destination_port(), tcp.syn(), tcp.rst())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Ethernet = Ethernet { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 5000);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 53);

    #[test]
    fn a_datagram_reads_back_as_it_was_built() {
        let read = Datagram::parse(&LINK.udp(A, B, b"hello")).expect("UDP");
        assert_eq!((read.from, read.to, read.payload.as_slice()), (A, B, b"hello".as_slice()));
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
