//! Tier 0: publishes that are not for everybody.

use std::net::{IpAddr, SocketAddr};

use netbpf_common::abi::{DropReason, RuleFlags, Visitors, generation};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, answer, flows};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::IcmpError;
use netbpf_tests::talk::{Talk, assert_told, at, peer};
use netbpf_tests::world::{C1, C2, C3, FOREIGN, UPLINK};

for_both!(
    a_restricted_publish_is_for_the_prefixes_of_its_list,
    a_publish_by_device_is_for_who_comes_in_there,
    containers_are_asked_for_their_addresses_and_come_in_by_no_device,
    the_hosts_own_processes_are_not_asked,
    a_publish_without_anybody_on_its_list_is_for_nobody,
    who_is_taken_off_the_list_loses_the_connection,
);

/// Rules of `F::WEB` and `F::DNS`.
const WEB_RULE: u32 = 1;
const DNS_RULE: u32 = 2;

/// The world, in which both rules have these flags.
fn restricted(flags: u32) -> Memory {
    let mut memory = Memory::new(64);
    for rule in [WEB_RULE, DNS_RULE] {
        memory.rules.get_mut(&rule).expect("of the world").flags = flags;
    }
    memory
}

/// Lets a prefix in by a device, to both publishes.
fn let_in<F: TestFamily>(memory: &mut Memory, device: u32, prefix: IpAddr, length: u32) {
    let of = |rule| Visitors::new(rule, device, F::addr(prefix), length);
    memory.of_mut::<F>().allowed.extend([WEB_RULE, DNS_RULE].map(of));
}

/// Both publishes, with what opens a flow to them.
fn publishes<F: TestFamily>() -> [(Speech, SocketAddr); 2] {
    [(Speech::SYN, F::WEB), (Speech::Udp, F::DNS)]
}

/// Somebody outside is told that he may not.
#[track_caller]
fn assert_left_out(memory: &Memory, from: SocketAddr, speech: Speech, to: SocketAddr) {
    let before = (memory.drops(DropReason::NotAllowed), flows(memory).len());
    let told = Talk::from_outside(memory, from, to).say(speech);
    assert_told(&told.bytes, IcmpError::PROHIBITED);
    assert_eq!((memory.drops(DropReason::NotAllowed), flows(memory).len()), (before.0 + 1, before.1));
}

/// Bits of a whole address.
fn length<F: TestFamily>() -> u32 {
    size_of::<F::Addr>() as u32 * u8::BITS
}

fn a_restricted_publish_is_for_the_prefixes_of_its_list<F: TestFamily>() {
    let mut memory = restricted(RuleFlags::RESTRICTED);
    let friend = at(F::OUTSIDE, 40_000);
    let_in::<F>(&mut memory, 0, F::OUTSIDE, length::<F>());
    for (speech, to) in publishes::<F>() {
        let there = Talk::from_outside(&memory, friend, to).say(speech);
        assert!(there.way_back().is_some(), "{to}");
        assert_eq!(answer(&memory, &there, speech.answer()).tuple().from, to);
        assert_left_out(&memory, at(F::FAR, 40_000), speech, to);
    }
    // A longer prefix beside a shorter one.
    let_in::<F>(&mut memory, 0, F::FAR, 8);
    for (speech, to) in publishes::<F>() {
        assert!(Talk::from_outside(&memory, at(F::FAR, 40_000), to).say(speech).way_back().is_some());
        assert!(Talk::from_outside(&memory, friend, to).say(speech).way_back().is_some());
    }
}

fn a_publish_by_device_is_for_who_comes_in_there<F: TestFamily>() {
    for (device, is_let_in) in [(UPLINK, true), (FOREIGN, false), (0, false)] {
        let mut memory = restricted(RuleFlags::RESTRICTED | RuleFlags::BY_DEVICE);
        let_in::<F>(&mut memory, device, F::UNSPECIFIED, 0);
        for (speech, to) in publishes::<F>() {
            if is_let_in {
                assert!(Talk::from_outside(&memory, F::CLIENT, to).say(speech).way_back().is_some(), "{device}");
            } else {
                assert_left_out(&memory, F::CLIENT, speech, to);
            }
        }
    }
}

fn containers_are_asked_for_their_addresses_and_come_in_by_no_device<F: TestFamily>() {
    let mut memory = restricted(RuleFlags::RESTRICTED);
    let_in::<F>(&mut memory, 0, C3.ip::<F>(), length::<F>());
    for (speech, to) in publishes::<F>() {
        assert_ne!(Talk::of(&memory, C3, 20_000, to).say(speech).verdict, peer(C3), "led to the container behind it");
        let told = Talk::of(&memory, C2, 20_000, to).say(speech);
        assert_eq!(told.verdict, peer(C2));
        assert_told(&told.bytes, IcmpError::PROHIBITED);
    }
    let mut memory = restricted(RuleFlags::RESTRICTED | RuleFlags::BY_DEVICE);
    let_in::<F>(&mut memory, UPLINK, F::UNSPECIFIED, 0);
    for (speech, to) in publishes::<F>() {
        assert_told(&Talk::of(&memory, C3, 20_000, to).say(speech).bytes, IcmpError::PROHIBITED);
    }
    assert_eq!((memory.drops(DropReason::NotAllowed), flows(&memory).len()), (2, 0));
}

fn the_hosts_own_processes_are_not_asked<F: TestFamily>() {
    let memory = restricted(RuleFlags::RESTRICTED | RuleFlags::BY_DEVICE);
    let seen = Talk::of_host::<F>(&memory, 45_000).say(Speech::SYN);
    assert_eq!(seen.tuple().to, at(C1.ip::<F>(), 80));
}

fn a_publish_without_anybody_on_its_list_is_for_nobody<F: TestFamily>() {
    let memory = restricted(RuleFlags::RESTRICTED);
    for (speech, to) in publishes::<F>() {
        assert_left_out(&memory, F::CLIENT, speech, to);
    }
}

fn who_is_taken_off_the_list_loses_the_connection<F: TestFamily>() {
    let mut memory = Memory::new(64);
    let web = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::DNS).establish(Speech::Udp);
    Talk::of_host::<F>(&memory, 45_000).establish(Speech::SYN);
    for rule in [WEB_RULE, DNS_RULE] {
        memory.rules.get_mut(&rule).expect("of the world").flags = RuleFlags::RESTRICTED;
        memory.bump(generation::FIRST_RULE + rule);
    }
    assert_told(&Talk::from_outside(&memory, F::CLIENT, F::DNS).say(Speech::Udp).bytes, IcmpError::PROHIBITED);
    assert_eq!(flows(&memory).len(), 2, "the flow has ended");
    let reset = Talk::server_of(&memory, C1, web).say(Speech::ACK);
    assert_eq!((reset.verdict, reset.tcp_flags().is_some_and(|flags| flags & 4 != 0)), (peer(C1), true));
    assert_eq!(Talk::of_host::<F>(&memory, 45_000).say(Speech::ACK).way_back(), Some(Hook::Egress(C1.device())));
}
