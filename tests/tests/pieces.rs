//! Tier 0: fragments in any order, and what a SYN announces.

use std::net::SocketAddrV4;

use netbpf_common::abi::{DropReason, Event, FRAGMENT_SECONDS, HELD_FRAGMENTS, HELD_LEN, NetworkFlags};
use netbpf_common::path::Verdict;
use netbpf_tests::fixture::Hook;
use netbpf_tests::journey::{Arrival, Speech, answer, frame_on, is_transport_sound, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::fragmented;
use netbpf_tests::talk::{CLIENT, DNS, SERVER, Talk, WEB, at, egress, peer};
use netbpf_tests::world::{BEHIND_FOREIGN, C1, C2, Container, FAR, MTU};
use proptest::prelude::*;

const ETHERNET: usize = 14;

/// Lets frames come in by a hook, and those that come in once more behind each; the frames that went on.
fn arrive(memory: &Memory, hook: Hook, frames: &[Vec<u8>]) -> Vec<Arrival> {
    let mut waiting: std::collections::VecDeque<_> = frames.to_vec().into();
    let mut arrived = Vec::new();
    while let Some(bytes) = waiting.pop_front() {
        let mut frame = frame_on(hook, bytes);
        let verdict = travel(memory, hook, &mut frame);
        for again in frame.again.drain(..).rev() {
            waiting.push_front(again);
        }
        let arrival = Arrival::new(verdict, frame);
        if arrival.way_back().is_some() {
            arrived.push(arrival);
        }
    }
    arrived
}

/// Puts fragments together as their receiver does: the frame of the whole packet.
fn together(arrived: &[Arrival]) -> Vec<u8> {
    let mut parts: Vec<_> = arrived.iter().map(|arrival| arrival.bytes.as_slice()).collect();
    let offset = |frame: &&[u8]| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff;
    parts.sort_by_key(offset);
    let mut whole = parts[0][..ETHERNET + 20].to_vec();
    for part in &parts {
        assert_eq!(usize::from(offset(part)) * 8, whole.len() - ETHERNET - 20, "a gap or an overlap");
        assert_eq!(part[26..34], whole[26..34], "addresses of another packet");
        whole.extend(&part[ETHERNET + 20..]);
    }
    let mut header = etherparse::Ipv4Header::from_slice(&whole[ETHERNET..]).expect("a header").0;
    header.more_fragments = false;
    header.total_len = (whole.len() - ETHERNET) as u16;
    header.header_checksum = header.calc_header_checksum();
    whole[ETHERNET..ETHERNET + 20].copy_from_slice(&header.to_bytes());
    whole
}

/// The ways of a datagram: by which hook, from and to whom, and where it arrives.
fn ways() -> [(Hook, SocketAddrV4, SocketAddrV4, SocketAddrV4); 3] {
    [
        (egress(C1), at(C1.ip, 20_000), SERVER, SERVER),
        (egress(C1), at(C1.ip, 20_000), DNS, at(C2.ip, 53)),
        (Hook::Uplink, CLIENT, DNS, at(C2.ip, 53)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_fragments_come_the_datagram_arrives_whole(
        (way, len) in (0..3_usize, 100..8000_usize),
        size in 60..180_usize,
        order in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let memory = Memory::new(16);
        let (hook, from, to, expected) = ways()[way];
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let whole = link_on(hook).datagram(from, to, 64, &payload);
        // As many as are held at most, and one more.
        let size = (size * 8).max(len.div_ceil(HELD_FRAGMENTS as usize).next_multiple_of(8));
        let mut pieces = fragmented(&whole, 7, size);
        // Reversed, or in an order of the seed's.
        if order.index(2) == 0 {
            pieces.reverse();
        } else {
            let mut state = seed | 1;
            pieces.sort_by_cached_key(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state >> 33 });
        }
        let arrived = arrive(&memory, hook, &pieces);
        prop_assert_eq!(arrived.len(), pieces.len());
        let there = together(&arrived);
        prop_assert!(is_transport_sound(&there));
        prop_assert_eq!(&there[ETHERNET + 28..], &payload[..]);
        let seen = netbpf_tests::journey::Tuple::read(&there).expect("UDP");
        prop_assert_eq!(seen.to, expected);
        prop_assert!(memory.held.borrow().is_empty(), "none is kept");
        prop_assert_eq!(memory.events(Event::FragmentHeld), memory.events(Event::FragmentReleased));
    }
}

#[test]
fn what_is_held_for_a_first_that_never_comes_is_not_given_to_another_packet() {
    let memory = Memory::new(16);
    let whole = |payload| link_on(egress(C1)).datagram(at(C1.ip, 20_000), SERVER, 64, payload);
    let lost = fragmented(&whole(&[1; 200]), 7, 64);
    assert!(arrive(&memory, egress(C1), &lost[1..]).is_empty());
    // The number is used again, long after.
    memory.sleep(u64::from(FRAGMENT_SECONDS) + 1);
    let next = fragmented(&whole(&[2; 200]), 7, 64);
    let arrived = arrive(&memory, egress(C1), &next);
    assert_eq!(arrived.len(), next.len());
    assert_eq!(&together(&arrived)[ETHERNET + 28..], &[2; 200]);
}

/// A datagram of a container, in four fragments.
fn quarters(from: Container, to: SocketAddrV4, id: u16, byte: u8) -> Vec<Vec<u8>> {
    fragmented(&link_on(egress(from)).datagram(at(from.ip, 20_000), to, 64, &[byte; 248]), id, 64)
}

#[test]
fn a_number_that_is_used_again_soon_belongs_to_the_new_packet() {
    let memory = Memory::new(16);
    let before = quarters(C1, SERVER, 7, 1);
    assert_eq!(arrive(&memory, egress(C1), &before).len(), 4);
    memory.sleep(2);
    let mut next = quarters(C1, DNS, 7, 2);
    // The same addresses, so the same key but for the port.
    next = next.into_iter().rev().collect();
    let arrived = arrive(&memory, egress(C1), &next);
    assert_eq!(arrived.len(), 4);
    let there = together(&arrived);
    assert_eq!(netbpf_tests::journey::Tuple::read(&there).expect("UDP").to, at(C2.ip, 53));
}

#[test]
fn what_is_held_of_an_older_packet_does_not_come_in_with_a_newer_one() {
    let memory = Memory::new(16);
    let lost = quarters(C1, SERVER, 7, 1);
    assert!(arrive(&memory, egress(C1), &lost[1..]).is_empty(), "three are held");
    memory.sleep(u64::from(FRAGMENT_SECONDS) + 1);
    let next = quarters(C1, SERVER, 7, 2);
    let arrived = arrive(&memory, egress(C1), &[next[1].clone(), next[0].clone(), next[2].clone(), next[3].clone()]);
    assert_eq!(arrived.len(), 4);
    assert_eq!(&together(&arrived)[ETHERNET + 28..], &[2; 248]);
}

#[test]
fn a_first_fragment_that_is_too_long_to_be_put_aside_goes_on() {
    let memory = Memory::new(16);
    let whole = link_on(egress(C1)).datagram(at(C1.ip, 20_000), DNS, 64, &[7; 5000]);
    let pieces = fragmented(&whole, 7, (HELD_LEN + 8).next_multiple_of(8));
    let last = pieces.last().expect("a last one").clone();
    assert!(pieces[0].len() > HELD_LEN && last.len() < HELD_LEN);
    assert!(arrive(&memory, egress(C1), &[last]).is_empty(), "it is held");
    let arrived = arrive(&memory, egress(C1), &pieces[..pieces.len() - 1]);
    assert_eq!(arrived.len(), pieces.len() - 1);
}

#[test]
fn what_cannot_be_held_is_dropped_by_name() {
    let memory = Memory::new(16);
    let whole = link_on(egress(C1)).datagram(at(C1.ip, 20_000), SERVER, 64, &[7; 9000]);
    let drop_of = |frame: &Vec<u8>| travel(&memory, egress(C1), &mut frame_on(egress(C1), frame.clone()));
    let long = fragmented(&whole, 7, HELD_LEN.next_multiple_of(8));
    assert_eq!(drop_of(&long[1]), Verdict::Drop(DropReason::Fragment), "a long one");
    let many = fragmented(&whole, 8, 64);
    let verdicts: Vec<_> = many[1..].iter().map(drop_of).collect();
    let held = verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count();
    assert_eq!(held, HELD_FRAGMENTS as usize);
    assert_eq!(verdicts[held], Verdict::Drop(DropReason::Fragment), "too many");
}

#[test]
fn fragments_of_the_host_itself_are_left_alone() {
    let memory = Memory::new(16);
    let whole = link_on(Hook::Uplink).datagram(CLIENT, at(*DNS.ip(), 40_000), 64, &[7; 200]);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        let pieces = fragmented(&whole, 7, 64);
        for number in order {
            let mut frame = frame_on(Hook::Uplink, pieces[number].clone());
            assert_eq!(travel(&memory, Hook::Uplink, &mut frame), Verdict::Pass);
            assert!(frame.again.is_empty(), "nothing comes to the host twice");
            assert_eq!(frame.bytes, pieces[number]);
        }
    }
}

#[test]
fn fragments_that_the_host_forwards_are_not_looked_at() {
    let memory = Memory::new(16);
    let whole = link_on(Hook::Uplink).datagram(CLIENT, at(BEHIND_FOREIGN, 40_000), 64, &[7; 200]);
    for piece in fragmented(&whole, 7, 64).into_iter().rev() {
        let mut frame = frame_on(Hook::Uplink, piece.clone());
        assert_eq!(travel(&memory, Hook::Uplink, &mut frame), Verdict::Pass);
        assert_eq!(frame.bytes, piece);
    }
    assert!(memory.fragments.borrow().is_empty(), "they take no room from others");
}

// --- MSS ---

const MSS: u16 = MTU - 40;

/// A SYN with these options through a hook; the options as they arrive.
fn announced(memory: &Memory, hook: Hook, from: SocketAddrV4, to: SocketAddrV4, options: &[u8]) -> Vec<u8> {
    let mut frame = frame_on(hook, link_on(hook).syn_with_options(from, to, 64, options));
    let verdict = travel(memory, hook, &mut frame);
    let arrival = Arrival::new(verdict, frame);
    assert!(arrival.way_back().is_some(), "{verdict:?}");
    assert!(is_transport_sound(&arrival.bytes), "{options:?}");
    arrival.bytes[ETHERNET + 40..][..options.len()].to_vec()
}

#[test]
fn no_syn_is_held_down_to_what_another_flow_takes() {
    let mut memory = Memory::new(16);
    memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
    let big = mss(8960);
    announced(&memory, egress(C1), at(C1.ip, 20_000), SERVER, &big);
    // Between containers nothing has the uplink's MTU.
    let inner = announced(&memory, egress(C1), at(C1.ip, 20_001), at(C2.ip, 80), &big);
    assert_eq!(inner, big);
}

fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [2, 4, high, low]
}

