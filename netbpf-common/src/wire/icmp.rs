//! ICMP of both families (RFC 792, RFC 4443): echo, and the errors that the gateway makes.

use bytemuck::{Pod, Zeroable};

use super::{Be16, checksum::Sum};

/// The header of an ICMP message: 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; for IPv6 with a pseudo header.
    pub checksum: Be16,
    /// Identifier of an echo; unused in errors.
    pub id: Be16,
    /// Sequence number of an echo; next-hop MTU of "fragmentation needed" (RFC 1191 section 4), and the low half of that of
    /// "packet too big" (RFC 4443 section 3.2), and of the pointer of a "parameter problem" (section 3.4).
    pub sequence: Be16,
}

impl Icmp {
    /// Length in bytes.
    pub const LEN: u32 = 8;
    /// Offset of the checksum, in bytes.
    pub const CHECKSUM_AT: u32 = 2;
    /// Offset of the identifier, in bytes.
    pub const ID_AT: u32 = 4;

    /// Sum of the header, checksum field included.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        Sum::ZERO
            .add16(Be16::new(u16::from(self.kind) << 8 | u16::from(self.code)))
            .add16(self.checksum)
            .add16(self.id)
            .add16(self.sequence)
    }
}

/// Types and codes of ICMP for IPv4 (IANA).
#[derive(Debug)]
pub enum IcmpV4 {}

impl IcmpV4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp, and its reply: a question with an identifier, as an echo is.
    pub const TIMESTAMP: u8 = 13;
    /// See [`Self::TIMESTAMP`].
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// Code of [`Self::UNREACHABLE`]: host unreachable.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Code of [`Self::UNREACHABLE`]: port unreachable.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Code of [`Self::UNREACHABLE`]: protocol unreachable.
    pub const PROTOCOL_UNREACHABLE: u8 = 2;
    /// Code of [`Self::UNREACHABLE`]: communication with the network prohibited (RFC 1122 section 3.2.2.1).
    pub const NETWORK_PROHIBITED: u8 = 9;
    /// Code of [`Self::UNREACHABLE`]: communication with the host prohibited (RFC 1122 section 3.2.2.1).
    pub const HOST_PROHIBITED: u8 = 10;
    /// Code of [`Self::UNREACHABLE`]: communication administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const PROHIBITED: u8 = 13;
    /// Code of [`Self::UNREACHABLE`]: fragmentation needed.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
}

/// Types and codes of ICMP for IPv6 (IANA).
#[derive(Debug)]
pub enum IcmpV6 {}

impl IcmpV6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query (RFC 2710, RFC 3810).
    pub const LISTENER_QUERY: u8 = 130;
    /// Multicast listener done (RFC 2710).
    pub const LISTENER_DONE: u8 = 132;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Neighbour solicitation (RFC 4861).
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement (RFC 4861).
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect (RFC 4861).
    pub const REDIRECT: u8 = 137;
    /// Multicast listener report, version 2 (RFC 3810).
    pub const LISTENER_REPORT: u8 = 143;
    /// Code of [`Self::PARAMETER_PROBLEM`]: unrecognized next header.
    pub const UNKNOWN_NEXT_HEADER: u8 = 1;
    /// Code of [`Self::UNREACHABLE`]: no route.
    pub const NO_ROUTE: u8 = 0;
    /// Code of [`Self::UNREACHABLE`]: port unreachable.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Code of [`Self::UNREACHABLE`]: communication administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Code of [`Self::UNREACHABLE`]: address unreachable.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
}
