//! Ethernet II (IEEE 802.3 clause 3).

use bytemuck::{Pod, Zeroable};

use super::{Be16, Mac};

/// The frame header: 14 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// EtherType of what follows.
    pub ethertype: Be16,
}

impl Ethernet {
    /// Length in bytes.
    pub const LEN: u32 = 14;
    /// EtherType of IPv4 (RFC 894).
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// EtherType of ARP (RFC 826).
    pub const ARP: Be16 = Be16::new(0x0806);
    /// EtherType of IPv6 (RFC 2464).
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// EtherType of an 802.1Q tag.
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// EtherType of an 802.1ad service tag.
    pub const SERVICE_VLAN: Be16 = Be16::new(0x88a8);

    /// Whether a tag stands where the EtherType should.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        self.ethertype == Self::VLAN || self.ethertype == Self::SERVICE_VLAN
    }
}