#[test]
fn a_syn_announces_what_the_way_out_takes_where_that_is_wanted() {
    let inner = at(C1.ip, 20_000);
    for (says, options, expected) in [
        ("more than fits", mss(8960).to_vec(), mss(MSS).to_vec()),
        ("what fits", mss(MSS).to_vec(), mss(MSS).to_vec()),
        ("less", mss(536).to_vec(), mss(536).to_vec()),
        ("at an odd place", [&[1][..], &mss(8960), &[1, 1, 1]].concat(), [&[1][..], &mss(MSS), &[1, 1, 1]].concat()),
        (
            "behind others",
            [&[4, 2, 3, 3, 7, 1][..], &mss(8960), &[0, 0]].concat(),
            [&[4, 2, 3, 3, 7, 1][..], &mss(MSS), &[0, 0]].concat(),
        ),
        ("behind the end", [&[0, 0, 0, 0][..], &mss(8960)].concat(), [&[0, 0, 0, 0][..], &mss(8960)].concat()),
        ("nothing", vec![], vec![]),
        ("an option that runs over", vec![2, 8, 0xff, 0xff], vec![2, 8, 0xff, 0xff]),
        ("an option of no length", vec![8, 0, 0, 0], vec![8, 0, 0, 0]),
    ] {
        let mut memory = Memory::new(16);
        assert_eq!(announced(&memory, egress(C1), inner, SERVER, &options), options, "{says}, not wanted");
        memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
        let other = at(C1.ip, 20_001);
        assert_eq!(announced(&memory, egress(C1), other, SERVER, &options), expected, "{says}");
    }
}

#[test]
fn who_is_outside_announces_no_more_either_once_the_way_back_is_known() {
    let mut memory = Memory::new(16);
    memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
    let seen = Talk::of(&memory, C1, 20_000, at(FAR, 443)).say(Speech::SYN).tuple();
    assert_eq!(announced(&memory, Hook::Uplink, seen.to, seen.from, &mss(8960)), mss(MSS));
    // The way back to a client is looked up with the first answer.
    let client = Talk::from_outside(&memory, CLIENT, WEB);
    let there = client.say(Speech::SYN);
    assert_eq!(there.verdict, peer(C1));
    answer(&memory, &there, Speech::SYN_ACK);
    assert_eq!(announced(&memory, Hook::Uplink, CLIENT, WEB, &mss(8960)), mss(MSS));
}
