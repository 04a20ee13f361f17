//! Tier 0: lives of flows, from the first packet to the collector, under a clock that the test turns.

use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_common::abi::{
    DropReason, Event, Flow, Life, NextHop, PublishedPort, Rule, Scope, Transport, Uplink, UplinkFlags, generation,
};
use netbpf_common::path::{HostSocket, Verdict};
use netbpf_common::wire::{V4Addr, protocol, tcp_flags};
use netbpf_tests::fixture::Hook;
use netbpf_tests::journey::{
    Arrival, Speech, TTL, Tuple, answer, collect, entry, flows, frame_on, link_on, send, travel,
};
use netbpf_tests::memory::Memory;
use netbpf_tests::world::{
    C1, C2, C3, Container, FAR, GATEWAY, GATEWAY_MAC, GENERATION, HOST, HOST_DEVICE, HZ, MTU, NAT_FIRST, NAT_LAST,
    OUTSIDE, PUBLISHES, UPLINK, VIRTUAL_LOOPBACK, uplink,
};

const SERVER: SocketAddrV4 = SocketAddrV4::new(FAR, 443);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(OUTSIDE, 40_000);
/// A machine that is pinged: an echo has its identifier at the asking side.
const PINGED: SocketAddrV4 = SocketAddrV4::new(FAR, 0);
/// Published TCP port of C1.
const WEB: SocketAddrV4 = SocketAddrV4::new(HOST, 8080);
/// Published UDP port of C2.
const DNS: SocketAddrV4 = SocketAddrV4::new(HOST, 5353);
/// Rules of the two.
const WEB_RULE: u32 = 1;
const DNS_RULE: u32 = 2;

const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

const fn egress(container: Container) -> Hook {
    Hook::Egress(container.device())
}

const fn peer(container: Container) -> Verdict {
    Verdict::Peer { ifindex: container.device() }
}

/// A conversation as its originator has it.
#[derive(Clone, Copy)]
struct Talk<'a> {
    memory: &'a Memory,
    hook: Hook,
    from: SocketAddrV4,
    to: SocketAddrV4,
}

impl<'a> Talk<'a> {
    fn of(memory: &'a Memory, container: Container, port: u16, to: SocketAddrV4) -> Self {
        Self { memory, hook: egress(container), from: at(container.ip, port), to }
    }

    /// A process of the host that wants 127.0.0.1:8080.
    fn of_host(memory: &'a Memory, port: u16) -> Self {
        Self { memory, hook: Hook::Host, from: at(GATEWAY, port), to: at(VIRTUAL_LOOPBACK, WEB.port()) }
    }

    /// What the side that the originator sees as `seen` says in the same flow.
    fn server_of(memory: &'a Memory, container: Container, seen: Tuple) -> Self {
        Self { memory, hook: egress(container), from: seen.to, to: seen.from }
    }

    fn from_outside(memory: &'a Memory, from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self { memory, hook: Hook::Uplink, from, to }
    }

    fn say(&self, speech: Speech) -> Arrival {
        send(self.memory, self.hook, speech, self.from, self.to)
    }

    /// Asks, is answered, and asks again: a confirmed flow. What the other side sees.
    #[track_caller]
    fn establish(&self, speech: Speech) -> Tuple {
        let there = self.say(speech);
        answer(self.memory, &there, speech.answer());
        self.say(speech.next());
        assert_eq!(self.flow(speech).expect("a flow").word.life(), Life::Established);
        there.tuple()
    }

    fn flow(&self, speech: Speech) -> Option<Flow<V4Addr>> {
        entry(self.memory, self.hook, &Tuple::new(speech, self.from, self.to))
    }
}

/// A rule leads elsewhere, or is announced again.
fn publish(memory: &mut Memory, number: u32, container: Container, generation: u32) {
    let publish = PUBLISHES.iter().find(|publish| publish.rule == number).expect("a publish of the world");
    let rule = Rule { endpoint: container.slot, generation, ..publish.rule() };
    memory.rules.insert(number, rule);
    memory.bump(generation::FIRST_RULE + number);
    memory.bump(generation::PUBLISH_EPOCH);
}

