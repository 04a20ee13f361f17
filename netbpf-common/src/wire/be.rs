//! Integers in network byte order, and MAC addresses.

use core::fmt;

use bytemuck::{Pod, Zeroable};

/// A 16-bit field in network byte order: a port, a length, an EtherType.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// Zero, the same in both orders.
    pub const ZERO: Self = Self(0);

    /// From a host-order integer.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// To a host-order integer.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes as they lie in memory, as one native word: what checksums add up.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The reverse of [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

/// A 32-bit field in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// Zero, the same in both orders.
    pub const ZERO: Self = Self(0);

    /// From a host-order integer.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// To a host-order integer.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The four bytes as they lie in memory, as one native word.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The reverse of [`Self::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// An Ethernet address (IEEE 802), as three words so that BPF copies it without byte loops.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Mac([u16; 3]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xffff; 3]);

    /// From its six bytes in transmission order.
    pub const fn new(b: [u8; 6]) -> Self {
        Self([u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]), u16::from_ne_bytes([b[4], b[5]])])
    }

    /// Its six bytes in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c] = self.0;
        let (a, b, c) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }

    /// Partial one's complement sum of its words, see [`Sum`](super::checksum::Sum).
    #[inline(always)]
    pub const fn sum(self) -> super::checksum::Sum {
        let [a, b, c] = self.0;
        super::checksum::Sum::ZERO.add16(Be16(a)).add16(Be16(b)).add16(Be16(c))
    }

    /// The group bit: broadcast or multicast (IEEE 802 I/G bit).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0].to_ne_bytes()[0] & 1 != 0
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Debug for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.get())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
