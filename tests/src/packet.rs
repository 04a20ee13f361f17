//! Ethernet frames as bytes: the right ones and the wrong ones.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber,
    Ipv4Extensions, Ipv4Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice, VlanId,
};
use netbpf_common::wire::tcp_flags;

/// A MAC address.
pub type Mac = [u8; 6];

/// The MAC address of everybody.
pub const BROADCAST: Mac = [0xff; 6];

const TTL: u8 = 64;

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

    /// A UDP datagram.
    pub fn udp(self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let ip = self.builder().ipv4(from.ip().octets(), to.ip().octets(), TTL);
        let builder = ip.udp(from.port(), to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A UDP datagram without checksum.
    pub fn udp_without_checksum(self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.udp(from, to, payload);
        // The checksum is the last field of the UDP header (RFC 768).
        let end = frame.len() - payload.len();
        frame[end - 2..end].fill(0);
        frame
    }

    /// A UDP datagram in a frame with an 802.1Q tag.
    pub fn tagged_udp(self, vlan: u16, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let tag = VlanId::try_new(vlan).expect("a VLAN id has 12 bits");
        let ip = self.builder().single_vlan(tag).ipv4(from.ip().octets(), to.ip().octets(), TTL);
        let builder = ip.udp(from.port(), to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A TCP SYN.
    pub fn syn(self, from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
        let ip = self.builder().ipv4(from.ip().octets(), to.ip().octets(), TTL);
        let builder = ip.tcp(from.port(), to.port(), sequence, 64_240).syn();
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write(&mut frame, &[]).expect("a Vec takes all");
        frame
    }

    /// A TCP segment in the middle of a connection.
    pub fn tcp_ack(self, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let ip = self.builder().ipv4(from.ip().octets(), to.ip().octets(), TTL);
        let builder = ip.tcp(from.port(), to.port(), 1, 64_240).ack(1);
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write(&mut frame, &[]).expect("a Vec takes all");
        frame
    }

    /// A TCP segment with any control bits, of a connection in which both sides began at the same number and all that was
    /// said is acknowledged.
    pub fn segment(self, from: SocketAddrV4, to: SocketAddrV4, flags: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let sequence = if flags & tcp_flags::SYN == 0 { AFTER_SYN } else { AFTER_SYN - 1 };
        let mut header = TcpHeader::new(from.port(), to.port(), sequence, WINDOW);
        header.acknowledgment_number = AFTER_SYN;
        self.tcp(from, to, flags, header, ttl, payload)
    }

    /// A TCP segment with any control bits, sequence number and acknowledgment number.
    pub fn numbered(self, from: SocketAddrV4, to: SocketAddrV4, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
        let mut header = TcpHeader::new(from.port(), to.port(), seq, WINDOW);
        header.acknowledgment_number = ack;
        self.tcp(from, to, flags, header, TTL, &[])
    }

    /// A SYN with options as they lie in the header.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn syn_with_options(self, from: SocketAddrV4, to: SocketAddrV4, ttl: u8, options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(from.port(), to.port(), AFTER_SYN - 1, WINDOW);
        header.set_options_raw(options).expect("at most 40 bytes");
        self.tcp(from, to, tcp_flags::SYN, header, ttl, &[])
    }

    fn tcp(
        self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        flags: u8,
        mut header: TcpHeader,
        ttl: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let ip = self.builder().ipv4(from.ip().octets(), to.ip().octets(), ttl);
        (header.fin, header.syn) = (flags & tcp_flags::FIN != 0, flags & tcp_flags::SYN != 0);
        (header.rst, header.ack) = (flags & tcp_flags::RST != 0, flags & tcp_flags::ACK != 0);
        let builder = ip.tcp_header(header);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// A UDP datagram with any time to live.
    pub fn datagram(self, from: SocketAddrV4, to: SocketAddrV4, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let builder = self.builder().ipv4(from.ip().octets(), to.ip().octets(), ttl).udp(from.port(), to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).expect("a Vec takes all, and the payload fits");
        frame
    }

    /// An ICMP echo: a request, or else a reply.
    pub fn echo(self, from: Ipv4Addr, to: Ipv4Addr, request: bool, id: u16, ttl: u8) -> Vec<u8> {
        let ip = self.builder().ipv4(from.octets(), to.octets(), ttl);
        let builder = if request { ip.icmpv4_echo_request(id, 1) } else { ip.icmpv4_echo_reply(id, 1) };
        let mut frame = Vec::new();
        builder.write(&mut frame, b"ping").expect("a Vec takes all");
        frame
    }

    /// A packet of any IP protocol.
    pub fn protocol(self, number: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header::new(0, TTL, IpNumber(number), from.octets(), to.octets());
        self.ip(header.expect("an empty payload fits"), payload)
    }

    /// An ICMP error that quotes the beginning of an IP packet; `mtu` is that of "fragmentation needed".
    pub fn icmp_error(self, from: Ipv4Addr, to: Ipv4Addr, ttl: u8, what: IcmpError, quote: &[u8]) -> Vec<u8> {
        let IcmpError { kind, code, mtu } = what;
        let mut message = vec![kind, code, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quote);
        let checksum = Sum16BitWords::new().add_slice(&message).ones_complement();
        message[2..4].copy_from_slice(&checksum.to_ne_bytes());
        let mut header = Ipv4Header::new(message.len() as u16, ttl, IpNumber::ICMP, from.octets(), to.octets())
            .expect("it is short");
        header.dont_fragment = false;
        header.header_checksum = header.calc_header_checksum();
        [&self.to[..], &self.from, &[8, 0], &header.to_bytes(), &message].concat()
    }

    /// A middle fragment of a UDP datagram.
    pub fn fragment(self, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header::new(0, TTL, IpNumber::UDP, from.octets(), to.octets());
        let mut header = header.expect("an empty payload fits");
        (header.dont_fragment, header.more_fragments) = (false, true);
        header.fragment_offset = IpFragOffset::try_new(185).expect("an offset has 13 bits");
        self.ip(header, payload)
    }

    fn ip(self, header: Ipv4Header, payload: &[u8]) -> Vec<u8> {
        let protocol = header.protocol;
        let builder = self.builder().ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()));
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

/// What an ICMP error says (RFC 792).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Next-hop MTU, of "fragmentation needed" (RFC 1191).
    pub mtu: u16,
}

impl IcmpError {
    /// Nobody listens there.
    pub const PORT_UNREACHABLE: Self = Self { kind: 3, code: 3, mtu: 0 };
    /// The hop limit ran out.
    pub const TIME_EXCEEDED: Self = Self { kind: 11, code: 0, mtu: 0 };

    /// Too big for a way of this MTU.
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self { kind: 3, code: 4, mtu }
    }
}

/// A frame with an IPv4 packet in fragments of `size` bytes of payload, a multiple of eight, in their order.
///
/// # Panics
/// When it is no such frame.
pub fn fragmented(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    const ETHERNET: usize = 14;
    let (header, payload) = Ipv4Header::from_slice(&frame[ETHERNET..]).expect("an IPv4 packet");
    let payload = &payload[..usize::from(header.total_len) - header.header_len()];
    let parts: Vec<_> = payload.chunks(size).collect();
    let fragment = |(number, part): (usize, &&[u8])| {
        let mut header = header.clone();
        header.identification = id;
        header.dont_fragment = false;
        header.more_fragments = number + 1 < parts.len();
        header.fragment_offset = IpFragOffset::try_new((number * size / 8) as u16).expect("an offset has 13 bits");
        header.total_len = (header.header_len() + part.len()) as u16;
        header.header_checksum = header.calc_header_checksum();
        [&frame[..ETHERNET], &header.to_bytes(), part].concat()
    };
    parts.iter().enumerate().map(fragment).collect()
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
