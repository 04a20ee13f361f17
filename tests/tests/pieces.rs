//! Tier 0: fragments in any order, and what a SYN announces.

use std::net::SocketAddr;

use etherparse::{IpHeaders, Ipv6Header};
use netbpf_common::abi::{DropReason, Event, FRAGMENT_SECONDS, HELD_FRAGMENTS, HELD_LEN, NetworkFlags};
use netbpf_common::path::Verdict;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::headers::{Headers, is_transport_sound};
use netbpf_tests::journey::{Arrival, Speech, answer, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{fragmented, with_payload};
use netbpf_tests::talk::{Talk, at, egress, peer};
use netbpf_tests::world::{C1, C2, Container, ETHERNET, MTU};
use proptest::prelude::*;

for_both!(
    in_whatever_order_fragments_come_the_datagram_arrives_whole,
    what_is_held_for_a_first_that_never_comes_is_not_given_to_another_packet,
    a_number_that_is_used_again_soon_belongs_to_the_new_packet,
    what_is_held_of_an_older_packet_does_not_come_in_with_a_newer_one,
    a_first_fragment_that_is_too_long_to_be_put_aside_goes_on,
    what_cannot_be_held_is_dropped_by_name,
    fragments_of_the_host_itself_are_left_alone,
    fragments_that_the_host_forwards_are_not_looked_at,
    no_syn_is_held_down_to_what_another_flow_takes,
    a_syn_announces_what_the_way_out_takes_where_that_is_wanted,
    who_is_outside_announces_no_more_either_once_the_way_back_is_known,
);

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
    let read = |arrival: &Arrival| Headers::read(&arrival.bytes).expect("a fragment");
    let mut parts: Vec<_> = arrived.iter().map(|arrival| (read(arrival), arrival.bytes.as_slice())).collect();
    parts.sort_by_key(|(headers, _)| headers.offset);
    let (first, frame) = &parts[0];
    let mut payload: Vec<u8> = Vec::new();
    for (part, frame) in &parts {
        assert_eq!(part.offset, payload.len(), "a gap or an overlap");
        let ends = (part.source, part.destination);
        assert_eq!(ends, (first.source, first.destination), "addresses of another packet");
        payload.extend(&frame[part.transport.clone()]);
    }
    let mut headers = match Ipv6Header::from_slice(&frame[ETHERNET..]) {
        Ok((header, _)) => IpHeaders::Ipv6(header, Default::default()),
        Err(_) => IpHeaders::from_slice(&frame[ETHERNET..]).expect("a header").0,
    };
    match &mut headers {
        IpHeaders::Ipv4(header, _) => header.more_fragments = false,
        IpHeaders::Ipv6(header, _) => header.next_header = first.protocol,
    }
    with_payload(frame, headers, &payload)
}

/// What a frame with a datagram carries.
fn carried(frame: &[u8]) -> &[u8] {
    const UDP: usize = 8;
    &frame[Headers::read(frame).expect("a datagram").transport.start + UDP..]
}

/// The ways of a datagram: by which hook, from and to whom, and where it arrives.
fn ways<F: TestFamily>() -> [(Hook, SocketAddr, SocketAddr, SocketAddr); 3] {
    [
        (egress(C1), at(C1.ip::<F>(), 20_000), F::SERVER, F::SERVER),
        (egress(C1), at(C1.ip::<F>(), 20_000), F::DNS, at(C2.ip::<F>(), 53)),
        (Hook::Uplink, F::CLIENT, F::DNS, at(C2.ip::<F>(), 53)),
    ]
}

fn in_whatever_order_fragments_come_the_datagram_arrives_whole<F: TestFamily>() {
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(
        (way, len) in (0..3_usize, 100..8000_usize),
        size in 60..180_usize,
        order in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    )| {
        let memory = Memory::new(16);
        let (hook, from, to, expected) = ways::<F>()[way];
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
        prop_assert_eq!(carried(&there), &payload[..]);
        let seen = netbpf_tests::journey::Tuple::read(&there).expect("UDP");
        prop_assert_eq!(seen.to, expected);
        prop_assert!(memory.held() == 0, "none is kept");
        prop_assert_eq!(memory.events(Event::FragmentHeld), memory.events(Event::FragmentReleased));
    });
}

