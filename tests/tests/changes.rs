//! Tier 0: what a flow rests on changes: rules, endpoints, routes, addresses.

use std::net::IpAddr;

use netbpf_common::abi::{DropReason, Event, NextHop, PublishedPort, Rule, Transport, Uplink, UplinkFlags, generation};
use netbpf_common::path::Verdict;
use netbpf_common::wire::tcp_flags;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Arrival, Speech, Tuple, answer, collect, flows, send};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{Talk, at, peer};
use netbpf_tests::world::{C1, C2, C3, Container, GENERATION, HOST_DEVICE, HZ, PUBLISHES, UPLINK, uplink, uplink_at};

for_both!(
    a_client_that_never_stops_sending_reaches_the_container_that_was_put_behind_the_publish,
    a_tcp_connection_ends_with_the_container_behind_the_publish_and_a_syn_finds_the_new_one,
    the_container_that_was_put_away_from_behind_a_publish_is_told_by_a_reset,
    a_process_of_the_host_in_a_connection_that_nobody_knows_is_told_by_a_reset,
    a_reset_is_never_answered_with_a_reset,
    a_rule_announced_again_for_the_same_place_lets_flows_go_on_by_their_ports,
    packets_of_old_flows_never_reach_the_next_owner_of_an_address,
    the_middle_of_a_connection_reaches_nobody_who_came_after_its_sender_also_when_its_flow_is_collected,
    the_next_owner_of_an_address_does_not_speak_in_the_flows_of_the_last,
    flows_of_a_container_that_is_gone_are_collected_at_once,
    flows_whose_rule_is_withdrawn_are_collected_at_once_and_those_of_a_rule_that_came_back_are_not,
    what_is_not_published_any_more_is_the_hosts_again,
    a_container_that_spoke_to_the_host_reaches_what_is_published_there_afterwards,
    a_change_of_routes_leaves_flows_alone_as_long_as_the_address_is_the_same,
    masqueraded_flows_end_with_the_address_they_were_given,
    a_publish_answers_from_the_address_it_was_asked_at_whatever_the_uplink_is_called_now,
    a_route_is_looked_up_at_most_once_a_second,
    a_change_that_no_agent_announces_is_noticed_within_a_second,
);

/// Rules of [`WEB`] and [`DNS`].
const WEB_RULE: u32 = 1;
const DNS_RULE: u32 = 2;

/// A rule leads elsewhere, or is announced again.
fn publish(memory: &mut Memory, number: u32, container: Container, generation: u32) {
    let publish = PUBLISHES.iter().find(|publish| publish.rule == number).expect("a publish of the world");
    let rule = Rule { endpoint: container.slot, generation, ..publish.rule() };
    memory.rules.insert(number, rule);
    memory.bump(generation::FIRST_RULE + number);
    memory.bump(generation::PUBLISH_EPOCH);
}

fn unpublish<F: TestFamily>(memory: &mut Memory, number: u32, transport: Transport, port: u16) {
    memory.of_mut::<F>().ports.insert(transport.port_index(port), PublishedPort::default());
    memory.bump(generation::FIRST_RULE + number);
    memory.bump(generation::PUBLISH_EPOCH);
}

/// The container goes, and another takes slot, device and address.
fn replace(memory: &mut Memory, container: Container) {
    memory.endpoints.insert(container.slot, container.endpoint(GENERATION + 1));
}

#[track_caller]
fn assert_reset(arrival: &Arrival, to: Verdict) {
    assert_eq!(arrival.verdict, to);
    assert_eq!(arrival.tcp_flags().expect("a TCP segment") & tcp_flags::RST, tcp_flags::RST);
}

// --- Rules and endpoints ---

