//! What of a transport header identifies a flow, and where its checksum lies.

use bytemuck::{Pod, Zeroable};

use super::Be16;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
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

/// What a transport header is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: ports that stay as they are, since its CRC32c is out of reach.
    Sctp,
    /// An ICMP echo request.
    EchoRequest,
    /// An ICMP echo reply.
    EchoReply,
    /// An ICMP message that opens no flow: an error, a router discovery, ...
    Icmp,
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
}

impl L4 {
    /// A transport without what TCP alone has: control bits and options.
    #[inline(always)]
    pub const fn new(kind: Kind, ports: Ports) -> Self {
        Self { kind, tcp_flags: 0, header_len: 8, ports }
    }

    /// Whether a translation may choose another port.
    #[inline(always)]
    pub fn has_free_ports(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp | Kind::EchoRequest | Kind::EchoReply)
    }

    /// The checksum that follows a change of addresses or ports.
    #[inline(always)]
    pub fn checksum(&self) -> Option<Checksum> {
        match self.kind {
            Kind::Tcp => Some(Checksum { at: 16, pseudo_header: true, optional: false }),
            Kind::Udp => Some(Checksum { at: 6, pseudo_header: true, optional: true }),
            Kind::EchoRequest | Kind::EchoReply => Some(Checksum { at: 2, pseudo_header: false, optional: false }),
            Kind::Sctp | Kind::Icmp | Kind::Other => None,
        }
    }
}