fn unpublish(memory: &mut Memory, number: u32, transport: Transport, port: u16) {
    memory.ports.insert(transport.port_index(port), PublishedPort::default());
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

// --- From the first packet to the last ---

#[test]
fn a_tcp_connection_is_confirmed_by_the_packet_that_completes_its_handshake() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
    let life = || talk.flow(Speech::SYN).expect("a flow").word.life();
    let syn = talk.say(Speech::SYN);
    assert_eq!(life(), Life::Half);
    answer(&memory, &syn, Speech::SYN_ACK);
    assert_eq!(life(), Life::Half);
    talk.say(Speech::ACK);
    assert_eq!(life(), Life::Established);
}

#[test]
fn a_flow_is_collected_when_it_was_silent_for_longer_than_its_state_allows() {
    use Speech as S;
    /// What the originator says, and what the other side says.
    enum Say {
        O(Speech),
        R(Speech),
    }
    use Say::{O, R};
    let opened = || vec![O(S::SYN), R(S::SYN_ACK), O(S::ACK)];
    let after_opening = |more: Vec<Say>| opened().into_iter().chain(more).collect::<Vec<_>>();
    for (says, conversation, seconds) in [
        ("a SYN", vec![O(S::SYN)], 60),
        ("a SYN that was answered", vec![O(S::SYN), R(S::SYN_ACK)], 60),
        ("an open connection", opened(), 432_000),
        ("one that the originator has closed", after_opening(vec![O(S::FIN)]), 120),
        ("one that the other side has closed", after_opening(vec![R(S::FIN)]), 120),
        ("one that both have closed", after_opening(vec![O(S::FIN), R(S::FIN)]), 120),
        ("one that was reset", after_opening(vec![R(S::RST)]), 10),
        ("one that was refused", vec![O(S::SYN), R(S::RST)], 10),
        ("a question", vec![O(S::Udp)], 30),
        ("a question with its answer", vec![O(S::Udp), R(S::Udp)], 30),
        ("a conversation", vec![O(S::Udp), R(S::Udp), O(S::Udp)], 120),
        ("a ping", vec![O(S::Ping), R(S::Pong)], 30),
    ] {
        let memory = Memory::new(16);
        let to = if matches!(conversation[0], O(S::Ping)) { PINGED } else { SERVER };
        let talk = Talk::of(&memory, C1, 20_000, to);
        let mut seen = None;
        for say in conversation {
            match (say, &seen) {
                (O(speech), _) => seen = Some(talk.say(speech)),
                (R(speech), Some(there)) => {
                    answer(&memory, there, speech);
                }
                (R(_), None) => panic!("{says}: an answer before the question"),
            }
        }
        memory.sleep(seconds);
        assert_eq!(collect(&memory), 0, "{says} after {seconds} s");
        memory.sleep(1);
        assert_eq!(collect(&memory), 1, "{says} after one more");
        assert!(memory.flows.borrow().is_empty(), "{says}");
        assert_eq!(memory.events(Event::FlowCollected), 1, "{says}");
    }
}

#[test]
fn a_protocol_without_ports_is_collected_after_ten_minutes() {
    let memory = Memory::new(16);
    let frame = link_on(egress(C1)).protocol(47, C1.ip, FAR, &[0; 8]);
    travel(&memory, egress(C1), &mut frame_on(egress(C1), frame));
    memory.sleep(600);
    assert_eq!(collect(&memory), 0);
    memory.sleep(1);
    assert_eq!(collect(&memory), 1);
}

#[test]
fn either_side_alone_keeps_a_flow_alive() {
    for answers in [false, true] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, SERVER);
        let there = talk.say(Speech::Udp);
        talk.establish(Speech::Udp);
        for _ in 0..10 {
            memory.sleep(100);
            assert_eq!(collect(&memory), 0);
            if answers {
                answer(&memory, &there, Speech::Udp)
            } else {
                talk.say(Speech::Udp)
            };
        }
        assert_eq!(memory.events(Event::FlowMade), 1);
    }
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
    talk.establish(Speech::SYN);
    let fin = talk.say(Speech::FIN);
    for _ in 0..10 {
        memory.sleep(60);
        assert_eq!(answer(&memory, &fin, Speech::ACK).verdict, peer(C1));
        talk.say(Speech::ACK);
        collect(&memory);
    }
    assert_eq!(memory.events(Event::FlowMade), 1);
}

