//! Addresses of both families in network byte order.

use core::fmt;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

use super::{Be32, checksum};

/// What the paths ask of an address, whatever its family.
pub trait Address: Pod + Eq + Hash + Default + fmt::Debug {
    /// All bits set.
    const ONES: Self;

    /// The bits that both have.
    fn and(self, mask: Self) -> Self;

    /// The bits that either has.
    fn or(self, mask: Self) -> Self;

    /// Partial one's complement sum of the address's words, see [`checksum::Sum`].
    fn sum(self) -> checksum::Sum;

    /// The last 32 bits, in host order.
    fn low(self) -> u32;

    /// Four words as the kernel's `bpf_fib_lookup` and `bpf_redir_neigh` take them, the first used
    /// first.
    fn words(self) -> [Be32; 4];

    /// Whether this can be the address of one machine on a wire: not unspecified, loopback,
    /// multicast, broadcast or reserved (RFC 6890).
    fn is_unicast(self) -> bool;

    /// Whether this stands for many machines: multicast (RFC 1112, RFC 4291 section 2.7) or limited broadcast (RFC 919).
    fn is_group(self) -> bool;

    /// Whether this is a loopback address (RFC 6890, RFC 4291 section 2.5.3).
    fn is_loopback(self) -> bool;
}

/// An IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct V4Addr(pub Be32);

/// An IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct V6Addr(pub [Be32; 4]);

impl Address for V4Addr {
    const ONES: Self = Self(Be32::from_raw(u32::MAX));

    #[inline(always)]
    fn or(self, mask: Self) -> Self {
        Self(Be32::from_raw(self.0.raw() | mask.0.raw()))
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        self.low() >> 28 == 0xe || self == Self::ONES
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        Self(Be32::from_raw(self.0.raw() & mask.0.raw()))
    }

    #[inline(always)]
    fn sum(self) -> checksum::Sum {
        checksum::Sum::ZERO.add32(self.0)
    }

    #[inline(always)]
    fn low(self) -> u32 {
        self.0.get()
    }

    #[inline(always)]
    fn words(self) -> [Be32; 4] {
        [self.0, Be32::ZERO, Be32::ZERO, Be32::ZERO]
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        let first = self.low() >> 24;
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.low() >> 24 == 127
    }
}

impl Address for V6Addr {
    const ONES: Self = Self([Be32::from_raw(u32::MAX); 4]);

    #[inline(always)]
    fn or(self, mask: Self) -> Self {
        let (a, m) = (self.0, mask.0);
        let word = |i: usize| Be32::from_raw(a[i].raw() | m[i].raw());
        Self([word(0), word(1), word(2), word(3)])
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        self.0[0].get() >> 24 == 0xff
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        let (a, m) = (self.0, mask.0);
        let word = |i: usize| Be32::from_raw(a[i].raw() & m[i].raw());
        Self([word(0), word(1), word(2), word(3)])
    }

    #[inline(always)]
    fn sum(self) -> checksum::Sum {
        let a = self.0;
        checksum::Sum::ZERO.add32(a[0]).add32(a[1]).add32(a[2]).add32(a[3])
    }

    #[inline(always)]
    fn low(self) -> u32 {
        self.0[3].get()
    }

    #[inline(always)]
    fn words(self) -> [Be32; 4] {
        self.0
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        let [a, b, c, _] = self.0;
        let is_special = [a, b, c] == [Be32::ZERO; 3] && self.low() <= 1;
        !self.is_group() && !is_special
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] == Be32::ZERO && self.0[1] == Be32::ZERO && self.0[2] == Be32::ZERO && self.low() == 1
    }
}

impl From<Ipv4Addr> for V4Addr {
    fn from(a: Ipv4Addr) -> Self {
        Self(Be32::new(a.to_bits()))
    }
}

impl From<V4Addr> for Ipv4Addr {
    fn from(a: V4Addr) -> Self {
        Self::from_bits(a.0.get())
    }
}

impl From<Ipv6Addr> for V6Addr {
    fn from(a: Ipv6Addr) -> Self {
        let bits = a.to_bits();
        let word = |i: u32| Be32::new((bits >> (96 - 32 * i)) as u32);
        Self([word(0), word(1), word(2), word(3)])
    }
}

impl From<V6Addr> for Ipv6Addr {
    fn from(a: V6Addr) -> Self {
        Self::from_bits(a.0.iter().fold(0, |bits, w| bits << 32 | u128::from(w.get())))
    }
}

impl From<V4Addr> for IpAddr {
    fn from(a: V4Addr) -> Self {
        Self::V4(a.into())
    }
}

impl From<V6Addr> for IpAddr {
    fn from(a: V6Addr) -> Self {
        Self::V6(a.into())
    }
}

impl fmt::Debug for V4Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for V6Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Ipv6Addr::from(*self), f)
    }
}
