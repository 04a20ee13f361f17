//! Tier 0: networks whose containers have addresses of their own outside, and networks that have no way out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netbpf_common::abi::{ConfigFlags, DropReason, Event, GatewayMode, NetworkFlags, generation};
use netbpf_common::path::{HostSocket, Verdict};
use netbpf_common::wire::protocol;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::gateway::{REACHABLE, change, outside, world};
use netbpf_tests::headers::Headers;
use netbpf_tests::journey::{Arrival, Speech, TTL, Tuple, answer, flows, frame_on, link_on, send, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{Ethernet, fragmented};
use netbpf_tests::talk::{Talk, at, egress, peer};
use netbpf_tests::world::{C1, C2, C3, Container, GATEWAY_MAC, UPLINK, neighbour};

for_both!(
    what_a_container_sends_leaves_with_its_address_outside_and_the_answer_finds_it,
    a_port_that_the_host_has_too_is_not_changed,
    a_checksum_is_right_for_the_translated_address_as_it_is,
    somebody_outside_reaches_a_container_by_its_address_there,
    protocols_without_ports_go_both_ways,
    a_container_is_reached_by_no_other_address_than_that_which_it_has_outside,
    what_answers_nobody_or_is_the_middle_of_a_connection_opens_nothing,
    somebody_outside_who_claims_an_address_of_the_network_opens_nothing,
    an_answer_to_a_ping_is_for_the_container_alone,
    a_network_without_a_way_out_has_none_and_is_a_network_all_the_same,
    neighbours_who_meet_by_their_addresses_outside_see_those,
    a_container_reaches_itself_by_its_address_outside,
    the_host_reaches_a_container_by_either_address,
    networks_stay_apart_by_whichever_address,
    ports_are_published_as_ever,
    a_network_whose_containers_share_no_address_has_no_mappings,
    fragments_find_a_container_that_is_reached_by_its_address,
    the_mode_of_a_network_changes_under_its_flows,
    when_a_network_is_closed_no_flow_goes_out_any_more,
    a_flow_from_outside_ends_with_the_mode_that_let_it_in,
);

/// The link of a packet that has come in by a hook, behind the router that the host is.
fn routed(hook: Hook, to: Option<Container>) -> Ethernet {
    match to {
        Some(container) => Ethernet { from: GATEWAY_MAC, to: container.mac },
        None => link_on(hook),
    }
}

/// Sends a packet, and expects it to arrive with these addresses, one hop older, and otherwise as if it had been made with them.
#[track_caller]
fn moved(memory: &Memory, hook: Hook, speech: Speech, sent: [SocketAddr; 2], seen: [SocketAddr; 2]) -> Arrival {
    let bytes = speech.frame(link_on(hook), sent[0], sent[1], TTL, b"odd");
    let mut frame = frame_on(hook, bytes);
    let verdict = travel(memory, hook, &mut frame);
    let arrival = Arrival::new(verdict, frame);
    let to = if hook == Hook::Uplink { Some(C1) } else { None };
    let expected = match to {
        Some(container) => peer(container),
        None => Verdict::Neighbour { ifindex: UPLINK, next_hop: neighbour(seen[1].ip()) },
    };
    assert_eq!(arrival.verdict, expected, "{speech:?} from {} to {}", sent[0], sent[1]);
    assert_eq!(arrival.bytes, speech.frame(routed(hook, to), seen[0], seen[1], TTL - 1, b"odd"), "{speech:?}");
    arrival
}

/// What asks, with the port at the asked side.
const QUESTIONS: [(Speech, u16); 4] =
    [(Speech::SYN, 443), (Speech::Udp, 443), (Speech::UdpWithoutChecksum, 443), (Speech::Ping, 0)];

fn what_a_container_sends_leaves_with_its_address_outside_and_the_answer_finds_it<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let (own, known) = (at(C1.ip::<F>(), 20_000), at(outside::<F>(&C1, mode), 20_000));
        for (speech, port) in QUESTIONS {
            let server = at(F::OUTSIDE, port);
            for said in [speech, speech.next()] {
                moved(&memory, egress(C1), said, [own, server], [known, server]);
                moved(&memory, Hook::Uplink, said.answer(), [server, known], [server, own]);
            }
        }
        assert_eq!(flows(&memory).len(), 3, "the two of UDP are one");
    }
}