#[test]
fn a_container_that_uses_its_port_again_right_after_close_gets_a_new_connection_by_the_same_port() {
    for end in [Speech::FIN, Speech::RST] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, SERVER);
        let seen = talk.establish(Speech::SYN);
        let first = talk.flow(Speech::SYN).expect("a flow").word.id();
        talk.say(end);
        assert_eq!(talk.say(Speech::SYN).tuple(), seen);
        let second = talk.flow(Speech::SYN).expect("a flow");
        assert_ne!(second.word.id(), first);
        assert_eq!(second.word.life(), Life::Half);
        assert_eq!(flows(&memory).len(), 1);
    }
}

#[test]
fn a_repeated_syn_is_of_the_same_connection() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
    let first = talk.say(Speech::SYN);
    memory.sleep(3);
    let second = talk.say(Speech::SYN);
    assert_eq!((second.verdict, second.bytes), (first.verdict, first.bytes));
    assert_eq!(memory.events(Event::FlowMade), 1);
}

// --- Ports ---

#[test]
fn two_containers_with_the_same_port_to_the_same_destination_each_get_their_own_answers() {
    for (speech, to) in [(Speech::Udp, SERVER), (Speech::SYN, SERVER), (Speech::Ping, PINGED)] {
        let memory = Memory::new(16);
        let first = Talk::of(&memory, C1, 20_000, to).say(speech);
        let second = Talk::of(&memory, C2, 20_000, to).say(speech);
        let third = Talk::of(&memory, C3, 20_000, to).say(speech);
        assert_eq!(first.tuple().from, at(HOST, 20_000), "{speech:?}");
        let ports = [&first, &second, &third].map(|seen| seen.tuple().from.port());
        assert!(ports[1] != ports[0] && ports[2] != ports[0] && ports[1] != ports[2], "{speech:?}: {ports:?}");
        assert!(ports.iter().all(|port| (NAT_FIRST..=NAT_LAST).contains(port)), "{speech:?}: {ports:?}");
        for (seen, container) in [(&third, C3), (&second, C2), (&first, C1)] {
            let back = answer(&memory, seen, speech.answer());
            assert_eq!(back.way_back(), Some(egress(container)), "{speech:?}");
            let asked = Tuple::new(speech, at(container.ip, 20_000), to);
            assert_eq!(back.tuple(), asked.reversed(), "{speech:?}");
        }
    }
}

#[test]
fn the_same_port_serves_any_number_of_destinations() {
    let memory = Memory::new(256);
    for port in 1..200 {
        let seen = Talk::of(&memory, C1, 20_000, at(FAR, port)).say(Speech::Udp).tuple();
        assert_eq!(seen.from, at(HOST, 20_000));
    }
}

#[test]
fn a_port_outside_the_range_is_kept_and_its_answers_are_found_again() {
    let memory = Memory::new(16);
    let sip = Talk::of(&memory, C1, 5060, at(FAR, 5060)).say(Speech::Udp);
    assert_eq!(sip.tuple().from, at(HOST, 5060));
    assert_eq!(answer(&memory, &sip, Speech::Udp).verdict, peer(C1));
    let stranger = Talk::from_outside(&memory, CLIENT, at(HOST, 5060)).say(Speech::Udp);
    assert_eq!(stranger.verdict, Verdict::Pass, "what others send there is the host's");
}

#[test]
fn a_port_is_not_kept_where_a_socket_of_the_host_has_it() {
    for (port, speech) in [(5060, Speech::Udp), (20_000, Speech::Udp), (20_000, Speech::SYN)] {
        for socket in [HostSocket::Listening, HostSocket::Connected] {
            let mut memory = Memory::new(16);
            let replies = Tuple::new(speech, SERVER, at(HOST, port)).key(Scope::Uplink);
            memory.sockets.insert(replies, socket);
            let seen = Talk::of(&memory, C1, port, SERVER).say(speech);
            assert_ne!(seen.tuple().from.port(), port);
            assert!((NAT_FIRST..=NAT_LAST).contains(&seen.tuple().from.port()));
            assert_eq!(answer(&memory, &seen, speech.answer()).verdict, peer(C1));
            assert_eq!(Talk::from_outside(&memory, SERVER, at(HOST, port)).say(speech.answer()).verdict, Verdict::Pass);
        }
    }
}

