//! What of a transport header identifies a flow, and where its checksum lies.

use bytemuck::{Pod, Zeroable};

use super::{Be16, Echo, Tcp};

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

/// The transport part of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4 {
    /// TCP with its control bits.
    Tcp(Ports, u8),
    /// UDP.
    Udp(Ports),
    /// SCTP: ports that stay as they are, since its CRC32c is out of reach.
    Sctp(Ports),
    /// An echo with its identifier.
    Echo(Echo, Be16),
    /// An ICMP message that opens no flow: an error, a router discovery, ...
    Icmp,
    /// A protocol without ports, translated by address alone.
    Other,
}

impl L4 {
    /// The ports of the flow's key: an echo has its identifier at the asking side.
    #[inline(always)]
    pub fn ports(&self) -> Ports {
        match *self {
            Self::Tcp(ports, _) | Self::Udp(ports) | Self::Sctp(ports) => ports,
            Self::Echo(Echo::Request, id) => Ports { sport: id, dport: Be16::ZERO },
            Self::Echo(Echo::Reply, id) => Ports { sport: Be16::ZERO, dport: id },
            Self::Icmp | Self::Other => Ports::default(),
        }
    }

    /// TCP control bits; none for other protocols.
    #[inline(always)]
    pub fn tcp_flags(&self) -> u8 {
        match *self {
            Self::Tcp(_, flags) => flags,
            _ => 0,
        }
    }

    /// Whether a translation may choose another port.
    #[inline(always)]
    pub fn has_free_ports(&self) -> bool {
        matches!(self, Self::Tcp(..) | Self::Udp(_) | Self::Echo(..))
    }

    /// Where ports lie (offset from the transport header) and which of the two: an echo has only
    /// its identifier.
    #[inline(always)]
    pub fn checksum(&self) -> Option<Checksum> {
        match self {
            Self::Tcp(..) => Some(Checksum { at: 16, pseudo_header: true, optional: false }),
            Self::Udp(_) => Some(Checksum { at: 6, pseudo_header: true, optional: true }),
            Self::Echo(..) => Some(Checksum { at: 2, pseudo_header: false, optional: false }),
            Self::Sctp(_) | Self::Icmp | Self::Other => None,
        }
    }

    /// Bytes of the transport header that come once per segment, for the size of GSO segments.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        match self {
            Self::Tcp(..) => Tcp::LEN,
            _ => 8,
        }
    }
}