fn a_port_that_the_host_has_too_is_not_changed<F: TestFamily>() {
    for mode in REACHABLE {
        let mut memory = world(mode);
        let known = outside::<F>(&C1, mode);
        let mine = |port| Tuple::new(Speech::Udp, F::SERVER, at(known, port));
        memory.bind(&mine(20_000), HostSocket::Listening);
        memory.bind(&mine(20_001), HostSocket::Connected);
        for port in [20_000, 20_001, F::DNS.port(), F::WEB.port(), 7003, 22] {
            for speech in [Speech::Udp, Speech::SYN] {
                let seen = Talk::of(&memory, C1, port, F::SERVER).say(speech);
                assert_eq!(seen.tuple().from, at(known, port), "{speech:?}");
                assert_eq!(answer(&memory, &seen, speech.answer()).tuple().to, at(C1.ip::<F>(), port));
            }
        }
        // A neighbour has the same ports on an address of its own.
        let seen = Talk::of(&memory, C2, 20_000, F::SERVER).say(Speech::Udp);
        assert_eq!(seen.tuple().from, at(outside::<F>(&C2, mode), 20_000));
    }
}

/// The checksum of the transport in a frame.
fn checksum(bytes: &[u8], speech: Speech) -> [u8; 2] {
    let at = match speech {
        Speech::Tcp(_) => 16,
        Speech::Udp | Speech::UdpWithoutChecksum => 6,
        Speech::Ping | Speech::Pong => 2,
    };
    let start = Headers::read(bytes).expect("a packet").transport.start + at;
    [bytes[start], bytes[start + 1]]
}

fn a_checksum_is_right_for_the_translated_address_as_it_is<F: TestFamily>() {
    let memory = world(GatewayMode::Prefix);
    let (own, known) = (at(C1.ip::<F>(), 20_000), at(outside::<F>(&C1, GatewayMode::Prefix), 20_000));
    for (speech, port) in QUESTIONS {
        let server = at(F::OUTSIDE, port);
        let before = checksum(&speech.frame(link_on(egress(C1)), own, server, TTL, b"odd"), speech);
        let there = moved(&memory, egress(C1), speech, [own, server], [known, server]);
        let is_neutral = F::HOST.is_ipv6() || matches!(speech, Speech::UdpWithoutChecksum | Speech::Ping);
        assert_eq!(checksum(&there.bytes, speech) == before, is_neutral, "RFC 6296 section 3.1: {speech:?}");
    }
}

fn somebody_outside_reaches_a_container_by_its_address_there<F: TestFamily>() {
    for mode in REACHABLE {
        for (speech, port) in QUESTIONS {
            // Ports that are published on the host, and one that is not.
            for port in if port == 0 { vec![0] } else { vec![F::WEB.port(), F::DNS.port(), 22] } {
                let memory = world(mode);
                let (own, known) = (at(C1.ip::<F>(), port), at(outside::<F>(&C1, mode), port));
                let client = at(F::OUTSIDE, 40_000);
                for said in [speech, speech.next()] {
                    moved(&memory, Hook::Uplink, said, [client, known], [client, own]);
                    moved(&memory, egress(C1), said.answer(), [own, client], [known, client]);
                }
                assert_eq!(flows(&memory).len(), 1);
            }
        }
    }
}

fn protocols_without_ports_go_both_ways<F: TestFamily>() {
    const GRE: u8 = 47;
    const ESP: u8 = 50;
    for mode in REACHABLE {
        for number in [GRE, ESP, protocol::SCTP] {
            let memory = world(mode);
            let (own, known) = (C1.ip::<F>(), outside::<F>(&C1, mode));
            let leaves = |from, link: Ethernet| link.protocol(number, from, F::OUTSIDE, &[7; 24]);
            let arrives = |to, link: Ethernet| link.protocol(number, F::OUTSIDE, to, &[7; 24]);
            let (inside, wire) = (link_on(egress(C1)), link_on(Hook::Uplink));
            let (coming, going) = (arrives(known, wire), leaves(own, inside));
            for (hook, bytes, expected, verdict) in [
                (Hook::Uplink, coming, arrives(own, routed(Hook::Uplink, Some(C1))), peer(C1)),
                (
                    egress(C1),
                    going,
                    leaves(known, inside),
                    Verdict::Neighbour { ifindex: UPLINK, next_hop: neighbour(F::OUTSIDE) },
                ),
            ] {
                let mut frame = frame_on(hook, bytes);
                assert_eq!(travel(&memory, hook, &mut frame), verdict, "protocol {number}");
                let [came, should] = [&frame.bytes, &expected].map(|bytes| Headers::read(bytes).expect("IP"));
                assert_eq!((came.source, came.destination), (should.source, should.destination));
                assert_eq!((came.ttl, &frame.bytes[..12]), (TTL - 1, &expected[..12]));
                assert_eq!(frame.bytes[came.transport], expected[should.transport]);
            }
        }
    }
}