fn a_client_that_never_stops_sending_reaches_the_container_that_was_put_behind_the_publish<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::from_outside(&memory, F::CLIENT, F::DNS).establish(Speech::Udp);
    publish(&mut memory, DNS_RULE, C1, GENERATION);
    let talk = Talk::from_outside(&memory, F::CLIENT, F::DNS);
    let next = talk.say(Speech::Udp);
    assert_eq!((next.verdict, next.tuple().to), (peer(C1), at(C1.ip::<F>(), 53)));
    assert_eq!(answer(&memory, &next, Speech::Udp).tuple().from, F::DNS);
    assert_eq!(flows(&memory).len(), 1, "the old flow is gone");
}

fn a_tcp_connection_ends_with_the_container_behind_the_publish_and_a_syn_finds_the_new_one<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::of(&memory, C3, 20_000, F::WEB).establish(Speech::SYN);
    Talk::of_host::<F>(&memory, 45_000).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);

    let outside = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    assert_eq!(outside.say(Speech::ACK).verdict, Verdict::Pass, "the host's stack resets it");
    assert_eq!(memory.drops(DropReason::StaleFlow), 1);
    let neighbour = Talk::of(&memory, C3, 20_000, F::WEB);
    assert_reset(&neighbour.say(Speech::ACK), peer(C3));
    let host = Talk::of_host::<F>(&memory, 45_000);
    assert_reset(&host.say(Speech::ACK), Verdict::Ingress { ifindex: HOST_DEVICE });
    assert!(flows(&memory).is_empty());

    for talk in [outside, neighbour, host] {
        assert_eq!(talk.say(Speech::SYN).tuple().to, at(C2.ip::<F>(), 80));
    }
}

fn the_container_that_was_put_away_from_behind_a_publish_is_told_by_a_reset<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);
    let old = Talk::server_of(&memory, C1, seen);
    assert_reset(&old.say(Speech::ACK), peer(C1));
    assert!(flows(&memory).is_empty());
}

fn a_process_of_the_host_in_a_connection_that_nobody_knows_is_told_by_a_reset<F: TestFamily>() {
    let memory = Memory::new(16);
    assert_reset(&Talk::of_host::<F>(&memory, 45_000).say(Speech::ACK), Verdict::Ingress { ifindex: HOST_DEVICE });
    assert!(flows(&memory).is_empty());
}

fn a_reset_is_never_answered_with_a_reset<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);
    let old = Talk::server_of(&memory, C1, seen);
    assert_eq!(old.say(Speech::RST).verdict, Verdict::Drop(DropReason::StaleFlow), "RFC 9293 section 3.5.2");
    assert_eq!(memory.events(Event::ResetMade), 0);
}

fn a_rule_announced_again_for_the_same_place_lets_flows_go_on_by_their_ports<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::of_host::<F>(&memory, 20_000).establish(Speech::SYN);
    // C1 reaches itself in the gateway's name, where the host has just taken the port.
    let itself = Talk::of(&memory, C1, 20_000, F::WEB).establish(Speech::SYN);
    assert_ne!(itself.from.port(), 20_000);
    let id = |memory: &Memory| Talk::of(memory, C1, 20_000, F::WEB).flow(Speech::SYN).expect("a flow").word.id();
    let before = id(&memory);
    publish(&mut memory, WEB_RULE, C1, GENERATION);

    let again = Talk::of(&memory, C1, 20_000, F::WEB);
    assert_eq!(again.say(Speech::ACK).tuple(), itself);
    assert_eq!(id(&memory), before);
    assert_eq!(memory.events(Event::FlowRedecided), 1);
    again.say(Speech::ACK);
    assert_eq!(memory.events(Event::FlowRedecided), 1, "once per direction is enough");
    let back = Talk::server_of(&memory, C1, itself).say(Speech::ACK);
    assert_eq!(back.tuple().to, at(C1.ip::<F>(), 20_000));
    assert_eq!(memory.events(Event::FlowMade), 2);
}

