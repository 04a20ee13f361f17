//! Tier 0: what one container can have, and who pays for a flood.

use std::net::{IpAddr, Ipv4Addr};

use netbpf_common::abi::{DropReason, Endpoint, Event, Life, Word};
use netbpf_common::path::{V4, V6, Verdict};
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, answer, collect, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{BROADCAST, Ethernet};
use netbpf_tests::talk::{Talk, assert_exhausted, at, egress};
use netbpf_tests::world::{C1, C2, C3, GATEWAY_MAC, HZ};

for_both!(
    a_container_with_as_many_confirmed_flows_as_it_may_have_opens_no_more_and_the_others_do,
    only_confirmed_flows_count,
    closed_connections_make_room_for_new_ones_where_a_container_has_many,
    a_flow_is_counted_once_however_it_ends,
    a_flood_of_one_container_ends_half_open_flows_of_its_own_share_alone,
    a_group_is_the_other_members_of_the_network_and_nobody_else,
    a_member_that_is_alone_or_has_just_come_broadcasts_to_nobody,
    a_storm_is_held_down_by_name_and_passes,
    a_newcomer_whom_nobody_points_to_yet_reaches_each_member_once,
    a_member_whose_device_does_not_take_it_misses_a_broadcast_and_that_is_counted,
);

fn a_container_with_as_many_confirmed_flows_as_it_may_have_opens_no_more_and_the_others_do<F: TestFamily>() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 3;
    let talks = [1, 2, 3].map(|port| Talk::of(&memory, C1, 20_000 + port, F::SERVER));
    for talk in talks {
        talk.establish(Speech::Udp);
    }
    for speech in [Speech::Udp, Speech::SYN] {
        let refused = Talk::of(&memory, C1, 30_000, F::SERVER).say(speech);
        assert_exhausted(&memory, C1, &refused, DropReason::FlowLimit);
    }
    let refused = Talk::from_outside(&memory, F::CLIENT, F::WEB).say(Speech::SYN);
    assert_eq!(refused.verdict, Verdict::Drop(DropReason::FlowLimit), "it pays for its clients too");
    talks[0].say(Speech::Udp);
    Talk::of(&memory, C2, 30_000, F::SERVER).establish(Speech::Udp);
    assert_eq!(flows(&memory).len(), 4);

    memory.sleep(121);
    assert_eq!(collect(&memory), 4);
    assert!(memory.confirmed.borrow().values().all(|count| *count == 0), "{:?}", memory.confirmed);
    Talk::of(&memory, C1, 30_000, F::SERVER).establish(Speech::Udp);
}

#[test]
fn flows_of_both_families_count_for_one_container() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 2;
    for server in [V4::SERVER, V6::SERVER] {
        Talk::of(&memory, C1, 20_000, server).establish(Speech::Udp);
    }
    assert_eq!(memory.confirmed.borrow()[&C1.slot], 2);
    for server in [V4::SERVER, V6::SERVER] {
        let refused = Talk::of(&memory, C1, 20_001, server).say(Speech::Udp);
        assert_exhausted(&memory, C1, &refused, DropReason::FlowLimit);
    }
    memory.sleep(121);
    assert_eq!(collect(&memory), 2);
    assert_eq!(memory.confirmed.borrow()[&C1.slot], 0);
}

fn only_confirmed_flows_count<F: TestFamily>() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 1;
    for port in 0..20 {
        let there = Talk::of(&memory, C1, 20_000 + port, F::SERVER).say(Speech::Udp);
        answer(&memory, &there, Speech::Udp);
    }
    assert_eq!(flows(&memory).len(), 20);
    assert_eq!(memory.events(Event::FlowEvicted), 0);
}

