//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A sum is taken over 16-bit words *as they lie in memory*. One's complement addition commutes
//! with swapping the bytes of every word (RFC 1071 section 2 B), so the result, stored as it is,
//! is right on the wire whatever the machine's byte order: nothing here ever swaps.
//!
//! A change from `old` to `new` is described by a *delta*, `new + ~old`. Applied to a stored
//! checksum `c` it gives `c' = ~(~c + delta)`, equation 3 of RFC 1624. It is also what the kernel's
//! `bpf_l4_csum_replace` takes as `to` when `from` is 0 and the field size is 0.

use super::{Be16, Be32};

/// A partial one's complement sum of native words, not yet folded. Holds 2^16 additions of 32 bits
/// without loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds a 16-bit field.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, field: Be16) -> Self {
        Self(self.0 + field.raw() as u64)
    }

    /// Adds a 32-bit field.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, field: Be32) -> Self {
        Self(self.0 + field.raw() as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The same sum in no more than 2^32: the verifier sees no end of one that grows.
    #[inline(always)]
    #[must_use]
    pub const fn reduced(self) -> Self {
        Self((self.0 & 0xffff_ffff) + (self.0 >> 32))
    }

    /// Folds to 16 bits with end-around carry.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let Self(s) = self.reduced();
        let s = (s & 0xffff) + (s >> 16);
        let s = (s & 0xffff) + (s >> 16);
        let s = (s & 0xffff) + (s >> 16);
        s as u16
    }

    /// The checksum field that makes the summed data come out right: the complement.
    #[inline(always)]
    pub const fn checksum(self) -> Be16 {
        Be16::from_raw(!self.fold())
    }

    /// The delta that turns a checksum over `old` into one over `self`.
    #[inline(always)]
    pub const fn delta_from(self, old: Self) -> Delta {
        let s = self.fold() as u32 + (!old.fold()) as u32;
        Delta((s & 0xffff) + (s >> 16))
    }
}

/// The difference between two sums, `new + ~old`, see the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Delta(u32);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// As `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(Sum(self.0 as u64 + other.0 as u64).fold() as u32)
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        Sum(!checksum.raw() as u64 + self.0 as u64).checksum()
    }
}

/// The sum of the pseudo header's protocol and length (RFC 9293 section 3.1, RFC 8200 section 8.1);
/// the addresses come on top.
#[inline(always)]
pub const fn pseudo_header(proto: u8, l4_len: u16) -> Sum {
    Sum::ZERO.add16(Be16::new(proto as u16)).add16(Be16::new(l4_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285, result 0x0000.
    #[test]
    fn the_example_of_rfc_1624_comes_out_as_zero() {
        let delta = Sum::ZERO.add16(Be16::new(0x3285)).delta_from(Sum::ZERO.add16(Be16::new(0x5555)));
        assert_eq!(delta.apply(Be16::new(0xdd2f)), Be16::ZERO);
    }
}
