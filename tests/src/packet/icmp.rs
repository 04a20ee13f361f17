//! ICMP of both families: echoes and errors.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpHeaders, IpNumber};

use super::{Ethernet, header, pseudo_header};

impl Ethernet {
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
        let mut header = header(from, to, ttl, icmp(from));
        if let IpHeaders::Ipv4(header, _) = &mut header {
            // An error may be fragmented: nobody would be told of its own size.
            header.dont_fragment = false;
        }
        self.message(header, from, to, message)
    }

    /// A message of ICMP for IPv6: its type, and what follows the checksum.
    pub fn icmp_v6(self, from: IpAddr, to: IpAddr, ttl: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(body);
        self.message(header(from, to, ttl, IpNumber::IPV6_ICMP), from, to, message)
    }

    fn message(self, header: IpHeaders, from: IpAddr, to: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
        let protocol = icmp(from);
        let sum = match from {
            IpAddr::V4(_) => Sum16BitWords::new(),
            IpAddr::V6(_) => pseudo_header(from, to, protocol, message.len()),
        };
        let checksum = sum.add_slice(&message).ones_complement();
        message[2..4].copy_from_slice(&checksum.to_ne_bytes());
        self.other(header, protocol, &message)
    }
}

/// The ICMP of an address's family.
pub const fn icmp(address: IpAddr) -> IpNumber {
    match address {
        IpAddr::V4(_) => IpNumber::ICMP,
        IpAddr::V6(_) => IpNumber::IPV6_ICMP,
    }
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
    /// A field of the header says what cannot be.
    pub const PARAMETER_PROBLEM: Self = Self::new([12, 0], [4, 0]);
    /// There is a better way; no error, though it quotes a packet in IPv4.
    pub const REDIRECT: Self = Self::new([5, 1], [137, 0]);

    const fn new(v4: [u8; 2], v6: [u8; 2]) -> Self {
        Self { v4, v6, word: 0 }
    }

    /// Too big for a way of this MTU (RFC 1191, RFC 8201): "fragmentation needed" of IPv4.
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self { word: mtu as u32, ..Self::new([3, 4], [2, 0]) }
    }

    /// The same about a field at this place of the quoted packet (RFC 4443 section 3.4).
    #[must_use]
    pub const fn about_field(self, at: u32) -> Self {
        Self { word: at, ..self }
    }

    /// Type and code in the family of an address.
    pub const fn kind_and_code(self, address: IpAddr) -> [u8; 2] {
        match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}