#[track_caller]
fn is_the_hosts_affair(memory: &Memory, speech: Speech, from: SocketAddr, to: SocketAddr) {
    let arrival = send(memory, Hook::Uplink, speech, from, to);
    assert_eq!(arrival.verdict, Verdict::Pass, "{speech:?} from {from} to {to}");
    assert_eq!(flows(memory), []);
}

fn a_container_is_reached_by_no_other_address_than_that_which_it_has_outside<F: TestFamily>() {
    let (own, external) = (at(C1.ip::<F>(), 22), at(outside::<F>(&C1, GatewayMode::Prefix), 22));
    for speech in [Speech::SYN, Speech::Udp] {
        is_the_hosts_affair(&world(GatewayMode::Prefix), speech, F::CLIENT, own);
        is_the_hosts_affair(&world(GatewayMode::Routed), speech, F::CLIENT, external);
        is_the_hosts_affair(&world(GatewayMode::Routed), speech, F::CLIENT, at(F::NOBODY, 22));
        for mode in [GatewayMode::Masquerade, GatewayMode::Closed] {
            is_the_hosts_affair(&world(mode), speech, F::CLIENT, own);
            // Others are reached: this network is not.
            let mut memory = world(mode);
            memory.config.flags |= ConfigFlags::REACHABLE;
            is_the_hosts_affair(&memory, speech, F::CLIENT, own);
        }
    }
}

fn what_answers_nobody_or_is_the_middle_of_a_connection_opens_nothing<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let known = at(outside::<F>(&C1, mode), 22);
        for speech in [Speech::RST, Speech::SYN_ACK, Speech::REFUSAL] {
            is_the_hosts_affair(&memory, speech, F::CLIENT, known);
        }
        // Who has the address may not be who the connection began with.
        for speech in [Speech::ACK, Speech::FIN] {
            let told = send(&memory, Hook::Uplink, speech, F::CLIENT, known);
            assert_eq!(told.verdict, Verdict::Device { ifindex: UPLINK }, "{speech:?}");
            assert_eq!(told.tcp_flags().map(|flags| flags & 4), Some(4), "a reset");
            assert_eq!(flows(&memory), []);
        }
        is_the_hosts_affair(&memory, Speech::Pong, at(F::OUTSIDE, 0), known);
    }
}

fn somebody_outside_who_claims_an_address_of_the_network_opens_nothing<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let known = at(outside::<F>(&C1, mode), 22);
        for claimed in [F::NOBODY, F::GATEWAY, C2.ip::<F>(), F::HOST, F::LOOPBACK, F::UNSPECIFIED, F::GROUP] {
            is_the_hosts_affair(&memory, Speech::Udp, at(claimed, 40_000), known);
        }
        let of_a_link = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        if F::HOST.is_ipv6() {
            is_the_hosts_affair(&memory, Speech::Udp, at(of_a_link, 40_000), known);
        }
    }
}

fn an_answer_to_a_ping_is_for_the_container_alone<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let seen = Talk::of(&memory, C1, 77, F::PINGED).say(Speech::Ping);
        let Tuple { from, to, .. } = seen.tuple();
        let bytes = Speech::Pong.frame(link_on(Hook::Uplink), to, from, TTL, b"odd");
        let mut frame = frame_on(Hook::Uplink, bytes);
        assert_eq!(travel(&memory, Hook::Uplink, &mut frame), peer(C1));
        assert!(frame.copies.is_empty(), "no process of the host has that address");
    }
}

