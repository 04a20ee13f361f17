//! Bytes as a list of choices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bit of a tape's first byte that says which family it is about. The byte chooses something else besides; alone, the
/// last of three.
pub(super) const IPV6: u8 = 0x80;

/// What a target reads its choices from; zeros when it has ended. Plain on purpose: one byte that changes
/// is one choice that changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The unspecified address of the family that it is about.
    pub(super) fn family(&self) -> IpAddr {
        let is_v6 = self.0.first().is_some_and(|first| first & IPV6 != 0);
        if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// As many bytes, or what is left.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// One of a few ports, or else any.
    pub(super) fn port(&mut self, of: &[u16]) -> u16 {
        match of.get(usize::from(self.byte())) {
            Some(port) => *port,
            None => self.word(),
        }
    }
}

/// The byte that chooses this.
pub(super) fn choice<T: PartialEq>(of: &[T], wanted: &T) -> Option<u8> {
    u8::try_from(of.iter().position(|each| each == wanted)?).ok()
}

/// The bytes that choose this port.
pub(super) fn port(of: &[u16], wanted: u16) -> Vec<u8> {
    match choice(of, &wanted) {
        Some(index) => vec![index],
        None => [&[u8::MAX], &wanted.to_be_bytes()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_that_has_ended_goes_on_with_zeros() {
        let mut tape = Tape::new(&[1, 2, 3]);
        assert_eq!((tape.byte(), tape.word(), tape.is_over()), (1, 0x0203, true));
        assert_eq!((tape.byte(), tape.word(), tape.choose(&[7, 8])), (0, 0, 7));
    }

    #[test]
    fn a_port_reads_back_whether_it_is_one_of_the_few_or_not() {
        let few = [80, 443];
        for wanted in [80, 443, 40_000] {
            assert_eq!(Tape::new(&port(&few, wanted)).port(&few), wanted);
        }
    }
}
