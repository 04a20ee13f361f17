//! What of a transport header identifies a flow, and where its checksum lies.

use bytemuck::{Pod, Zeroable};

use super::{Be16, checksum::Delta, tcp_flags};

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP, whose checksum covers addresses.
    pub const DCCP: u8 = 33;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite, whose checksum covers addresses.
    pub const UDP_LITE: u8 = 136;
}

/// The first four bytes of TCP, UDP and SCTP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
}

/// A checksum that a rewrite must follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    /// Offset from the start of the transport header, in bytes.
    pub at: u32,
    /// Whether it covers a pseudo header with the addresses.
    pub pseudo_header: bool,
    /// Whether zero means "none" (UDP over IPv4, RFC 768).
    pub optional: bool,
}

impl Checksum {
    /// What of a whole checksum becomes by a change of addresses and of ports (RFC 1624).
    #[inline(always)]
    pub fn follow(&self, sum: Be16, addresses: Delta, ports: Delta) -> Be16 {
        if self.optional && sum == Be16::ZERO {
            return sum;
        }
        let changed = if self.pseudo_header { addresses.and(ports).apply(sum) } else { ports.apply(sum) };
        if self.optional && changed == Be16::ZERO { Be16::from_raw(0xffff) } else { changed }
    }
}

/// What a transport header is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: ports that stay as they are, since its CRC32c is out of reach.
    Sctp,
    /// An ICMP echo or timestamp request.
    EchoRequest,
    /// An ICMP echo or timestamp reply.
    EchoReply,
    /// An ICMP error: about a packet of a flow, which it quotes.
    Error,
    /// Any other ICMP message: a redirect, a router discovery, ...
    Icmp,
    /// An ICMPv6 message for the link alone: neighbour discovery (RFC 4861), multicast listeners (RFC 3810).
    Link,
    /// A fragment that is not the first; the ports are those of the first.
    Fragment,
    /// A protocol without ports, translated by address alone.
    Other,
}

/// The transport part of a packet. A struct, not an enum: the verifier does not follow the copy of
/// a payload that a variant leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L4 {
    /// Of what.
    pub kind: Kind,
    /// TCP control bits; none for other protocols.
    pub tcp_flags: u8,
    /// Bytes of the header that come once per segment, options included: for the size of GSO segments.
    pub header_len: u16,
    /// The ports of the flow's key: an echo has its identifier at the asking side (RFC 5508
    /// section 3.1), a protocol without ports has zeros.
    pub ports: Ports,
    /// TCP sequence number, in host order.
    pub seq: u32,
    /// TCP acknowledgment number, in host order.
    pub ack: u32,
    /// TCP window as it stands in the header.
    pub window: u16,
    /// Shift count of the windows, in a SYN; 0 if it has no such option.
    pub scale: u8,
    /// Where a SYN has its maximum segment size, in bytes from the start of the header; 0 for nowhere.
    pub mss_at: u8,
}

impl L4 {
    /// A transport without what TCP alone has.
    #[inline(always)]
    pub const fn new(kind: Kind, ports: Ports) -> Self {
        Self { kind, tcp_flags: 0, header_len: 8, ports, seq: 0, ack: 0, window: 0, scale: 0, mss_at: 0 }
    }

    /// Whether it is a segment that begins a connection (RFC 9293 section 3.5).
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
    }

    /// Whether a translation may choose another port.
    #[inline(always)]
    pub fn has_free_ports(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp | Kind::EchoRequest | Kind::EchoReply)
    }

    /// The checksum that follows a change of addresses or ports; that of ICMP covers a pseudo header in one family alone.
    #[inline(always)]
    pub fn checksum(&self, icmp_has_pseudo_header: bool) -> Option<Checksum> {
        match self.kind {
            Kind::Tcp => Some(Checksum { at: 16, pseudo_header: true, optional: false }),
            Kind::Udp => Some(Checksum { at: 6, pseudo_header: true, optional: true }),
            Kind::EchoRequest | Kind::EchoReply => {
                Some(Checksum { at: 2, pseudo_header: icmp_has_pseudo_header, optional: false })
            }
            Kind::Sctp | Kind::Error | Kind::Icmp | Kind::Link | Kind::Fragment | Kind::Other => None,
        }
    }
}