#[test]
fn a_published_port_is_no_port_for_masquerading() {
    let memory = Memory::new(16);
    let seen = Talk::of(&memory, C3, 8080, SERVER).say(Speech::SYN).tuple();
    assert!((NAT_FIRST..=NAT_LAST).contains(&seen.from.port()));
}

#[test]
fn when_all_ports_to_a_destination_are_used_up_others_are_still_reached_and_it_recovers() {
    let mut memory = Memory::new(16);
    (memory.config.nat_first, memory.config.nat_last) = (20_000, 20_000);
    let talks = [C1, C2, C3].map(|container| Talk::of(&memory, container, 40_000, SERVER));
    let kept = talks[0].establish(Speech::Udp);
    assert_eq!(kept.from.port(), 40_000);
    assert_eq!(talks[1].say(Speech::Udp).tuple().from.port(), 20_000);
    for _ in 0..3 {
        assert_eq!(talks[2].say(Speech::Udp).verdict, Verdict::Drop(DropReason::NoPort));
    }
    assert_eq!(talks[0].say(Speech::Udp).tuple(), kept);
    assert_eq!(Talk::of(&memory, C3, 40_000, at(FAR, 444)).say(Speech::Udp).tuple().from.port(), 40_000);
    memory.sleep(31);
    assert_eq!(collect(&memory), 2, "the unanswered");
    assert_eq!(talks[2].say(Speech::Udp).tuple().from.port(), 20_000);
}

// --- Full tables, floods ---

#[test]
fn a_full_table_refuses_new_flows_whole_and_leaves_the_others_alone() {
    for capacity in [2, 3] {
        let mut memory = Memory::new(16);
        memory.capacity = capacity;
        let talk = Talk::of(&memory, C1, 20_000, SERVER);
        let seen = talk.establish(Speech::Udp);
        for speech in [Speech::Udp, Speech::SYN] {
            let refused = Talk::of(&memory, C2, 20_000, SERVER).say(speech);
            assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull));
        }
        let refused = Talk::from_outside(&memory, CLIENT, WEB).say(Speech::SYN);
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull));
        assert_eq!(flows(&memory).len(), 1);
        assert_eq!(talk.say(Speech::Udp).tuple(), seen);
    }
}

#[test]
fn a_flood_ends_the_oldest_half_open_flows_and_no_confirmed_one() {
    const FLOOD: u16 = 100;
    let memory = Memory::new(8);
    let confirmed = [1, 2, 3].map(|port| Talk::from_outside(&memory, at(OUTSIDE, port), WEB));
    confirmed.map(|talk| talk.establish(Speech::SYN));
    let talk = |port| Talk::from_outside(&memory, at(FAR, port), WEB);
    for port in 0..FLOOD {
        let there = talk(port).say(Speech::SYN);
        // The container answers every packet of a flood; that confirms nothing.
        answer(&memory, &there, Speech::SYN_ACK);
        talk(port).say(Speech::SYN);
    }
    for talk in confirmed {
        assert_eq!(talk.flow(Speech::SYN).expect("untouched").word.life(), Life::Established);
    }
    let left = (0..FLOOD).filter(|port| talk(*port).flow(Speech::SYN).is_some()).collect::<Vec<_>>();
    assert_eq!(left, (FLOOD - 8..FLOOD).collect::<Vec<_>>(), "the youngest");
    assert_eq!(flows(&memory).len(), 3 + 8);
    assert_eq!(memory.events(Event::FlowEvicted), u64::from(FLOOD) - 8);
}

// --- What a flow rests on changes ---