fn packets_of_old_flows_never_reach_the_next_owner_of_an_address<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let world = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
    let world_tcp = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::of(&memory, C2, 20_001, at(C1.ip::<F>(), 7)).establish(Speech::SYN);
    replace(&mut memory, C1);

    let outside = |seen: Tuple| Talk::from_outside(&memory, seen.to, seen.from);
    assert_eq!(outside(world).say(Speech::Udp).verdict, Verdict::Pass);
    assert_eq!(outside(world_tcp).say(Speech::ACK).verdict, Verdict::Pass);
    assert_eq!(Talk::from_outside(&memory, F::CLIENT, F::WEB).say(Speech::ACK).verdict, Verdict::Pass);
    assert_reset(&Talk::of(&memory, C2, 20_001, at(C1.ip::<F>(), 7)).say(Speech::ACK), peer(C2));
    assert!(flows(&memory).is_empty());
}

fn the_middle_of_a_connection_reaches_nobody_who_came_after_its_sender_also_when_its_flow_is_collected<
    F: TestFamily,
>() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C2, 20_001, at(C1.ip::<F>(), 7)).establish(Speech::SYN);
    replace(&mut memory, C1);
    assert_eq!(collect(&memory), 1);
    for middle in [Speech::ACK, Speech::FIN] {
        assert_reset(&Talk::of(&memory, C2, 20_001, at(C1.ip::<F>(), 7)).say(middle), peer(C2));
        let host = send(&memory, Hook::Host, middle, at(F::GATEWAY, 45_000), at(C1.ip::<F>(), 7));
        assert_reset(&host, Verdict::Ingress { ifindex: HOST_DEVICE });
    }
    assert!(flows(&memory).is_empty());
    // Who was there before the sender is who the connection began with.
    assert_eq!(Talk::of(&memory, C1, 20_001, at(C2.ip::<F>(), 7)).say(Speech::ACK).verdict, peer(C2));
}

fn the_next_owner_of_an_address_does_not_speak_in_the_flows_of_the_last<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
    replace(&mut memory, C1);
    let next = Talk::of(&memory, C1, 20_000, F::SERVER);
    assert_reset(&next.say(Speech::ACK), peer(C1));
    assert!(flows(&memory).is_empty());
    let seen = next.say(Speech::SYN);
    assert_eq!(answer(&memory, &seen, Speech::SYN_ACK).verdict, peer(C1));
}

fn flows_of_a_container_that_is_gone_are_collected_at_once<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::of(&memory, C2, 20_000, F::SERVER).establish(Speech::SYN);
    memory.of_mut::<F>().addresses.remove(&F::addr(C1.ip::<F>()));
    memory.endpoints.remove(&C1.slot);
    assert_eq!(collect(&memory), 2);
    assert_eq!(flows(&memory).len(), 1);
}

fn flows_whose_rule_is_withdrawn_are_collected_at_once_and_those_of_a_rule_that_came_back_are_not<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::DNS).establish(Speech::Udp);
    unpublish::<F>(&mut memory, WEB_RULE, Transport::Tcp, F::WEB.port());
    publish(&mut memory, DNS_RULE, C2, GENERATION);
    assert_eq!(collect(&memory), 1);
    assert!(Talk::from_outside(&memory, F::CLIENT, F::DNS).flow(Speech::Udp).is_some());
}

fn what_is_not_published_any_more_is_the_hosts_again<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let tcp = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::DNS).establish(Speech::Udp);
    unpublish::<F>(&mut memory, WEB_RULE, Transport::Tcp, F::WEB.port());
    unpublish::<F>(&mut memory, DNS_RULE, Transport::Udp, F::DNS.port());

    assert_eq!(Talk::from_outside(&memory, F::CLIENT, F::DNS).say(Speech::Udp).verdict, Verdict::Pass);
    for speech in [Speech::ACK, Speech::SYN] {
        assert_eq!(Talk::from_outside(&memory, F::CLIENT, F::WEB).say(speech).verdict, Verdict::Pass);
    }
    let server = Talk::server_of(&memory, C1, tcp);
    assert_reset(&server.say(Speech::ACK), peer(C1));
}