fn closed_connections_make_room_for_new_ones_where_a_container_has_many<F: TestFamily>() {
    let mut memory = Memory::new(64);
    memory.config.flow_limit = 4;
    let talks = [1, 2, 3, 4].map(|port| Talk::from_outside(&memory, at(F::CLIENT.ip(), 20_000 + port), F::WEB));
    let closed = |talk: &Talk<&Memory>| {
        let seen = talk.establish(Speech::SYN);
        let server = Talk::server_of(&memory, C1, seen);
        talk.say(Speech::FIN);
        server.say(Speech::FIN);
        talk.say(Speech::ACK);
        assert!(talk.flow(Speech::ACK).expect("a flow").word.has(Word::TIME_WAIT));
    };
    talks[..2].iter().for_each(closed);
    assert_eq!(collect(&memory), 0, "there is room");
    talks[2].establish(Speech::SYN);
    closed(&talks[3]);
    let another = Talk::from_outside(&memory, at(F::CLIENT.ip(), 30_000), F::WEB);
    assert_eq!(another.say(Speech::SYN).verdict, Verdict::Drop(DropReason::FlowLimit));
    assert_eq!(collect(&memory), 2, "as many as it takes");
    assert!(talks[2].flow(Speech::ACK).is_some(), "an open one is not touched");
    another.establish(Speech::SYN);
}

fn a_flow_is_counted_once_however_it_ends<F: TestFamily>() {
    for end in [Speech::FIN, Speech::RST] {
        let memory = Memory::new(64);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        for _ in 0..3 {
            talk.establish(Speech::SYN);
            assert_eq!(memory.confirmed.borrow()[&C1.slot], 1);
            talk.say(end);
        }
        talk.say(Speech::SYN);
        assert_eq!(memory.confirmed.borrow()[&C1.slot], 0, "the last was reopened and is not confirmed yet");
    }
}

fn a_flood_of_one_container_ends_half_open_flows_of_its_own_share_alone<F: TestFamily>() {
    let mut memory = Memory::with_shares(4, 8);
    memory.config.flow_limit = 1000;
    let others = [Talk::of(&memory, C2, 20_000, F::SERVER), Talk::of(&memory, C3, 20_000, F::SERVER)];
    for talk in others {
        talk.say(Speech::Udp);
    }
    for port in 0..100 {
        Talk::of(&memory, C1, 20_000 + port, F::SERVER).say(Speech::Udp);
        Talk::from_outside(&memory, at(F::FAR, 1000 + port), F::WEB).say(Speech::SYN);
    }
    for talk in others {
        assert_eq!(talk.flow(Speech::Udp).expect("untouched").word.life(), Life::Half);
    }
    assert_eq!(flows(&memory).len(), 4 + 2);
}

/// Sends a datagram to many; what becomes of it, and the devices that got a copy.
fn broadcast<F: TestFamily>(memory: &Memory, to: IpAddr, mac: [u8; 6]) -> (Verdict, Vec<u32>) {
    let link = Ethernet { from: C1.mac, to: mac };
    let sent = link.datagram(at(C1.ip::<F>(), 5353), at(to, 5353), 1, b"who is there?");
    let mut frame = frame_on(egress(C1), sent.clone());
    let verdict = travel(memory, egress(C1), &mut frame);
    assert!(frame.copies.iter().all(|(_, copy)| *copy == sent), "as it was sent");
    (verdict, frame.copies.iter().map(|(device, _)| *device).collect())
}

fn a_group_is_the_other_members_of_the_network_and_nobody_else<F: TestFamily>() {
    let memory = Memory::new(16);
    assert_eq!(broadcast::<F>(&memory, F::GROUP, F::GROUP_MAC), (Verdict::Done, vec![C2.device()]));
    for (to, mac) in [(C2.ip::<F>(), BROADCAST), (F::HOST, BROADCAST), (F::GROUP, GATEWAY_MAC)] {
        let refused = (Verdict::Drop(DropReason::Multicast), vec![]);
        assert_eq!(broadcast::<F>(&memory, to, mac), refused, "{to} by {mac:x?}");
    }
    assert_eq!(memory.events(Event::Replicated), 1);
    assert!(flows(&memory).is_empty());
}