#[test]
fn a_client_that_never_stops_sending_reaches_the_container_that_was_put_behind_the_publish() {
    let mut memory = Memory::new(16);
    Talk::from_outside(&memory, CLIENT, DNS).establish(Speech::Udp);
    publish(&mut memory, DNS_RULE, C1, GENERATION);
    let talk = Talk::from_outside(&memory, CLIENT, DNS);
    let next = talk.say(Speech::Udp);
    assert_eq!((next.verdict, next.tuple().to), (peer(C1), at(C1.ip, 53)));
    assert_eq!(answer(&memory, &next, Speech::Udp).tuple().from, DNS);
    assert_eq!(flows(&memory).len(), 1, "the old flow is gone");
}

#[test]
fn a_tcp_connection_ends_with_the_container_behind_the_publish_and_a_syn_finds_the_new_one() {
    let mut memory = Memory::new(16);
    Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    Talk::of(&memory, C3, 20_000, WEB).establish(Speech::SYN);
    Talk::of_host(&memory, 45_000).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);

    let outside = Talk::from_outside(&memory, CLIENT, WEB);
    assert_eq!(outside.say(Speech::ACK).verdict, Verdict::Pass, "the host's stack resets it");
    assert_eq!(memory.drops(DropReason::StaleFlow), 1);
    let neighbour = Talk::of(&memory, C3, 20_000, WEB);
    assert_reset(&neighbour.say(Speech::ACK), peer(C3));
    let host = Talk::of_host(&memory, 45_000);
    assert_reset(&host.say(Speech::ACK), Verdict::Ingress { ifindex: HOST_DEVICE });
    assert!(flows(&memory).is_empty());

    for talk in [outside, neighbour, host] {
        assert_eq!(talk.say(Speech::SYN).tuple().to, at(C2.ip, 80));
    }
}

#[test]
fn the_container_that_was_put_away_from_behind_a_publish_is_told_by_a_reset() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);
    let old = Talk::server_of(&memory, C1, seen);
    assert_reset(&old.say(Speech::ACK), peer(C1));
    assert!(flows(&memory).is_empty());
}

#[test]
fn a_reset_is_never_answered_with_a_reset() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    publish(&mut memory, WEB_RULE, C2, GENERATION);
    let old = Talk::server_of(&memory, C1, seen);
    assert_eq!(old.say(Speech::RST).verdict, Verdict::Drop(DropReason::StaleFlow), "RFC 9293 section 3.5.2");
    assert_eq!(memory.events(Event::ResetMade), 0);
}

#[test]
fn a_rule_announced_again_for_the_same_place_lets_flows_go_on_by_their_ports() {
    let mut memory = Memory::new(16);
    Talk::of_host(&memory, 20_000).establish(Speech::SYN);
    // C1 reaches itself in the gateway's name, where the host has just taken the port.
    let itself = Talk::of(&memory, C1, 20_000, WEB).establish(Speech::SYN);
    assert_ne!(itself.from.port(), 20_000);
    let id = |memory: &Memory| Talk::of(memory, C1, 20_000, WEB).flow(Speech::SYN).expect("a flow").word.id();
    let before = id(&memory);
    publish(&mut memory, WEB_RULE, C1, GENERATION);

    let again = Talk::of(&memory, C1, 20_000, WEB);
    assert_eq!(again.say(Speech::ACK).tuple(), itself);
    assert_eq!(id(&memory), before);
    assert_eq!(memory.events(Event::FlowRedecided), 1);
    again.say(Speech::ACK);
    assert_eq!(memory.events(Event::FlowRedecided), 1, "once per direction is enough");
    let back = Talk::server_of(&memory, C1, itself).say(Speech::ACK);
    assert_eq!(back.tuple().to, at(C1.ip, 20_000));
    assert_eq!(memory.events(Event::FlowMade), 2);
}

