//! IPv4 (RFC 791).

use bytemuck::{Pod, Zeroable};

use super::{Address, Be16, V4Addr, checksum::Sum};

/// The header without options: 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high four bits) and header length in words of four bytes.
    pub version_ihl: u8,
    /// Type of service (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Length of header and payload, in bytes.
    pub total_len: Be16,
    /// Identification of fragments.
    pub id: Be16,
    /// Flags and fragment offset.
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: Be16,
    /// Source address.
    pub src: V4Addr,
    /// Destination address.
    pub dst: V4Addr,
}

impl Ipv4 {
    /// Length in bytes, without options.
    pub const LEN: u32 = 20;
    /// Every link takes packets of this length, in bytes (section 3.2).
    pub const LEAST_MTU: u16 = 68;

    /// The fragment offset, in words of eight bytes.
    const OFFSET: u16 = 0x1fff;
    /// "More fragments".
    const MORE: u16 = 0x2000;

    /// A header without options and with a valid checksum.
    #[inline(always)]
    pub fn new(protocol: u8, total_len: u16, src: V4Addr, dst: V4Addr) -> Self {
        let mut header =
            Self { version_ihl: 0x45, total_len: Be16::new(total_len), ttl: 64, protocol, src, dst, ..Self::default() };
        header.checksum = header.sum().checksum();
        header
    }

    /// The same with another type of service and time to live.
    #[inline(always)]
    #[must_use]
    pub fn with(self, tos: u8, ttl: u8) -> Self {
        let mut header = Self { tos, ttl, checksum: Be16::ZERO, ..self };
        header.checksum = header.sum().checksum();
        header
    }

    /// Header length in bytes, options included: 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        u32::from(self.version_ihl & 0xf) * 4
    }

    /// Whether the header says version 4.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.version_ihl >> 4 == 4
    }

    /// Where in its packet's payload this fragment begins, in bytes; 0 for a whole packet too.
    #[inline(always)]
    pub fn offset(&self) -> u16 {
        (self.fragment.get() & Self::OFFSET) << 3
    }

    /// Whether more fragments of its packet follow.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.fragment.get() & Self::MORE != 0
    }

    /// The time to live and the protocol as the one word of the checksum they share.
    #[inline(always)]
    pub fn ttl_word(&self) -> Be16 {
        Be16::new(u16::from(self.ttl) << 8 | u16::from(self.protocol))
    }

    /// Sum of the header without options; 0xffff when folded if it is intact.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        Sum::ZERO
            .add16(Be16::new(u16::from(self.version_ihl) << 8 | u16::from(self.tos)))
            .add16(self.total_len)
            .add16(self.id)
            .add16(self.fragment)
            .add16(self.ttl_word())
            .add16(self.checksum)
            .add(self.src.sum())
            .add(self.dst.sum())
    }
}
