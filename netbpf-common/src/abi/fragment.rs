//! Fragments: only the first has the ports, the others are told by what was remembered of it.

use bytemuck::{Pod, Zeroable};

use super::Scope;
use crate::wire::{Be32, Ports};

/// What all fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5), and from which side
/// they come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification; IPv4 uses the low half.
    pub id: Be32,
    /// A [`Scope`].
    pub scope: u16,
    /// IP protocol number.
    pub proto: u8,
    zero: u8,
}

impl<A> FragmentKey<A> {
    /// A key.
    #[inline(always)]
    pub const fn new(scope: Scope, proto: u8, src: A, dst: A, id: Be32) -> Self {
        Self { src, dst, id, scope: scope as u16, proto, zero: 0 }
    }
}

/// What is remembered of a first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Fragment {
    /// When it came, in jiffies.
    pub seen: u64,
    /// Later fragments that came before it and are held.
    pub held: u64,
    /// Its ports, as a flow's key has them.
    pub ports: Ports,
    /// Where the next fragment may begin: bytes of its payload.
    pub end: u16,
    /// 1 if it has come, 0 as long as others are held for it.
    pub has_come: u16,
}

/// Most later fragments of one packet that are held until its first one comes: those of 64 KiB over Ethernet.
pub const HELD_FRAGMENTS: u32 = 44;

/// Key of a fragment that is held: of which packet, and its place in the order in which they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct HeldKey<A> {
    /// The packet.
    pub packet: FragmentKey<A>,
    /// The place.
    pub place: u32,
}

/// Longest frame that is held, in bytes.
pub const HELD_LEN: usize = 2040;

/// A frame that is held.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct HeldFrame {
    /// Its length in bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
    /// The frame.
    pub bytes: [u8; HELD_LEN],
}

/// Seconds for which the fragments of a packet are waited for, as `net.ipv4.ipfrag_time` has it by default.
pub const FRAGMENT_SECONDS: u32 = 30;