#[test]
fn packets_of_old_flows_never_reach_the_next_owner_of_an_address() {
    let mut memory = Memory::new(16);
    let world = Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::Udp);
    let world_tcp = Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::SYN);
    Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    Talk::of(&memory, C2, 20_001, at(C1.ip, 7)).establish(Speech::SYN);
    replace(&mut memory, C1);

    let outside = |seen: Tuple| Talk::from_outside(&memory, seen.to, seen.from);
    assert_eq!(outside(world).say(Speech::Udp).verdict, Verdict::Pass);
    assert_eq!(outside(world_tcp).say(Speech::ACK).verdict, Verdict::Pass);
    assert_eq!(Talk::from_outside(&memory, CLIENT, WEB).say(Speech::ACK).verdict, Verdict::Pass);
    assert_reset(&Talk::of(&memory, C2, 20_001, at(C1.ip, 7)).say(Speech::ACK), peer(C2));
    assert!(flows(&memory).is_empty());
}

#[test]
fn the_next_owner_of_an_address_does_not_speak_in_the_flows_of_the_last() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::SYN);
    replace(&mut memory, C1);
    let next = Talk::of(&memory, C1, 20_000, SERVER);
    assert_reset(&next.say(Speech::ACK), peer(C1));
    assert!(flows(&memory).is_empty());
    let seen = next.say(Speech::SYN);
    assert_eq!(answer(&memory, &seen, Speech::SYN_ACK).verdict, peer(C1));
}

#[test]
fn flows_of_a_container_that_is_gone_are_collected_at_once() {
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::SYN);
    Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    Talk::of(&memory, C2, 20_000, SERVER).establish(Speech::SYN);
    memory.addresses.remove(&C1.ip.into());
    memory.endpoints.remove(&C1.slot);
    assert_eq!(collect(&memory), 2);
    assert_eq!(flows(&memory).len(), 1);
}

#[test]
fn what_is_not_published_any_more_is_the_hosts_again() {
    let mut memory = Memory::new(16);
    let tcp = Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    Talk::from_outside(&memory, CLIENT, DNS).establish(Speech::Udp);
    unpublish(&mut memory, WEB_RULE, Transport::Tcp, WEB.port());
    unpublish(&mut memory, DNS_RULE, Transport::Udp, DNS.port());

    assert_eq!(Talk::from_outside(&memory, CLIENT, DNS).say(Speech::Udp).verdict, Verdict::Pass);
    for speech in [Speech::ACK, Speech::SYN] {
        assert_eq!(Talk::from_outside(&memory, CLIENT, WEB).say(speech).verdict, Verdict::Pass);
    }
    let server = Talk::server_of(&memory, C1, tcp);
    assert_reset(&server.say(Speech::ACK), peer(C1));
}

#[test]
fn a_container_that_spoke_to_the_host_reaches_what_is_published_there_afterwards() {
    let mut memory = Memory::new(16);
    unpublish(&mut memory, DNS_RULE, Transport::Udp, DNS.port());
    assert_eq!(Talk::of(&memory, C1, 20_000, DNS).say(Speech::Udp).way_back(), Some(Hook::Host));
    memory.ports.insert(Transport::Udp.port_index(DNS.port()), PublishedPort { wildcard: DNS_RULE, specific: 0 });
    publish(&mut memory, DNS_RULE, C2, GENERATION);
    assert_eq!(Talk::of(&memory, C1, 20_000, DNS).say(Speech::Udp).verdict, peer(C2));
}

// --- Routes ---

fn next_hop(arrival: &Arrival) -> (u32, NextHop) {
    match arrival.verdict {
        Verdict::Neighbour { ifindex, next_hop } => (ifindex, next_hop),
        other => panic!("{other:?}"),
    }
}

fn renumber(memory: &mut Memory, address: Ipv4Addr) {
    memory.uplinks.insert(UPLINK, Uplink { v4: address.into(), ..uplink() });
}

#[test]
fn a_change_of_routes_leaves_flows_alone_as_long_as_the_address_is_the_same() {
    let mut memory = Memory::new(16);
    let seen = Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::SYN);
    memory.bump(generation::ROUTE_EPOCH);
    let again = Talk::of(&memory, C1, 20_000, SERVER).say(Speech::ACK);
    assert_eq!(again.tuple(), seen);
    assert_eq!(next_hop(&again).0, UPLINK);
    assert_eq!(memory.events(Event::FlowMade), 1);
}