/// IPv6 has no broadcast.
#[test]
fn a_broadcast_of_ipv4_reaches_the_other_members_of_the_network_and_nobody_else() {
    let memory = Memory::new(16);
    for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 30, 255, 255)] {
        assert_eq!(broadcast::<V4>(&memory, to.into(), BROADCAST), (Verdict::Done, vec![C2.device()]), "{to}");
    }
    let other_network = broadcast::<V4>(&memory, Ipv4Addr::new(172, 31, 255, 255).into(), BROADCAST);
    assert_eq!(other_network, (Verdict::Drop(DropReason::Multicast), vec![]));
    assert_eq!(memory.events(Event::Replicated), 2);
    assert!(flows(&memory).is_empty());
}

fn a_member_that_is_alone_or_has_just_come_broadcasts_to_nobody<F: TestFamily>() {
    let mut memory = Memory::new(16);
    for members in [vec![(C1.slot, C1.slot)], vec![]] {
        memory.members = members.into_iter().collect();
        assert_eq!(broadcast::<F>(&memory, F::GROUP, F::GROUP_MAC), (Verdict::Done, vec![]));
    }
}

fn a_storm_is_held_down_by_name_and_passes<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.config.broadcast_rate = 3;
    let storm = || (0..10).map(|_| broadcast::<F>(&memory, F::GROUP, F::GROUP_MAC).0).collect::<Vec<_>>();
    let verdicts = storm();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count(), 3);
    assert_eq!(verdicts[9], Verdict::Drop(DropReason::BroadcastRate));
    memory.now.set(memory.now.get() + u64::from(HZ));
    assert_eq!(storm()[0], Verdict::Done);
    let unicast =
        frame_on(egress(C1), link_on(egress(C1)).datagram(at(C1.ip::<F>(), 1), at(C2.ip::<F>(), 2), 64, b"x"));
    assert!(matches!(travel(&memory, egress(C1), &mut unicast.clone()), Verdict::Peer { .. }));
}

fn a_newcomer_whom_nobody_points_to_yet_reaches_each_member_once<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.endpoints.insert(C3.slot, C1.endpoint(1));
    let third = memory.endpoints[&C3.slot].ifindex;
    memory.members = [(C1.slot, C2.slot), (C2.slot, C3.slot), (C3.slot, C2.slot)].into_iter().collect();
    let (verdict, copies) = broadcast::<F>(&memory, F::GROUP, F::GROUP_MAC);
    assert_eq!((verdict, copies), (Verdict::Done, vec![C2.device(), third]));
}

fn a_member_whose_device_does_not_take_it_misses_a_broadcast_and_that_is_counted<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.endpoints.insert(C3.slot, Endpoint { ifindex: C3.device(), ..C1.endpoint(1) });
    memory.members = [(C1.slot, C2.slot), (C2.slot, C3.slot), (C3.slot, C1.slot)].into_iter().collect();
    let mut take = |slot: u32, mtu: u16| memory.endpoints.get_mut(&slot).expect("a member").mtu = mtu;
    take(C2.slot, 1400);
    take(C3.slot, 9000);
    let link = Ethernet { from: C1.mac, to: F::GROUP_MAC };
    let headers = F::HEADER_LEN as usize + 8;
    for (len, reached) in [(1400, vec![C2.device(), C3.device()]), (1401, vec![C3.device()]), (9001, vec![])] {
        let bytes = link.datagram(at(C1.ip::<F>(), 5353), at(F::GROUP, 5353), 1, &vec![7; len - headers]);
        let mut frame = frame_on(egress(C1), bytes);
        assert_eq!(travel(&memory, egress(C1), &mut frame), Verdict::Done);
        assert_eq!(frame.copies.iter().map(|(device, _)| *device).collect::<Vec<_>>(), reached, "{len}");
    }
    assert_eq!((memory.events(Event::Replicated), memory.drops(DropReason::TooBig)), (3, 3));
}
