//! ARP for IPv4 over Ethernet (RFC 826).

use bytemuck::{Pod, Zeroable};

use super::{Be16, Ethernet, Mac, V4Addr};

/// An address as ARP has it, at an offset that is not a multiple of four.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(transparent)]
struct Halves([Be16; 2]);

impl Halves {
    #[inline(always)]
    fn get(self) -> V4Addr {
        V4Addr(super::Be32::new(u32::from(self.0[0].get()) << 16 | u32::from(self.0[1].get())))
    }
}

/// The message: 28 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Arp {
    hardware: Be16,
    protocol: Be16,
    lengths: Be16,
    operation: Be16,
    sender_mac: Mac,
    sender: Halves,
    target_mac: Mac,
    target: Halves,
}

impl Arp {
    const ETHERNET: Be16 = Be16::new(1);
    /// Hardware addresses of 6 bytes, protocol addresses of 4.
    const LENGTHS: Be16 = Be16::new(0x0604);
    const REQUEST: Be16 = Be16::new(1);
    const REPLY: Be16 = Be16::new(2);

    /// Whether this is about IPv4 over Ethernet.
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        self.hardware == Self::ETHERNET && self.protocol == Ethernet::IPV4 && self.lengths == Self::LENGTHS
    }

    /// Whether somebody asks.
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        self.operation == Self::REQUEST
    }

    /// Who speaks, by MAC address.
    #[inline(always)]
    pub fn sender_mac(&self) -> Mac {
        self.sender_mac
    }

    /// Who speaks; unspecified in a probe (RFC 5227 section 1.1).
    #[inline(always)]
    pub fn sender(&self) -> V4Addr {
        self.sender.get()
    }

    /// Who is asked for.
    #[inline(always)]
    pub fn target(&self) -> V4Addr {
        self.target.get()
    }

    /// The answer to this request: the target is at `mac`.
    #[inline(always)]
    #[must_use]
    pub fn answer(&self, mac: Mac) -> Self {
        Self {
            operation: Self::REPLY,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
            ..*self
        }
    }
}