fn what_is_held_for_a_first_that_never_comes_is_not_given_to_another_packet<F: TestFamily>() {
    let memory = Memory::new(16);
    let whole = |payload| link_on(egress(C1)).datagram(at(C1.ip::<F>(), 20_000), F::SERVER, 64, payload);
    let lost = fragmented(&whole(&[1; 200]), 7, 64);
    assert!(arrive(&memory, egress(C1), &lost[1..]).is_empty());
    // The number is used again, long after.
    memory.sleep(u64::from(FRAGMENT_SECONDS) + 1);
    let next = fragmented(&whole(&[2; 200]), 7, 64);
    let arrived = arrive(&memory, egress(C1), &next);
    assert_eq!(arrived.len(), next.len());
    assert_eq!(carried(&together(&arrived)), &[2; 200]);
}

/// A datagram of a container, in four fragments.
fn quarters<F: TestFamily>(from: Container, to: SocketAddr, id: u16, byte: u8) -> Vec<Vec<u8>> {
    fragmented(&link_on(egress(from)).datagram(at(from.ip::<F>(), 20_000), to, 64, &[byte; 248]), id, 64)
}

fn a_number_that_is_used_again_soon_belongs_to_the_new_packet<F: TestFamily>() {
    let memory = Memory::new(16);
    let before = quarters::<F>(C1, F::SERVER, 7, 1);
    assert_eq!(arrive(&memory, egress(C1), &before).len(), 4);
    memory.sleep(2);
    let mut next = quarters::<F>(C1, F::DNS, 7, 2);
    // The same addresses, so the same key but for the port.
    next = next.into_iter().rev().collect();
    let arrived = arrive(&memory, egress(C1), &next);
    assert_eq!(arrived.len(), 4);
    let there = together(&arrived);
    assert_eq!(netbpf_tests::journey::Tuple::read(&there).expect("UDP").to, at(C2.ip::<F>(), 53));
}

fn what_is_held_of_an_older_packet_does_not_come_in_with_a_newer_one<F: TestFamily>() {
    let memory = Memory::new(16);
    let lost = quarters::<F>(C1, F::SERVER, 7, 1);
    assert!(arrive(&memory, egress(C1), &lost[1..]).is_empty(), "three are held");
    memory.sleep(u64::from(FRAGMENT_SECONDS) + 1);
    let next = quarters::<F>(C1, F::SERVER, 7, 2);
    let arrived = arrive(&memory, egress(C1), &[next[1].clone(), next[0].clone(), next[2].clone(), next[3].clone()]);
    assert_eq!(arrived.len(), 4);
    assert_eq!(carried(&together(&arrived)), &[2; 248]);
}

fn a_first_fragment_that_is_too_long_to_be_put_aside_goes_on<F: TestFamily>() {
    let memory = Memory::new(16);
    let whole = link_on(egress(C1)).datagram(at(C1.ip::<F>(), 20_000), F::DNS, 64, &[7; 5000]);
    let pieces = fragmented(&whole, 7, (HELD_LEN + 8).next_multiple_of(8));
    let last = pieces.last().expect("a last one").clone();
    assert!(pieces[0].len() > HELD_LEN && last.len() < HELD_LEN);
    assert!(arrive(&memory, egress(C1), &[last]).is_empty(), "it is held");
    let arrived = arrive(&memory, egress(C1), &pieces[..pieces.len() - 1]);
    assert_eq!(arrived.len(), pieces.len() - 1);
}

fn what_cannot_be_held_is_dropped_by_name<F: TestFamily>() {
    let memory = Memory::new(16);
    let whole = link_on(egress(C1)).datagram(at(C1.ip::<F>(), 20_000), F::SERVER, 64, &[7; 9000]);
    let drop_of = |frame: &Vec<u8>| travel(&memory, egress(C1), &mut frame_on(egress(C1), frame.clone()));
    let long = fragmented(&whole, 7, HELD_LEN.next_multiple_of(8));
    assert_eq!(drop_of(&long[1]), Verdict::Drop(DropReason::Fragment), "a long one");
    let many = fragmented(&whole, 8, 64);
    let verdicts: Vec<_> = many[1..].iter().map(drop_of).collect();
    let held = verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count();
    assert_eq!(held, HELD_FRAGMENTS as usize);
    assert_eq!(verdicts[held], Verdict::Drop(DropReason::Fragment), "too many");
}

