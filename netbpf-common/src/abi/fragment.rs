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
    /// Its ports, as a flow's key has them.
    pub ports: Ports,
    /// Where the next fragment may begin: bytes of its payload.
    pub end: u16,
    /// Zero.
    pub reserved: u16,
}

/// Seconds for which the fragments of a packet are waited for, as `net.ipv4.ipfrag_time` has it by default.
pub const FRAGMENT_SECONDS: u32 = 30;
