//! Tier 0: IPv6 clients of a container that has IPv4 alone (RFC 7915).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::{DropReason, Rule, generation};
use netbpf_common::path::{Family as _, V4, V6, Verdict};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::headers::{Headers, repair};
use netbpf_tests::journey::{Arrival, Speech, TTL, Tuple, answer, flows, frame_on, link_on, send, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{Ethernet, IcmpError};
use netbpf_tests::talk::{Talk, assert_told, at, egress, peer};
use netbpf_tests::world::{C1, C2, ETHERNET, GATEWAY_MAC, GENERATION, HOST_DEVICE, MTU, PUBLISHES};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Who asks, as the container sees it.
const TRANSLATOR: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 30, 255));

/// The world, in which C1 has no IPv6.
fn world() -> Memory {
    let mut memory = Memory::new(64);
    memory.endpoints.get_mut(&C1.slot).expect("is there").v6 = Ipv6Addr::UNSPECIFIED.into();
    memory.of_mut::<V6>().addresses.remove(&V6::addr(C1.ip::<V6>()));
    memory
}

/// C1's port of the publish that [`TestFamily::WEB`] is.
fn served() -> std::net::SocketAddr {
    at(C1.ip::<V4>(), 80)
}

/// An IPv4 frame that may be fragmented, as a translated one may be (RFC 7915 section 5.1).
fn fragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    const FLAGS: usize = ETHERNET + 6;
    frame[FLAGS] = 0;
    repair(&mut frame);
    frame
}

/// The ways of a client: by which hook, from where, to which address, and what a hop costs.
fn ways() -> [(Hook, IpAddr, IpAddr, u8); 3] {
    [
        (Hook::Uplink, V6::OUTSIDE, V6::HOST, 1),
        (egress(C2), C2.ip::<V6>(), V6::HOST, 0),
        (Hook::Host, V6::GATEWAY, V6::VIRTUAL_LOOPBACK, 0),
    ]
}

#[test]
fn what_an_ipv6_client_asks_a_container_with_ipv4_and_what_it_answers_arrives_in_the_family_of_each() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(
        (hook, source, address, hop) in select(ways().to_vec()),
        port in any::<u16>(),
        payload in vec(any::<u8>(), 0..96),
    )| {
        let memory = world();
        let (client, web) = (at(source, port), at(address, V6::WEB.port()));
        for (speech, payload) in [(Speech::SYN, &[][..]), (Speech::ACK, &payload)] {
            let bytes = speech.frame(link_on(hook), client, web, TTL, payload);
            let mut frame = frame_on(hook, bytes);
            let verdict = travel(&memory, hook, &mut frame);
            let there = Arrival::new(verdict, frame);
            prop_assert_eq!(there.way_back(), Some(egress(C1)), "{:?}", verdict);
            let seen = there.tuple();
            prop_assert_eq!((seen.from.ip(), seen.to), (TRANSLATOR, served()));
            let link = Ethernet { from: GATEWAY_MAC, to: C1.mac };
            let expected = fragmentable(speech.frame(link, seen.from, seen.to, TTL - hop, payload));
            prop_assert_eq!(&there.bytes, &expected);

            let said = speech.answer();
            let bytes = said.frame(link_on(egress(C1)), seen.to, seen.from, TTL, payload);
            let mut frame = frame_on(egress(C1), bytes);
            let verdict = travel(&memory, egress(C1), &mut frame);
            let back = Arrival::new(verdict, frame);
            prop_assert_eq!(back.way_back(), Some(hook), "{:?}", verdict);
            prop_assert_eq!(back.tuple(), Tuple::new(said, web, client));
            let link = match hook {
                Hook::Egress(_) => Ethernet { from: GATEWAY_MAC, to: C2.mac },
                _ => link_on(egress(C1)),
            };
            let expected = said.frame(link, web, client, TTL - hop, payload);
            prop_assert_eq!(&back.bytes, &expected);
        }
        prop_assert_eq!(flows(&memory).len(), 1);
    });
}