#[test]
fn masqueraded_flows_end_with_the_address_they_were_given() {
    const NEW: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
    let mut memory = Memory::new(16);
    Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::SYN);
    Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::Udp);
    Talk::of(&memory, C1, 20_000, PINGED).establish(Speech::Ping);
    renumber(&mut memory, NEW);
    memory.bump(generation::ROUTE_EPOCH);
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
    assert_reset(&talk.say(Speech::ACK), peer(C1));
    assert_eq!(talk.say(Speech::SYN).tuple().from, at(NEW, 20_000));
    assert_eq!(talk.say(Speech::Udp).tuple().from, at(NEW, 20_000));
    assert_eq!(Talk::of(&memory, C1, 20_000, PINGED).say(Speech::Ping).tuple().from, at(NEW, 20_000));
    assert_eq!(flows(&memory).len(), 3);
}

#[test]
fn a_publish_answers_from_the_address_it_was_asked_at_whatever_the_uplink_is_called_now() {
    let mut memory = Memory::new(16);
    let seen = Talk::from_outside(&memory, CLIENT, WEB).establish(Speech::SYN);
    renumber(&mut memory, Ipv4Addr::new(198, 18, 0, 9));
    memory.bump(generation::ROUTE_EPOCH);
    let server = Talk::server_of(&memory, C1, seen);
    assert_eq!(server.say(Speech::ACK).tuple().from, WEB);
}

#[test]
fn a_route_is_looked_up_at_most_once_a_second() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
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

#[test]
fn a_change_that_no_agent_announces_is_noticed_within_a_second() {
    let mut memory = Memory::new(16);
    let seen = Talk::of(&memory, C1, 20_000, SERVER).establish(Speech::Udp);
    memory.uplinks.insert(UPLINK, Uplink { flags: !UplinkFlags::ATTACHED, ..uplink() });
    let talk = Talk::of(&memory, C1, 20_000, SERVER);
    memory.sleep(1);
    assert_eq!(talk.say(Speech::Udp).tuple(), seen);
    memory.now.set(memory.now.get() + 1);
    assert_eq!(talk.say(Speech::Udp).verdict, Verdict::Drop(DropReason::NoUplink));
}

// --- Sizes ---

/// Sends a GSO packet of `options` bytes of TCP options (UDP: none) in segments of `size` bytes.
fn send_gso(memory: &Memory, protocol: u8, options: usize, size: u32) -> Verdict {
    let from = at(C1.ip, 20_000);
    let ip = etherparse::PacketBuilder::ethernet2(C1.mac, GATEWAY_MAC).ipv4(from.ip().octets(), FAR.octets(), TTL);
    let (mut bytes, payload) = (Vec::new(), [7; 9000]);
    let built = if protocol == protocol::UDP {
        ip.udp(from.port(), SERVER.port()).write(&mut bytes, &payload)
    } else {
        let mut header = etherparse::TcpHeader::new(from.port(), SERVER.port(), 1, 64_240);
        header.syn = true;
        header.set_options_raw(&vec![1; options]).expect("at most 40 bytes");
        ip.tcp_header(header).write(&mut bytes, &payload)
    };
    built.expect("a Vec takes all");
    let mut frame = frame_on(egress(C1), bytes);
    frame.gso_size = size;
    travel(memory, egress(C1), &mut frame)
}

#[test]
fn the_size_of_a_segment_counts_against_the_mtu_and_not_the_size_of_all() {
    for (says, protocol, options, largest) in [
        ("UDP", protocol::UDP, 0, MTU - 28),
        ("TCP", protocol::TCP, 0, MTU - 40),
        ("TCP with timestamps", protocol::TCP, 12, MTU - 52),
        ("TCP with all the options there are", protocol::TCP, 40, MTU - 80),
    ] {
        let memory = Memory::new(16);
        let fits = send_gso(&memory, protocol, options, u32::from(largest));
        assert!(matches!(fits, Verdict::Neighbour { .. }), "{says}: {fits:?}");
        let beyond = send_gso(&memory, protocol, options, u32::from(largest) + 1);
        assert_eq!(beyond, peer(C1), "{says}: the container is told");
        assert_eq!(memory.drops(DropReason::TooBig), 1, "{says}");
    }
}
