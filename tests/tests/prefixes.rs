//! Tier 0: addresses that are translated one to one (RFC 6296).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::path::{V4, V6};
use netbpf_common::wire::Address as _;
use netbpf_tests::family::TestFamily as _;
use netbpf_tests::gateway::{adjusted_word, sum, translated};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() }
}

const fn mask(length: u32) -> u128 {
    !(u128::MAX >> length)
}

fn moved(address: Ipv6Addr, prefix: Ipv6Addr, length: u32) -> Ipv6Addr {
    let mut moved = V6::addr(address.into());
    moved.move_into(&Ipv6Addr::from_bits(mask(length)).into(), &prefix.into());
    moved.into()
}

/// Addresses with words that matter: none, all ones, and next to them.
fn addresses() -> impl Strategy<Value = Ipv6Addr> {
    let word = prop_oneof![4 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff), 1 => Just(1), 1 => Just(0xfffe)];
    proptest::array::uniform8(word).prop_map(Ipv6Addr::from)
}

/// The length of a prefix, and two such prefixes: inside and outside.
fn prefixes() -> impl Strategy<Value = (u32, [Ipv6Addr; 2])> {
    // The first word is not zero: no network lies at the addresses that are no machine's.
    let prefix = || (0x2000..=0xfdff_u16, addresses());
    (16..=64_u32, [prefix(), prefix()]).prop_map(|(length, prefixes)| {
        let cut = |(first, rest): (u16, Ipv6Addr)| {
            let bits = rest.to_bits() & u128::MAX >> 16 | u128::from(first) << 112;
            Ipv6Addr::from_bits(bits & mask(length))
        };
        (length, prefixes.map(cut))
    })
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

#[test]
fn the_examples_of_rfc_6296_come_out_as_it_says() {
    // Appendix B and section 3.4: the subnet 0001 becomes D550.
    let (inside, outside) = (v6("fd01:203:405::"), v6("2001:db8:1::"));
    let (own, known) = (v6("fd01:203:405:1::1234"), v6("2001:db8:1:d550::1234"));
    assert_eq!(moved(own, outside, 48), known);
    assert_eq!(moved(known, inside, 48), own);
    // What is zero outside was written as zero, never as 0xffff.
    let zero = moved(v6("2001:db8:1::1"), inside, 48);
    assert_eq!(moved(zero, outside, 48), v6("2001:db8:1::1"));
}

#[test]
fn an_address_of_ipv6_becomes_what_rfc_6296_says_and_no_sum_changes() {
    proptest!(config(), |((length, [inside, outside]) in prefixes(), address in addresses())| {
        let own = Ipv6Addr::from_bits(inside.to_bits() | address.to_bits() & !mask(length));
        let known = moved(own, outside, length);
        prop_assert_eq!(known, translated(own, outside, length));
        prop_assert_eq!(known.to_bits() & mask(length), outside.to_bits(), "it lies in the prefix");
        prop_assert_eq!(sum(known), sum(own), "section 3.1");
    });
}

#[test]
fn an_address_of_ipv6_comes_back_as_it_was() {
    proptest!(config(), |((length, [inside, outside]) in prefixes(), address in addresses())| {
        let own = Ipv6Addr::from_bits(inside.to_bits() | address.to_bits() & !mask(length));
        let back = moved(moved(own, outside, length), inside, length);
        let place = adjusted_word(own, length);
        if own.segments()[place] == 0xffff {
            // Section 3.4: such a subnet cannot be told from zero, nor such an interface (section 3.5).
            let mut words = own.segments();
            words[place] = 0;
            prop_assert_eq!(back, Ipv6Addr::from(words));
        } else {
            prop_assert_eq!(back, own);
        }
    });
}

#[test]
fn an_address_of_ipv4_keeps_all_but_its_prefix() {
    proptest!(config(), |(own in any::<u32>(), outside in any::<u32>(), length in 0..=32_u32)| {
        let mask = !u32::MAX.checked_shr(length).unwrap_or(0);
        let address = |bits| V4::addr(Ipv4Addr::from_bits(bits).into());
        let moved = |from: u32, prefix: u32| {
            let mut moved = address(from);
            moved.move_into(&address(mask), &address(prefix & mask));
            match IpAddr::from(moved) {
                IpAddr::V4(moved) => moved.to_bits(),
                IpAddr::V6(_) => unreachable!("it was none"),
            }
        };
        prop_assert_eq!(moved(own, outside), outside & mask | own & !mask);
        prop_assert_eq!(moved(moved(own, outside), own), own);
    });
}