fn fragments_of_the_host_itself_are_left_alone<F: TestFamily>() {
    let memory = Memory::new(16);
    let whole = link_on(Hook::Uplink).datagram(F::CLIENT, at(F::HOST, 40_000), 64, &[7; 200]);
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

fn fragments_that_the_host_forwards_are_not_looked_at<F: TestFamily>() {
    let memory = Memory::new(16);
    let whole = link_on(Hook::Uplink).datagram(F::CLIENT, at(F::BEHIND_FOREIGN, 40_000), 64, &[7; 200]);
    for piece in fragmented(&whole, 7, 64).into_iter().rev() {
        let mut frame = frame_on(Hook::Uplink, piece.clone());
        assert_eq!(travel(&memory, Hook::Uplink, &mut frame), Verdict::Pass);
        assert_eq!(frame.bytes, piece);
    }
    assert!(memory.remembered() == 0, "they take no room from others");
}

// --- MSS ---

/// What fits into the MTU behind the headers of IP and TCP.
const fn fitting<F: TestFamily>() -> u16 {
    MTU - F::HEADER_LEN as u16 - 20
}

/// A SYN with these options through a hook; the options as they arrive.
fn announced(memory: &Memory, hook: Hook, from: SocketAddr, to: SocketAddr, options: &[u8]) -> Vec<u8> {
    let mut frame = frame_on(hook, link_on(hook).syn_with_options(from, to, 64, options, &[]));
    let verdict = travel(memory, hook, &mut frame);
    let arrival = Arrival::new(verdict, frame);
    assert!(arrival.way_back().is_some(), "{verdict:?}");
    assert!(is_transport_sound(&arrival.bytes), "{options:?}");
    let header = Headers::read(&arrival.bytes).expect("a segment").transport;
    arrival.bytes[header.start + 20..][..options.len()].to_vec()
}

fn no_syn_is_held_down_to_what_another_flow_takes<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
    let big = mss(8960);
    announced(&memory, egress(C1), at(C1.ip::<F>(), 20_000), F::SERVER, &big);
    // Between containers nothing has the uplink's MTU.
    let inner = announced(&memory, egress(C1), at(C1.ip::<F>(), 20_001), at(C2.ip::<F>(), 80), &big);
    assert_eq!(inner, big);
}

fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [2, 4, high, low]
}

fn a_syn_announces_what_the_way_out_takes_where_that_is_wanted<F: TestFamily>() {
    let inner = at(C1.ip::<F>(), 20_000);
    for (says, options, expected) in [
        ("more than fits", mss(8960).to_vec(), mss(fitting::<F>()).to_vec()),
        ("what fits", mss(fitting::<F>()).to_vec(), mss(fitting::<F>()).to_vec()),
        ("less", mss(536).to_vec(), mss(536).to_vec()),
        (
            "at an odd place",
            [&[1][..], &mss(8960), &[1, 1, 1]].concat(),
            [&[1][..], &mss(fitting::<F>()), &[1, 1, 1]].concat(),
        ),
        (
            "behind others",
            [&[4, 2, 3, 3, 7, 1][..], &mss(8960), &[0, 0]].concat(),
            [&[4, 2, 3, 3, 7, 1][..], &mss(fitting::<F>()), &[0, 0]].concat(),
        ),
        ("behind the end", [&[0, 0, 0, 0][..], &mss(8960)].concat(), [&[0, 0, 0, 0][..], &mss(8960)].concat()),
        ("nothing", vec![], vec![]),
        ("an option that runs over", vec![2, 8, 0xff, 0xff], vec![2, 8, 0xff, 0xff]),
        ("an option of no length", vec![8, 0, 0, 0], vec![8, 0, 0, 0]),
    ] {
        let mut memory = Memory::new(16);
        assert_eq!(announced(&memory, egress(C1), inner, F::SERVER, &options), options, "{says}, not wanted");
        memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
        let other = at(C1.ip::<F>(), 20_001);
        assert_eq!(announced(&memory, egress(C1), other, F::SERVER, &options), expected, "{says}");
    }
}

fn who_is_outside_announces_no_more_either_once_the_way_back_is_known<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::CLAMP_MSS;
    let seen = Talk::of(&memory, C1, 20_000, at(F::FAR, 443)).say(Speech::SYN).tuple();
    assert_eq!(announced(&memory, Hook::Uplink, seen.to, seen.from, &mss(8960)), mss(fitting::<F>()));
    // The way back to a client is looked up with the first answer.
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    let there = client.say(Speech::SYN);
    assert_eq!(there.verdict, peer(C1));
    answer(&memory, &there, Speech::SYN_ACK);
    assert_eq!(announced(&memory, Hook::Uplink, F::CLIENT, F::WEB, &mss(8960)), mss(fitting::<F>()));
}
