//! Tier 0: what one container can have, and who pays for a flood.

use std::net::Ipv4Addr;

use netbpf_common::abi::{DropReason, Event, Life};
use netbpf_common::path::Verdict;
use netbpf_tests::journey::{Speech, answer, collect, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{BROADCAST, Ethernet};
use netbpf_tests::talk::{CLIENT, SERVER, Talk, WEB, assert_exhausted, at, egress};
use netbpf_tests::world::{C1, C2, C3, FAR, GATEWAY_MAC, HOST, HZ};

#[test]
fn a_container_with_as_many_confirmed_flows_as_it_may_have_opens_no_more_and_the_others_do() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 3;
    let talks = [1, 2, 3].map(|port| Talk::of(&memory, C1, 20_000 + port, SERVER));
    for talk in talks {
        talk.establish(Speech::Udp);
    }
    for speech in [Speech::Udp, Speech::SYN] {
        let refused = Talk::of(&memory, C1, 30_000, SERVER).say(speech);
        assert_exhausted(&memory, C1, &refused, DropReason::FlowLimit);
    }
    let refused = Talk::from_outside(&memory, CLIENT, WEB).say(Speech::SYN);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::FlowLimit), "it pays for its clients too");
    talks[0].say(Speech::Udp);
    Talk::of(&memory, C2, 30_000, SERVER).establish(Speech::Udp);
    assert_eq!(flows(&memory).len(), 4);

    memory.sleep(121);
    assert_eq!(collect(&memory), 4);
    assert!(memory.confirmed.borrow().values().all(|count| *count == 0), "{:?}", memory.confirmed);
    Talk::of(&memory, C1, 30_000, SERVER).establish(Speech::Udp);
}

#[test]
fn only_confirmed_flows_count() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 1;
    for port in 0..20 {
        let there = Talk::of(&memory, C1, 20_000 + port, SERVER).say(Speech::Udp);
        answer(&memory, &there, Speech::Udp);
    }
    assert_eq!(flows(&memory).len(), 20);
    assert_eq!(memory.events(Event::FlowEvicted), 0);
}

#[test]
fn a_flow_is_counted_once_however_it_ends() {
    for end in [Speech::FIN, Speech::RST] {
        let memory = Memory::new(64);
        let talk = Talk::of(&memory, C1, 20_000, SERVER);
        for _ in 0..3 {
            talk.establish(Speech::SYN);
            assert_eq!(memory.confirmed.borrow()[&C1.slot], 1);
            talk.say(end);
        }
        talk.say(Speech::SYN);
        assert_eq!(memory.confirmed.borrow()[&C1.slot], 0, "the last was reopened and is not confirmed yet");
    }
}

#[test]
fn a_flood_of_one_container_ends_half_open_flows_of_its_own_share_alone() {
    let mut memory = Memory::with_shares(4, 8);
    memory.config.flow_limit = 1000;
    let others = [Talk::of(&memory, C2, 20_000, SERVER), Talk::of(&memory, C3, 20_000, SERVER)];
    for talk in others {
        talk.say(Speech::Udp);
    }
    for port in 0..100 {
        Talk::of(&memory, C1, 20_000 + port, SERVER).say(Speech::Udp);
        Talk::from_outside(&memory, at(FAR, 1000 + port), WEB).say(Speech::SYN);
    }
    for talk in others {
        assert_eq!(talk.flow(Speech::Udp).expect("untouched").word.life(), Life::Half);
    }
    assert_eq!(flows(&memory).len(), 4 + 2);
}

/// Sends a datagram to many; what becomes of it, and the devices that got a copy.
fn broadcast(memory: &Memory, to: Ipv4Addr, mac: [u8; 6]) -> (Verdict, Vec<u32>) {
    let link = Ethernet { from: C1.mac, to: mac };
    let sent = link.datagram(at(C1.ip, 5353), at(to, 5353), 1, b"who is there?");
    let mut frame = frame_on(egress(C1), sent.clone());
    let verdict = travel(memory, egress(C1), &mut frame);
    assert!(frame.copies.iter().all(|(_, copy)| *copy == sent), "as it was sent");
    (verdict, frame.copies.iter().map(|(device, _)| *device).collect())
}

#[test]
fn broadcast_and_multicast_reach_the_other_members_of_the_network_and_nobody_else() {
    let memory = Memory::new(16);
    for (to, mac) in [
        (Ipv4Addr::BROADCAST, BROADCAST),
        (Ipv4Addr::new(172, 30, 255, 255), BROADCAST),
        (Ipv4Addr::new(224, 0, 0, 251), [1, 0, 0x5e, 0, 0, 0xfb]),
    ] {
        assert_eq!(broadcast(&memory, to, mac), (Verdict::Done, vec![C2.device()]), "{to}");
    }
    for (to, mac) in [(Ipv4Addr::new(172, 31, 255, 255), BROADCAST), (C2.ip, BROADCAST), (HOST, BROADCAST)] {
        assert_eq!(broadcast(&memory, to, mac), (Verdict::Drop(DropReason::Multicast), vec![]), "{to}");
    }
    let routed = broadcast(&memory, Ipv4Addr::new(224, 0, 0, 251), GATEWAY_MAC);
    assert_eq!(routed, (Verdict::Drop(DropReason::Multicast), vec![]));
    assert_eq!(memory.events(Event::Replicated), 3);
    assert!(flows(&memory).is_empty());
}

#[test]
fn a_member_that_is_alone_or_has_just_come_broadcasts_to_nobody() {
    let mut memory = Memory::new(16);
    for members in [vec![(C1.slot, C1.slot)], vec![]] {
        memory.members = members.into_iter().collect();
        assert_eq!(broadcast(&memory, Ipv4Addr::BROADCAST, BROADCAST), (Verdict::Done, vec![]));
    }
}

#[test]
fn a_storm_is_held_down_by_name_and_passes() {
    let mut memory = Memory::new(16);
    memory.config.broadcast_rate = 3;
    let storm = || (0..10).map(|_| broadcast(&memory, Ipv4Addr::BROADCAST, BROADCAST).0).collect::<Vec<_>>();
    let verdicts = storm();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count(), 3);
    assert_eq!(verdicts[9], Verdict::Drop(DropReason::BroadcastRate));
    memory.now.set(memory.now.get() + u64::from(HZ));
    assert_eq!(storm()[0], Verdict::Done);
    let unicast = frame_on(egress(C1), link_on(egress(C1)).datagram(at(C1.ip, 1), at(C2.ip, 2), 64, b"x"));
    assert!(matches!(travel(&memory, egress(C1), &mut unicast.clone()), Verdict::Peer { .. }));
}

#[test]
fn a_newcomer_whom_nobody_points_to_yet_reaches_each_member_once() {
    let mut memory = Memory::new(16);
    memory.endpoints.insert(C3.slot, C1.endpoint(1));
    let third = memory.endpoints[&C3.slot].ifindex;
    memory.members = [(C1.slot, C2.slot), (C2.slot, C3.slot), (C3.slot, C2.slot)].into_iter().collect();
    let (verdict, copies) = broadcast(&memory, Ipv4Addr::BROADCAST, BROADCAST);
    assert_eq!((verdict, copies), (Verdict::Done, vec![C2.device(), third]));
}