fn a_network_without_a_way_out_has_none_and_is_a_network_all_the_same<F: TestFamily>() {
    let memory = world(GatewayMode::Closed);
    for (speech, port) in QUESTIONS {
        let out = Talk::of(&memory, C1, 20_000, at(F::FAR, port)).say(speech);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::NoMasquerade), "{speech:?}");
        assert_eq!(flows(&memory), [], "{speech:?}");
    }
    Talk::of(&memory, C1, 20_000, at(C2.ip::<F>(), 53)).establish(Speech::Udp);
    Talk::of(&memory, C1, 20_000, at(F::HOST, 22)).establish(Speech::SYN);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
}

fn neighbours_who_meet_by_their_addresses_outside_see_those<F: TestFamily>() {
    for mode in REACHABLE {
        for speech in [Speech::SYN, Speech::Udp] {
            let memory = world(mode);
            let [client, server] = [C1, C2].map(|container| outside::<F>(&container, mode));
            let seen = Talk::of(&memory, C1, 20_000, at(server, 53)).say(speech);
            assert_eq!(seen.verdict, peer(C2));
            assert_eq!(seen.tuple(), Tuple::new(speech, at(client, 20_000), at(C2.ip::<F>(), 53)));
            let back = answer(&memory, &seen, speech.answer());
            assert_eq!(back.verdict, peer(C1));
            assert_eq!(back.tuple(), Tuple::new(speech, at(server, 53), at(C1.ip::<F>(), 20_000)));
            assert_eq!(flows(&memory).len(), 1);
        }
    }
}

fn a_container_reaches_itself_by_its_address_outside<F: TestFamily>() {
    let memory = world(GatewayMode::Prefix);
    let known = outside::<F>(&C1, GatewayMode::Prefix);
    // From another port, and from the same.
    for port in [20_000, 53] {
        let seen = Talk::of(&memory, C1, port, at(known, 53)).say(Speech::Udp);
        assert_eq!(seen.verdict, peer(C1));
        assert_eq!(seen.tuple(), Tuple::new(Speech::Udp, at(F::GATEWAY, port), at(C1.ip::<F>(), 53)));
        let back = answer(&memory, &seen, Speech::Udp);
        assert_eq!(back.verdict, peer(C1));
        assert_eq!(back.tuple(), Tuple::new(Speech::Udp, at(known, 53), at(C1.ip::<F>(), port)));
    }
}

fn the_host_reaches_a_container_by_either_address<F: TestFamily>() {
    for to in [C1.ip::<F>(), outside::<F>(&C1, GatewayMode::Prefix)] {
        let memory = world(GatewayMode::Prefix);
        let (process, service) = (at(F::GATEWAY, 45_000), at(to, 22));
        let seen = send(&memory, Hook::Host, Speech::SYN, process, service);
        assert_eq!(seen.verdict, Verdict::Device { ifindex: C1.device() });
        assert_eq!(seen.tuple(), Tuple::new(Speech::SYN, process, at(C1.ip::<F>(), 22)));
        let back = answer(&memory, &seen, Speech::SYN_ACK);
        assert_eq!((back.way_back(), back.tuple().from), (Some(Hook::Host), service));
    }
}

fn networks_stay_apart_by_whichever_address<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        for to in [C1.ip::<F>(), outside::<F>(&C1, mode)] {
            let apart = Talk::of(&memory, C3, 20_000, at(to, 53)).say(Speech::Udp);
            assert_eq!(apart.verdict, Verdict::Drop(DropReason::Isolated));
        }
    }
}

fn ports_are_published_as_ever<F: TestFamily>() {
    for mode in REACHABLE {
        let memory = world(mode);
        let seen = Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
        assert_eq!((seen.from, seen.to), (F::CLIENT, at(C1.ip::<F>(), 80)));
        let back = Talk::server_of(&memory, C1, seen).say(Speech::ACK);
        assert_eq!(back.tuple().from, F::WEB);
        let hairpin = Talk::of(&memory, C2, 20_000, F::WEB).establish(Speech::SYN);
        assert_eq!(hairpin.to, at(C1.ip::<F>(), 80));
        assert_eq!(flows(&memory).len(), 2);
    }
}

fn a_network_whose_containers_share_no_address_has_no_mappings<F: TestFamily>() {
    for mode in REACHABLE {
        let mut memory = world(mode);
        memory.config.flags |= ConfigFlags::MAPPINGS;
        memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::FULL_CONE;
        let seen = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp);
        assert_eq!(seen.tuple().from, at(outside::<F>(&C1, mode), 20_000));
        assert_eq!((memory.events(Event::MappingMade), flows(&memory).len()), (0, 1));
    }
}

