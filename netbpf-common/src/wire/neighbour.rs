//! Neighbour solicitation and advertisement for IPv6 over Ethernet (RFC 4861 section 4).

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32, IcmpV6, Mac, V6Addr, checksum::Sum};

/// A solicitation, without its options: 24 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Solicitation {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: Be16,
    /// Flags of an advertisement.
    pub flags: Be32,
    /// Who is asked for.
    pub target: V6Addr,
}

impl Solicitation {
    /// Length in bytes.
    pub const LEN: u32 = 24;
    /// The hop limit that shows that no router has passed it on.
    pub const HOP_LIMIT: u8 = 255;
}

/// An advertisement with the target's link-layer address: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Advertisement {
    message: Solicitation,
    option: Be16,
    mac: Mac,
}

impl Advertisement {
    /// Length in bytes.
    pub const LEN: u32 = 32;

    const ROUTER: u32 = 1 << 31;
    const SOLICITED: u32 = 1 << 30;
    const OVERRIDE: u32 = 1 << 29;
    /// Target link-layer address, of one word of eight bytes.
    const TARGET_MAC: Be16 = Be16::new(0x0201);

    /// The target is at `mac`; checksum still zero.
    #[inline(always)]
    pub fn new(target: V6Addr, mac: Mac, is_router: bool, is_solicited: bool) -> Self {
        let router = if is_router { Self::ROUTER } else { 0 };
        let solicited = if is_solicited { Self::SOLICITED } else { 0 };
        let message = Solicitation {
            kind: IcmpV6::NEIGHBOUR_ADVERTISEMENT,
            flags: Be32::new(router | solicited | Self::OVERRIDE),
            target,
            ..Solicitation::default()
        };
        Self { message, option: Self::TARGET_MAC, mac }
    }

    /// With the checksum, given the sum of the pseudo header.
    #[inline(always)]
    #[must_use]
    pub fn with_checksum(mut self, pseudo_header: Sum) -> Self {
        let Solicitation { kind, code, flags, target, .. } = self.message;
        self.message.checksum = pseudo_header
            .add16(Be16::new(u16::from(kind) << 8 | u16::from(code)))
            .add32(flags)
            .add(super::Address::sum(target))
            .add16(self.option)
            .add(self.mac.sum())
            .checksum();
        self
    }
}