#[test]
fn two_clients_with_the_same_port_are_told_apart() {
    let memory = world();
    let clients = [at(V6::OUTSIDE, 40_000), at(V6::FAR, 40_000)];
    let seen = clients.map(|client| Talk::from_outside(&memory, client, V6::WEB).say(Speech::SYN));
    assert_ne!(seen[0].tuple().from, seen[1].tuple().from);
    for (client, seen) in clients.into_iter().zip(&seen) {
        assert_eq!(answer(&memory, seen, Speech::SYN_ACK).tuple().to, client);
    }
}

#[test]
fn nothing_but_answers_goes_by_the_translator() {
    let memory = world();
    for (speech, reason) in [
        (Speech::Udp, DropReason::NoFlow),
        (Speech::SYN, DropReason::NoFlow),
        (Speech::UdpWithoutChecksum, DropReason::UnsupportedProtocol),
        (Speech::Ping, DropReason::UnsupportedProtocol),
    ] {
        let refused = send(&memory, egress(C1), speech, at(C1.ip::<V4>(), 20_000), at(TRANSLATOR, 20_000));
        assert_eq!(refused.verdict, Verdict::Drop(reason), "{speech:?}");
    }
    let spoofed = send(&memory, egress(C1), Speech::Udp, at(C2.ip::<V4>(), 20_000), at(TRANSLATOR, 20_000));
    assert_eq!(spoofed.verdict, Verdict::Drop(DropReason::SpoofedAddress));
    assert!(flows(&memory).is_empty());
}

#[test]
fn what_is_too_big_in_ipv6_is_told_in_ipv4_with_what_fits() {
    const LONGER: u16 = 20;
    let memory = world();
    let seen = Talk::from_outside(&memory, V6::CLIENT, V6::WEB).establish(Speech::SYN);
    let room = MTU - V6::HEADER_LEN as u16 - 20;
    for (len, fits) in [(room, true), (room + 1, false)] {
        let bytes = Speech::ACK.frame(link_on(egress(C1)), seen.to, seen.from, TTL, &vec![7; len.into()]);
        let mut frame = frame_on(egress(C1), bytes);
        let verdict = travel(&memory, egress(C1), &mut frame);
        if fits {
            assert!(matches!(verdict, Verdict::Neighbour { .. }), "{verdict:?}");
            continue;
        }
        assert_eq!(verdict, peer(C1), "the container is told");
        assert_told(&frame.bytes, IcmpError::fragmentation_needed(MTU - LONGER));
        let message = Headers::read(&frame.bytes).expect("an error").transport.start;
        assert_eq!(frame.bytes[message + 6..][..2], (MTU - LONGER).to_be_bytes());
    }
}

#[test]
fn a_container_that_was_put_away_is_told_by_a_reset_in_its_own_family() {
    let mut memory = world();
    let seen = Talk::from_outside(&memory, V6::CLIENT, V6::WEB).establish(Speech::SYN);
    let rule = Rule { endpoint: C2.slot, generation: GENERATION, ..PUBLISHES[0].rule() };
    memory.rules.insert(PUBLISHES[0].rule, rule);
    memory.bump(generation::FIRST_RULE + PUBLISHES[0].rule);
    memory.bump(generation::PUBLISH_EPOCH);
    let told = Talk::server_of(&memory, C1, seen).say(Speech::ACK);
    assert_eq!((told.verdict, told.tuple()), (peer(C1), Tuple::new(Speech::ACK, seen.from, seen.to)));
    assert_eq!(told.tcp_flags().expect("a segment") & 4, 4, "a reset");
    assert!(flows(&memory).is_empty());
}

#[test]
fn a_process_of_the_host_is_answered_from_the_address_that_it_was_led_to() {
    let memory = world();
    let there = Talk::of_host::<V6>(&memory, 45_000).say(Speech::SYN);
    assert_eq!((there.verdict, there.tuple().to), (Verdict::Device { ifindex: C1.device() }, served()));
    let back = answer(&memory, &there, Speech::SYN_ACK);
    assert_eq!(back.verdict, Verdict::Ingress { ifindex: HOST_DEVICE });
    assert_eq!(back.tuple().from, at(V6::VIRTUAL_LOOPBACK, V6::WEB.port()));
}