fn fragments_find_a_container_that_is_reached_by_its_address<F: TestFamily>() {
    const ID: u16 = 77;
    const SIZE: usize = 64;
    for mode in REACHABLE {
        let memory = world(mode);
        let (own, known) = (at(C1.ip::<F>(), 53), at(outside::<F>(&C1, mode), 53));
        let arriving = link_on(Hook::Uplink).datagram(F::CLIENT, known, TTL, &[7; 200]);
        let delivered = routed(Hook::Uplink, Some(C1)).datagram(F::CLIENT, own, TTL - 1, &[7; 200]);
        let leaving = link_on(egress(C1)).datagram(own, F::CLIENT, TTL, &[7; 200]);
        let left = link_on(egress(C1)).datagram(known, F::CLIENT, TTL - 1, &[7; 200]);
        for (hook, sent, came) in [(Hook::Uplink, arriving, delivered), (egress(C1), leaving, left)] {
            for (piece, expected) in fragmented(&sent, ID, SIZE).into_iter().zip(fragmented(&came, ID, SIZE)) {
                let mut frame = frame_on(hook, piece);
                travel(&memory, hook, &mut frame);
                assert_eq!(frame.bytes, expected);
            }
        }
        assert_eq!(flows(&memory).len(), 1);
        let late = fragmented(&link_on(Hook::Uplink).datagram(F::CLIENT, known, TTL, &[7; 200]), ID + 1, SIZE);
        let mut frame = frame_on(Hook::Uplink, late[1].clone());
        assert_eq!(travel(&memory, Hook::Uplink, &mut frame), Verdict::Pass, "whose it is the first one says");
        assert_eq!(memory.held(), 1);
    }
}

fn the_mode_of_a_network_changes_under_its_flows<F: TestFamily>() {
    for mode in REACHABLE {
        let mut memory = world(GatewayMode::Masquerade);
        let seen = Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
        assert_eq!(seen.from.ip(), F::HOST);
        Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::SYN);
        change(&mut memory, mode);
        memory.bump(generation::ROUTE_EPOCH);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        let known = at(outside::<F>(&C1, mode), 20_000);
        assert_eq!(talk.say(Speech::Udp).tuple().from, known, "{mode:?}");
        let told = talk.say(Speech::ACK);
        assert_eq!((told.verdict, told.tcp_flags().map(|flags| flags & 4)), (peer(C1), Some(4)), "a reset");
        assert_eq!(talk.say(Speech::SYN).tuple().from, known);
        assert_eq!(flows(&memory).len(), 2);
    }
}

fn when_a_network_is_closed_no_flow_goes_out_any_more<F: TestFamily>() {
    for mode in [GatewayMode::Masquerade, GatewayMode::Routed, GatewayMode::Prefix] {
        let mut memory = world(mode);
        Talk::of(&memory, C1, 20_000, F::SERVER).establish(Speech::Udp);
        change(&mut memory, GatewayMode::Closed);
        memory.sleep(1);
        memory.now.set(memory.now.get() + 1);
        let out = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::NoMasquerade), "{mode:?}");
    }
}

fn a_flow_from_outside_ends_with_the_mode_that_let_it_in<F: TestFamily>() {
    for mode in REACHABLE {
        for other in [GatewayMode::Closed, GatewayMode::Masquerade] {
            let mut memory = world(mode);
            // A port that another container has published, for all addresses of the host.
            let known = at(outside::<F>(&C1, mode), F::DNS.port());
            let say = |memory: &Memory| send(memory, Hook::Uplink, Speech::Udp, F::CLIENT, known);
            assert_eq!(say(&memory).verdict, peer(C1));
            memory.bump(generation::PUBLISH_EPOCH);
            assert_eq!(say(&memory).verdict, peer(C1), "nothing has changed for it");
            assert_eq!(memory.events(Event::FlowMade), 1);
            change(&mut memory, other);
            memory.bump(generation::PUBLISH_EPOCH);
            assert_eq!(say(&memory).verdict, Verdict::Pass, "{mode:?} becomes {other:?}");
            assert_eq!(flows(&memory), []);
        }
    }
}
