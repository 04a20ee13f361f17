//! Addresses of both families in network byte order.

use core::fmt;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32, checksum};

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

    /// Whether this has a meaning on one link alone, so that no router passes it on (RFC 4291 section 2.5.6). IPv4 has no
    /// such rule: 169.254.0.0/16 is routed where clouds have their services.
    fn stays_on_link(self) -> bool;

    /// With this as the last byte.
    #[must_use]
    fn with_last_byte(self, byte: u8) -> Self;

    /// The address of a prefix of length `mask` that stands for this one, one to one. For IPv6 no checksum changes by it
    /// (RFC 6296 section 3).
    #[must_use]
    fn moved(self, mask: Self, prefix: Self) -> Self;

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

    #[inline(always)]
    fn stays_on_link(self) -> bool {
        false
    }

    #[inline(always)]
    fn with_last_byte(self, byte: u8) -> Self {
        Self(Be32::new(self.low() & !0xff | u32::from(byte)))
    }

    #[inline(always)]
    fn moved(self, mask: Self, prefix: Self) -> Self {
        Self(Be32::from_raw(self.0.raw() & !mask.0.raw() | prefix.0.raw()))
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
        // Unspecified, loopback, and the ways to write IPv4 addresses (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5).
        let is_special = a == Be32::ZERO && b == Be32::ZERO && (c == Be32::ZERO || c == Be32::new(0xffff));
        !self.is_group() && !is_special
    }

    #[inline(always)]
    fn stays_on_link(self) -> bool {
        self.0[0].get() >> 22 == 0xfe80 >> 6
    }

    #[inline(always)]
    fn with_last_byte(self, byte: u8) -> Self {
        let [a, b, c, _] = self.0;
        Self([a, b, c, Be32::new(self.low() & !0xff | u32::from(byte))])
    }

    #[inline(always)]
    fn moved(self, mask: Self, prefix: Self) -> Self {
        let (own, mask, to) = (self.0, mask.0, prefix.0);
        let word = |i: usize| Be32::from_raw(own[i].raw() & !mask[i].raw() | to[i].raw());
        let moved = Self([word(0), word(1), word(2), word(3)]);
        moved.neutral(self, mask[1].get() as u16 != 0 || mask[2] != Be32::ZERO)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] == Be32::ZERO && self.0[1] == Be32::ZERO && self.0[2] == Be32::ZERO && self.low() == 1
    }
}

impl V6Addr {
    /// Every node of a link, ff02::1 (RFC 4291 section 2.7.1).
    pub const ALL_NODES: Self = Self([Be32::new(0xff02_0000), Be32::ZERO, Be32::ZERO, Be32::new(1)]);

    /// The link-local address of an interface with this MAC address (RFC 4291 section 2.5.6 and appendix A).
    pub const fn link_local(mac: super::Mac) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let (first, last) = (u32::from_be_bytes([a ^ 2, b, c, 0xff]), u32::from_be_bytes([0xfe, d, e, f]));
        Self([Be32::new(0xfe80_0000), Be32::ZERO, Be32::new(first), Be32::new(last)])
    }

    /// This address with the one's complement sum of another, by a change of one word: the fourth of eight, which is part of
    /// the subnet, or with a longer prefix the first of the interface identifier that is not 0xffff (RFC 6296 section 3.4,
    /// 3.5).
    #[inline(always)]
    fn neutral(self, other: Self, is_long: bool) -> Self {
        let change = other.sum().delta_from(self.sum());
        let [a, b, mut c, mut d] = self.0;
        // A word and what becomes of it; 0xffff and zero are the same number, and the former is never made.
        let adjusted =
            |word: u16| match Be16::from_raw(!change.apply(Be16::from_raw(!Be16::new(word).raw())).raw()).get() {
                0xffff => 0,
                sum => sum,
            };
        let (high, low) = (|w: Be32| (w.get() >> 16) as u16, |w: Be32| w.get() as u16);
        let join = |high: u16, low: u16| Be32::new(u32::from(high) << 16 | u32::from(low));
        if !is_long {
            return Self([a, join(high(b), adjusted(low(b))), c, d]);
        }
        if high(c) != 0xffff {
            c = join(adjusted(high(c)), low(c));
        } else if low(c) != 0xffff {
            c = join(high(c), adjusted(low(c)));
        } else if high(d) != 0xffff {
            d = join(adjusted(high(d)), low(d));
        } else {
            d = join(high(d), adjusted(low(d)));
        }
        Self([a, b, c, d])
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
