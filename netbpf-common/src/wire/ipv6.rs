//! IPv6 (RFC 8200).

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32, V6Addr};

/// The header: 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub first: Be32,
    /// Length of what follows the header, in bytes; extension headers count.
    pub payload_len: Be16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: V6Addr,
    /// Destination address.
    pub dst: V6Addr,
}

impl Ipv6 {
    /// Length in bytes.
    pub const LEN: u32 = 40;
    /// Every link takes packets of this length, in bytes (section 5).
    pub const LEAST_MTU: u16 = 1280;

    /// Offset of the next header, in bytes.
    pub const NEXT_HEADER_AT: u16 = 6;

    const VERSION: u32 = 6 << 28;

    /// A header without traffic class and flow label.
    #[inline(always)]
    pub fn new(next_header: u8, payload_len: u16, src: V6Addr, dst: V6Addr) -> Self {
        let (first, payload_len) = (Be32::new(Self::VERSION), Be16::new(payload_len));
        Self { first, payload_len, next_header, hop_limit: 64, src, dst }
    }

    /// Whether the header says version 6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.first.get() >> 28 == 6
    }

    /// The next header and the hop limit as the one word of a sum that they share.
    #[inline(always)]
    pub fn hop_word(&self) -> Be16 {
        Be16::new(u16::from(self.next_header) << 8 | u16::from(self.hop_limit))
    }

    /// The traffic class.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (self.first.get() >> 20) as u8
    }
}

/// The extension headers that stand between the header and the transport (section 4).
#[derive(Debug)]
pub enum Extension {}

impl Extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Destination options.
    pub const DESTINATION: u8 = 60;

    /// Whether a next header is one of them.
    #[inline(always)]
    pub const fn is(next_header: u8) -> bool {
        matches!(next_header, Self::HOP_BY_HOP | Self::ROUTING | Self::FRAGMENT | Self::DESTINATION)
    }
}

/// The beginning of every extension header; of a fragment header all (section 4.5): 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ExtensionHeader {
    /// Protocol of what follows.
    pub next_header: u8,
    /// Length in words of eight bytes, without the first; reserved in a fragment header.
    pub words: u8,
    /// Offset and "more fragments" of a fragment header; type and segments left of a routing header.
    pub offset: Be16,
    /// Identification of a fragment header.
    pub id: Be32,
}

impl ExtensionHeader {
    /// Length of a fragment header, and of any other at least, in bytes.
    pub const LEN: u32 = 8;

    /// Where in its packet's payload a fragment begins, in bytes.
    #[inline(always)]
    pub fn fragment_offset(&self) -> u16 {
        self.offset.get() & 0xfff8
    }

    /// Whether more fragments of its packet follow.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.offset.get() & 1 != 0
    }

    /// Stops that a routing header has yet to lead to.
    #[inline(always)]
    pub fn segments_left(&self) -> u8 {
        self.offset.get() as u8
    }
}