fn a_container_that_spoke_to_the_host_reaches_what_is_published_there_afterwards<F: TestFamily>() {
    let mut memory = Memory::new(16);
    unpublish::<F>(&mut memory, DNS_RULE, Transport::Udp, F::DNS.port());
    assert_eq!(Talk::of(&memory, C1, 20_000, F::DNS).say(Speech::Udp).way_back(), Some(Hook::Host));
    memory
        .of_mut::<F>()
        .ports
        .insert(Transport::Udp.port_index(F::DNS.port()), PublishedPort { wildcard: DNS_RULE, specific: 0 });
    publish(&mut memory, DNS_RULE, C2, GENERATION);
    assert_eq!(Talk::of(&memory, C1, 20_000, F::DNS).say(Speech::Udp).verdict, peer(C2));
}

// --- Routes ---

fn next_hop(arrival: &Arrival) -> (u32, NextHop) {
    match arrival.verdict {
        Verdict::Neighbour { ifindex, next_hop } => (ifindex, next_hop),
        other => panic!("{other:?}"),
    }
}

fn renumber(memory: &mut Memory, address: IpAddr) {
    memory.uplinks.insert(UPLINK, uplink_at(address));
}

fn a_change_of_routes_leaves_flows_alone_as_long_as_the_address_is_the_same<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let seen = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
    memory.bump(generation::ROUTE_EPOCH);
    let again = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::ACK);
    assert_eq!(again.tuple(), seen);
    assert_eq!(next_hop(&again).0, UPLINK);
    assert_eq!(memory.events(Event::FlowMade), 1);
}

fn masqueraded_flows_end_with_the_address_they_were_given<F: TestFamily>() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
    Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
    Talk::of(&memory, C1, 20_000, F::PINGED).establish(Speech::Ping);
    renumber(&mut memory, F::ALSO_HOST);
    memory.bump(generation::ROUTE_EPOCH);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    assert_reset(&talk.say(Speech::ACK), peer(C1));
    assert_eq!(talk.say(Speech::SYN).tuple().from, at(F::ALSO_HOST, 20_000));
    assert_eq!(talk.say(Speech::Udp).tuple().from, at(F::ALSO_HOST, 20_000));
    assert_eq!(Talk::of(&memory, C1, 20_000, F::PINGED).say(Speech::Ping).tuple().from, at(F::ALSO_HOST, 20_000));
    assert_eq!(flows(&memory).len(), 3);
}

fn a_publish_answers_from_the_address_it_was_asked_at_whatever_the_uplink_is_called_now<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
    renumber(&mut memory, F::ALSO_HOST);
    memory.bump(generation::ROUTE_EPOCH);
    let server = Talk::server_of(&memory, C1, seen);
    assert_eq!(server.say(Speech::ACK).tuple().from, F::WEB);
}

fn a_route_is_looked_up_at_most_once_a_second<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let routed = || u64::from(talk.flow(Speech::Udp).expect("a flow").routed);
    let tick = |jiffies: u32| memory.now.set(memory.now.get() + u64::from(jiffies));
    talk.say(Speech::Udp);
    let first = memory.now.get();
    for _ in 0..10 {
        tick(HZ / 10);
        talk.say(Speech::Udp);
        assert_eq!(routed(), first);
    }
    tick(1);
    talk.say(Speech::Udp);
    assert_eq!(routed(), memory.now.get());
}

fn a_change_that_no_agent_announces_is_noticed_within_a_second<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let seen = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
    memory.uplinks.insert(UPLINK, Uplink { flags: !UplinkFlags::ATTACHED, ..uplink() });
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    memory.sleep(1);
    assert_eq!(talk.say(Speech::Udp).tuple(), seen);
    memory.now.set(memory.now.get() + 1);
    assert_eq!(talk.say(Speech::Udp).verdict, Verdict::Drop(DropReason::NoUplink));
}
