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

    /// Becomes the address of a prefix of length `mask` that stands for this one, one to one. For IPv6 no checksum changes by
    /// it (RFC 6296 section 3).
    fn move_into(&mut self, mask: &Self, prefix: &Self);

    /// Whether this is a loopback address (RFC 6890, RFC 4291 section 2.5.3).
    fn is_loopback(self) -> bool;
}

/// An IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct V4Addr(pub Be32);

/// An IPv6 address.
#[derive(Clone, Copy, Eq, Hash, Default, Pod, Zeroable)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal is what has equal words, by both")]
#[repr(transparent)]
pub struct V6Addr(pub [Be32; 4]);

/// Whether all words of both are equal. BPF has no `memcmp`, which the compiler makes of a comparison of arrays: it would go
/// byte by byte.
#[inline(always)]
fn equal<const N: usize>(ours: &[Be32], theirs: &[Be32; N]) -> bool {
    let mut difference = 0;
    for i in 0..N {
        difference |= ours[i].raw() ^ theirs[i].raw();
    }
    difference == 0
}

impl PartialEq for V6Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

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
    fn move_into(&mut self, mask: &Self, prefix: &Self) {
        self.0 = Be32::from_raw(self.0.raw() & !mask.0.raw() | prefix.0.raw());
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

    /// Not inlined: the BPF stack has no room for it in the functions that call it.
    #[inline(never)]
    fn move_into(&mut self, mask: &Self, prefix: &Self) {
        let before = self.sum();
        for i in 0..4 {
            self.0[i] = Be32::from_raw(self.0[i].raw() & !mask.0[i].raw() | prefix.0[i].raw());
        }
        let change = before.delta_from(self.sum());
        // The fourth of eight words, which is part of the subnet, or with a longer prefix the first of the interface
        // identifier that is not 0xffff (RFC 6296 sections 3.4 and 3.5).
        let high = |word: Be32| (word.get() >> 16) as u16;
        let low = |word: Be32| word.get() as u16;
        let is_long = low(mask.0[1]) != 0 || mask.0[2] != Be32::ZERO;
        let place = match (high(self.0[2]), low(self.0[2]), high(self.0[3])) {
            _ if !is_long => 3,
            (0xffff, 0xffff, 0xffff) => 7,
            (0xffff, 0xffff, _) => 6,
            (0xffff, ..) => 5,
            _ => 4,
        };
        let word = self.0[place / 2];
        let is_low = place % 2 == 1;
        let own = Be16::new(if is_low { low(word) } else { high(word) });
        // 0xffff and zero are the same number, and the former is never made.
        let sum = match !change.apply(Be16::from_raw(!own.raw())).raw() {
            0xffff => 0,
            sum => u32::from(Be16::from_raw(sum).get()),
        };
        let adjusted = if is_low { word.get() & 0xffff_0000 | sum } else { word.get() & 0xffff | sum << 16 };
        self.0[place / 2] = Be32::new(adjusted);
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] == Be32::ZERO && self.0[1] == Be32::ZERO && self.0[2] == Be32::ZERO && self.low() == 1
    }
}

impl V6Addr {
    /// Every node of a link, ff02::1 (RFC 4291 section 2.7.1).
    pub const ALL_NODES: Self = Self([Be32::new(0xff02_0000), Be32::ZERO, Be32::ZERO, Be32::new(1)]);

    /// The well-known prefix for IPv4 addresses, 64:ff9b::/96 (RFC 6052 section 2.1). Its one's complement sum is zero: a
    /// checksum over such addresses is one over the IPv4 addresses.
    const IPV4: [Be32; 3] = [Be32::new(0x0064_ff9b), Be32::ZERO, Be32::ZERO];

    /// The address that stands for an IPv4 address.
    #[inline(always)]
    pub const fn of_v4(address: V4Addr) -> Self {
        let [a, b, c] = Self::IPV4;
        Self([a, b, c, address.0])
    }

    /// The IPv4 address that this one stands for.
    #[inline(always)]
    pub fn as_v4(self) -> Option<V4Addr> {
        equal(&self.0, &Self::IPV4).then_some(V4Addr(self.0[3]))
    }

    /// The link-local address of an interface with this MAC address (RFC 4291 section 2.5.6 and appendix A).
    pub const fn link_local(mac: super::Mac) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let (first, last) = (u32::from_be_bytes([a ^ 2, b, c, 0xff]), u32::from_be_bytes([0xfe, d, e, f]));
        Self([Be32::new(0xfe80_0000), Be32::ZERO, Be32::new(first), Be32::new(last)])
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
