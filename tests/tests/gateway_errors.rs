//! Tier 0: ICMP errors about what containers with addresses of their own outside send and get.

use netbpf_common::abi::{DropReason, GatewayMode};
use netbpf_common::path::Verdict;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::gateway::{REACHABLE, outside, world};
use netbpf_tests::headers::{Headers, is_header_sound, is_transport_sound};
use netbpf_tests::journey::{Arrival, Speech, TTL, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{Ethernet, IcmpError};
use netbpf_tests::talk::{Talk, assert_told, at, egress, peer};
use netbpf_tests::world::{C1, C2, ETHERNET, GATEWAY_MAC, MTU, UPLINK, neighbour, uplink_at};

for_both!(
    what_a_router_says_of_a_containers_packet_reaches_it_with_the_packet_as_it_was_sent,
    what_a_container_says_of_a_packet_from_outside_is_said_in_its_name_there,
    an_error_about_no_flow_is_the_hosts_affair,
    a_packet_whose_hops_run_out_is_answered_in_the_name_of_the_uplink,
    without_an_address_of_the_uplink_nobody_is_told,
    what_is_too_big_for_the_way_out_is_told_by_the_gateway,
);

const LINK_INSIDE: Ethernet = Ethernet { from: GATEWAY_MAC, to: C1.mac };

fn arrives(memory: &Memory, hook: Hook, bytes: Vec<u8>) -> Arrival {
    let mut frame = frame_on(hook, bytes);
    let verdict = travel(memory, hook, &mut frame);
    Arrival::new(verdict, frame)
}

const WHAT: [IcmpError; 3] =
    [IcmpError::PORT_UNREACHABLE, IcmpError::TIME_EXCEEDED, IcmpError::fragmentation_needed(1400)];

/// How much of a datagram with sixteen bytes of payload is quoted: eight bytes of it at the least, or all.
fn quotes(bytes: &[u8]) -> [&[u8]; 2] {
    [&bytes[ETHERNET..bytes.len() - 16], &bytes[ETHERNET..]]
}

fn what_a_router_says_of_a_containers_packet_reaches_it_with_the_packet_as_it_was_sent<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let (own, known) = (at(C1.ip::<F>(), 20_000), at(outside::<F>(&C1, mode), 20_000));
        Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
        let sent = |from| link_on(egress(C1)).datagram(from, F::SERVER, 60, &[7; 16]);
        for (what, router) in WHAT.into_iter().flat_map(|what| [(what, F::SERVER.ip()), (what, F::OUTSIDE)]) {
            let (before, after) = (sent(known), sent(own));
            for (before, after) in quotes(&before).into_iter().zip(quotes(&after)) {
                let error = link_on(Hook::Uplink).icmp_error(router, known.ip(), TTL, what, before);
                let told = arrives(&memory, Hook::Uplink, error);
                assert_eq!(told.verdict, peer(C1), "{what:?}");
                assert_eq!(told.bytes, LINK_INSIDE.icmp_error(router, own.ip(), TTL - 1, what, after));
            }
        }
        assert_eq!(flows(&memory).len(), 1);
    }
}

fn what_a_container_says_of_a_packet_from_outside_is_said_in_its_name_there<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let (own, known) = (at(C1.ip::<F>(), 53), at(outside::<F>(&C1, mode), 53));
        Talk::from_outside(&memory, F::CLIENT, known).say(Speech::Udp);
        let asked = |to| link_on(Hook::Uplink).datagram(F::CLIENT, to, TTL - 1, &[7; 16]);
        for what in WHAT {
            let (before, after) = (asked(own), asked(known));
            for (before, after) in quotes(&before).into_iter().zip(quotes(&after)) {
                let link = link_on(egress(C1));
                let said = link.icmp_error(own.ip(), F::CLIENT.ip(), TTL, what, before);
                let heard = arrives(&memory, egress(C1), said);
                let next_hop = neighbour(F::CLIENT.ip());
                assert_eq!(heard.verdict, Verdict::Neighbour { ifindex: UPLINK, next_hop }, "{what:?}");
                assert_eq!(heard.bytes, link.icmp_error(known.ip(), F::CLIENT.ip(), TTL - 1, what, after));
            }
        }
        let about_a_neighbour = asked(at(C2.ip::<F>(), 53));
        let said =
            link_on(egress(C1)).icmp_error(own.ip(), F::CLIENT.ip(), TTL, WHAT[0], &about_a_neighbour[ETHERNET..]);
        assert_eq!(arrives(&memory, egress(C1), said).verdict, Verdict::Drop(DropReason::IcmpError));
    }
}

fn an_error_about_no_flow_is_the_hosts_affair<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let known = at(outside::<F>(&C1, mode), 20_000);
        let sent = link_on(egress(C1)).datagram(known, F::SERVER, 60, &[7; 16]);
        let error = link_on(Hook::Uplink).icmp_error(F::FAR, known.ip(), TTL, WHAT[0], &sent[ETHERNET..]);
        assert_eq!(arrives(&memory, Hook::Uplink, error).verdict, Verdict::Pass);
        assert_eq!(flows(&memory), []);
    }
}

/// A datagram for C1 that has no hop left, and what came of it.
fn exceeded<F: TestFamily>(memory: &Memory, mode: GatewayMode) -> (Vec<u8>, Arrival) {
    let known = at(outside::<F>(&C1, mode), 53);
    let sent = link_on(Hook::Uplink).datagram(F::CLIENT, known, 1, b"a question");
    let arrival = arrives(memory, Hook::Uplink, sent.clone());
    (sent, arrival)
}

fn a_packet_whose_hops_run_out_is_answered_in_the_name_of_the_uplink<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let (sent, told) = exceeded::<F>(&memory, mode);
        assert_eq!((told.verdict, flows(&memory)), (Verdict::Device { ifindex: UPLINK }, Vec::new()));
        assert_told(&told.bytes, IcmpError::TIME_EXCEEDED);
        let headers = Headers::read(&told.bytes).expect("an error");
        assert_eq!((headers.source, headers.destination), (F::HOST, F::CLIENT.ip()));
        assert!(is_header_sound(&told.bytes) && is_transport_sound(&told.bytes));
        let quoted = &told.bytes[headers.transport.start + 8..headers.transport.end];
        assert!(sent[ETHERNET..].starts_with(quoted) && quoted.len() > F::HEADER_LEN as usize + 8);
        assert_eq!(memory.drops(DropReason::TtlExceeded), 1);
    }
}

fn without_an_address_of_the_uplink_nobody_is_told<F: TestFamily>() {
    for mode in REACHABLE {
        let mut memory = world(mode);
        memory.uplinks.insert(UPLINK, uplink_at(F::UNSPECIFIED));
        let (_, arrival) = exceeded::<F>(&memory, mode);
        assert_eq!(arrival.verdict, Verdict::Drop(DropReason::TtlExceeded));
        // The way through needs none.
        let seen = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
        assert_eq!(seen.from.ip(), outside::<F>(&C1, mode));
    }
}

fn what_is_too_big_for_the_way_out_is_told_by_the_gateway<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let payload = vec![7; usize::from(MTU)];
        let sent = link_on(egress(C1)).datagram(at(C1.ip::<F>(), 20_000), F::SERVER, TTL, &payload);
        let told = arrives(&memory, egress(C1), sent);
        assert_eq!((told.verdict, flows(&memory)), (peer(C1), Vec::new()));
        assert_told(&told.bytes, IcmpError::fragmentation_needed(MTU));
        let headers = Headers::read(&told.bytes).expect("an error");
        assert_eq!((headers.source, headers.destination), (F::GATEWAY, C1.ip::<F>()));
        assert!(is_header_sound(&told.bytes) && is_transport_sound(&told.bytes));
    }
}
