//! Tier 0: what holds for all packets, whatever they say and in whatever order they come.

use std::net::{IpAddr, SocketAddr};

use netbpf_common::abi::{DropReason, Transport};
use netbpf_common::path::Verdict;
use netbpf_common::wire::protocol;
use netbpf_tests::damage::Damage;
use netbpf_tests::family::{TestFamily, nth};
use netbpf_tests::fixture::{self, Hook};
use netbpf_tests::for_both;
use netbpf_tests::headers::{Headers, finish_checksum, leave_checksum_to_device};
use netbpf_tests::journey::{Arrival, Speech, TTL, Tuple, container_of, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::survival::{forgets, survives};
use netbpf_tests::talk::{at, egress};
use netbpf_tests::world::{C1, C2, C3, CONTAINERS, GATEWAY_MAC, PUBLISHES, Publish, UPLINK, way};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

for_both!(
    no_bytes_upset_a_path,
    masquerade_and_its_reverse_are_the_identity,
    a_publish_and_its_reverse_are_the_identity_and_the_client_is_seen_as_itself,
    a_hairpin_and_its_reverse_are_the_identity,
    a_virtual_address_and_its_reverse_are_the_identity,
    nothing_is_translated_between_neighbours_nor_between_host_and_container,
    a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones,
    no_damage_to_a_frame_upsets_a_path,
    a_packet_that_is_shorter_than_its_transport_header_goes_nowhere,
);

/// A ring that no test fills unless it wants to.
const RING: u32 = 1024;
/// What fails is written down as a fixture, not as a seed.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

// --- What packets say ---

/// A packet to build: everything but where it goes.
#[derive(Clone, Debug)]
struct Said {
    speech: Speech,
    payload: Vec<u8>,
    /// Whether its checksum is left to the device.
    is_partial: bool,
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..96)
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![4 => any::<u16>(), 4 => 16_384..=32_767_u16, 1 => select(vec![0, 53, 5060, 5353, 8080, 65_535])]
}

/// Addresses of machines that are outside and can be reached there.
fn machines<F: TestFamily>() -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(F::anywhere).prop_filter("ours, or nobody's", |address| {
        let is_virtual = (0..=255).any(|number| nth(F::VIRTUAL, number) == *address);
        let is_outside = way(*address).is_ok_and(|(device, _)| device == UPLINK);
        is_outside && !is_virtual && *address != F::HOST && !address.is_loopback()
    })
}

fn said(speeches: &'static [Speech]) -> impl Strategy<Value = Said> {
    (select(speeches), payloads(), any::<bool>()).prop_map(|(speech, payload, is_partial)| {
        // No device is asked for the checksum of an echo, nor for one that is not wanted.
        let is_partial = is_partial && matches!(speech, Speech::Tcp(_) | Speech::Udp);
        Said { speech, payload, is_partial }
    })
}

/// What a client may begin with where the port is all that counts.
const TALKS: &[Speech] = &[Speech::SYN, Speech::Udp, Speech::UdpWithoutChecksum];
/// The same where an echo is translated too.
const TALKS_AND_PINGS: &[Speech] = &[Speech::SYN, Speech::Udp, Speech::UdpWithoutChecksum, Speech::Ping];

/// The same endpoint as the other side sees it: an echo has its identifier at the asking side alone.
fn target(speech: Speech, address: IpAddr, port: u16) -> SocketAddr {
    at(address, if speech == Speech::Ping { 0 } else { port })
}

/// Sends one packet that must go on, and checks it byte by byte against one that is built from
/// scratch with the addresses and ports it left with.
fn goes_on(
    memory: &Memory,
    hook: Hook,
    said: &Said,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<Arrival, TestCaseError> {
    let link = link_on(hook);
    let mut frame = frame_on(hook, said.speech.frame(link, from, to, TTL, &said.payload));
    if said.is_partial {
        leave_checksum_to_device(&mut frame.bytes);
        frame.partial_checksum = true;
    }
    let verdict = travel(memory, hook, &mut frame);
    if said.is_partial {
        finish_checksum(&mut frame.bytes);
    }
    let arrival = Arrival::new(verdict, frame);
    prop_assert!(arrival.way_back().is_some(), "{said:?} from {from} to {to}: {verdict:?}");

    let tuple = Tuple::read(&arrival.bytes);
    prop_assert!(tuple.is_some(), "no packet any more");
    let Tuple { from: source, to: destination, .. } = arrival.tuple();
    let link = match arrival.way_back() {
        Some(Hook::Egress(device)) => Ethernet { from: GATEWAY_MAC, to: container_of(device).mac },
        _ => link,
    };
    // An echo reply from outside is as the host gets it.
    let is_routed = match hook {
        Hook::Uplink => said.speech != Speech::Pong,
        _ => arrival.way_back() == Some(Hook::Uplink),
    };
    let ttl = TTL - u8::from(is_routed);
    let expected = said.speech.frame(link, source, destination, ttl, &said.payload);
    prop_assert_eq!(&arrival.bytes, &expected);
    Ok(arrival)
}

/// There, back, and there again: the answer comes to where the question came from, as its exact
/// reverse, and the next question takes the same way as the first.
fn there_and_back(
    memory: &Memory,
    hook: Hook,
    said: &Said,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<Tuple, TestCaseError> {
    let there = goes_on(memory, hook, said, from, to)?;
    let seen = there.tuple();
    let answered = Said { speech: said.speech.answer(), ..said.clone() };
    let Some(way_back) = there.way_back() else { return Err(TestCaseError::fail("checked by goes_on")) };

    let back = goes_on(memory, way_back, &answered, seen.to, seen.from)?;
    prop_assert_eq!(back.way_back(), Some(hook));
    prop_assert_eq!(back.tuple(), Tuple { protocol: seen.protocol, from: to, to: from });

    let again = goes_on(memory, hook, &Said { speech: said.speech.next(), ..said.clone() }, from, to)?;
    prop_assert_eq!(again.tuple(), seen);
    prop_assert_eq!(again.verdict, there.verdict);
    prop_assert_eq!(flows(memory).len(), 1);
    Ok(seen)
}

fn masquerade_and_its_reverse_are_the_identity<F: TestFamily>() {
    proptest!(config(), |(
        container in select(&CONTAINERS[..]),
        port in ports(),
        (server, server_port) in (machines::<F>(), any::<u16>()),
        said in said(TALKS_AND_PINGS),
    )| {
        let memory = Memory::new(RING);
        let (from, to) = (at(container.ip::<F>(), port), target(said.speech, server, server_port));
        let seen = there_and_back(&memory, egress(container), &said, from, to)?;
        prop_assert_eq!(seen.from.ip(), F::HOST);
        prop_assert_eq!(seen.to, to);
        let is_published = memory.of::<F>().ports.contains_key(&port_index::<F>(said.speech, port));
        prop_assert_eq!(seen.from.port() == port, !is_published, "a port is kept when it is free");
    });
}

fn a_publish_and_its_reverse_are_the_identity_and_the_client_is_seen_as_itself<F: TestFamily>() {
    proptest!(config(), |(
        client in (machines::<F>(), ports()).prop_map(|(address, port)| at(address, port)),
        (publish, offset) in publishes(&everywhere()),
        said in said(TALKS),
    )| {
        let said = Said { speech: speech_of(&publish, said.speech), ..said };
        let memory = Memory::new(RING);
        let to = at(F::HOST, publish.host_port + offset);
        let seen = there_and_back(&memory, Hook::Uplink, &said, client, to)?;
        prop_assert_eq!(seen.from, client);
        prop_assert_eq!(seen.to, at(publish.container.ip::<F>(), publish.container_port + offset));
    });
}

fn a_hairpin_and_its_reverse_are_the_identity<F: TestFamily>() {
    proptest!(config(), |(
        container in select(&CONTAINERS[..]),
        port in ports(),
        (publish, offset) in publishes(&everywhere()),
        host in select(vec![F::HOST, F::GATEWAY]),
        said in said(TALKS),
    )| {
        let said = Said { speech: speech_of(&publish, said.speech), ..said };
        let memory = Memory::new(RING);
        let to = at(host, publish.host_port + offset);
        let seen = there_and_back(&memory, egress(container), &said, at(container.ip::<F>(), port), to)?;
        let itself = container.slot == publish.container.slot;
        prop_assert_eq!(seen.from, at(if itself { F::GATEWAY } else { container.ip::<F>() }, port));
        prop_assert_eq!(seen.to, at(publish.container.ip::<F>(), publish.container_port + offset));
    });
}

fn a_virtual_address_and_its_reverse_are_the_identity<F: TestFamily>() {
    proptest!(config(), |(
        port in ports(),
        (publish, offset) in publishes(&PUBLISHES),
        address in select(vec![F::VIRTUAL_LOOPBACK, F::VIRTUAL_HOST, F::VIRTUAL_GATEWAY]),
        said in said(TALKS),
    )| {
        let said = Said { speech: speech_of(&publish, said.speech), ..said };
        let memory = Memory::new(RING);
        let address = if publish.is_on_loopback { F::VIRTUAL_LOOPBACK } else { address };
        let to = at(address, publish.host_port + offset);
        let seen = there_and_back(&memory, Hook::Host, &said, at(F::GATEWAY, port), to)?;
        prop_assert_eq!(seen.from, at(F::GATEWAY, port));
        prop_assert_eq!(seen.to, at(publish.container.ip::<F>(), publish.container_port + offset));
    });
}

fn nothing_is_translated_between_neighbours_nor_between_host_and_container<F: TestFamily>() {
    proptest!(config(), |(
        (hook, source, destination) in select(vec![
            (egress(C1), C1.ip::<F>(), C2.ip::<F>()),
            (egress(C2), C2.ip::<F>(), C1.ip::<F>()),
            (egress(C1), C1.ip::<F>(), F::GATEWAY),
            (egress(C3), C3.ip::<F>(), F::HOST),
            (Hook::Host, F::GATEWAY, C1.ip::<F>()),
            (Hook::Host, F::HOST, C3.ip::<F>()),
        ]),
        (port, service) in (ports(), any::<u16>()),
        said in said(TALKS_AND_PINGS),
    )| {
        let memory = Memory::new(RING);
        prop_assume!(!memory.of::<F>().ports.contains_key(&port_index::<F>(said.speech, service)));
        let (from, to) = (at(source, port), target(said.speech, destination, service));
        let seen = there_and_back(&memory, hook, &said, from, to)?;
        prop_assert_eq!((seen.from, seen.to), (from, to));
    });
}

fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones<F: TestFamily>() {
    proptest!(config(), |(
        port in 16_384..=32_767_u16,
        to in (machines::<F>(), any::<u16>()).prop_map(|(address, port)| at(address, port)),
        is_partial in any::<bool>(),
    )| {
        // The sum over a zero word is the complement of the checksum: with the checksum in its
        // place the sum is all ones, and its complement zero.
        let bare = Speech::Udp.frame(link_on(Hook::Uplink), at(F::HOST, port), to, TTL, &[0, 0]);
        let checksum = Headers::read(&bare).expect("UDP").transport.start + 6;
        let said = Said { speech: Speech::Udp, payload: bare[checksum..][..2].to_vec(), is_partial };
        let arrival = goes_on(&Memory::new(RING), egress(C1), &said, at(C1.ip::<F>(), port), to)?;
        prop_assert_eq!(&arrival.bytes[checksum..][..2], &[0xff, 0xff]);
    });
}

fn port_index<F: TestFamily>(speech: Speech, port: u16) -> u32 {
    Transport::from_protocol(speech.protocol(F::HOST)).map_or(u32::MAX, |t| t.port_index(port))
}

/// A publish, and one of its ports.
fn publishes(of: &[Publish]) -> impl Strategy<Value = (Publish, u16)> + use<> {
    select(of.to_vec()).prop_flat_map(|publish| (Just(publish), 0..publish.count))
}

/// What is published on all addresses of the host.
fn everywhere() -> Vec<Publish> {
    PUBLISHES.into_iter().filter(|publish| !publish.is_on_loopback).collect()
}

/// The speech if the publish has it, and what it has if not.
fn speech_of(publish: &Publish, speech: Speech) -> Speech {
    match (publish.transport, speech) {
        (Transport::Tcp, Speech::Tcp(_)) | (Transport::Udp, Speech::Udp | Speech::UdpWithoutChecksum) => speech,
        (_, Speech::SYN) => Speech::Udp,
        _ => Speech::SYN,
    }
}

// --- Arbitrary bytes ---

fn damages() -> impl Strategy<Value = Damage> {
    let bytes = vec(any::<(u16, u8)>(), 0..6);
    let cut = proptest::option::weighted(0.3, any::<u16>());
    let padding = prop_oneof![3 => Just(0), 1 => 0..40_u8];
    (bytes, cut, padding, any::<bool>()).prop_map(|(bytes, cut, padding, is_covered_up)| Damage {
        bytes,
        cut,
        padding,
        is_covered_up,
    })
}

fn hooks() -> impl Strategy<Value = Hook> {
    select(vec![egress(C1), egress(C2), egress(C3), Hook::Uplink, Hook::Host, Hook::Forwarded])
}

#[test]
fn no_bytes_of_any_kind_upset_a_path() {
    proptest!(config(), |(hook in hooks(), bytes in vec(any::<u8>(), 0..200))| {
        survives(&Memory::new(RING), hook, frame_on(hook, bytes));
    });
}

fn no_bytes_upset_a_path<F: TestFamily>() {
    let ethertype = bytemuck::bytes_of(&F::ETHERTYPE);
    proptest!(config(), |(hook in hooks(), bytes in vec(any::<u8>(), 0..200))| {
        let link = link_on(hook);
        let frame = [&link.to[..], &link.from, ethertype, &bytes].concat();
        survives(&Memory::new(RING), hook, frame_on(hook, frame));
    });
}

fn no_damage_to_a_frame_upsets_a_path<F: TestFamily>() {
    proptest!(config(), |(
        fixture in any::<Index>(),
        step in any::<Index>(),
        hook in proptest::option::weighted(0.2, hooks()),
        damages in vec(damages(), 1..4),
    )| {
        let memory = Memory::new(RING);
        let fixtures = fixture::common::<F>();
        let step = step.get(&fixture.get(&fixtures).steps);
        let hook = hook.unwrap_or(step.hook);
        for damage in damages {
            survives(&memory, hook, frame_on(hook, damage.done_to(step.input.clone())));
        }
        forgets(&memory);
    });
}

fn a_packet_that_is_shorter_than_its_transport_header_goes_nowhere<F: TestFamily>() {
    for (number, header) in [(protocol::TCP, 20), (protocol::UDP, 8), (F::ICMP, 8), (protocol::SCTP, 12)] {
        for len in 0..header {
            for (hook, from, to, verdict) in [
                (egress(C1), C1.ip::<F>(), C2.ip::<F>(), Verdict::Drop(DropReason::Malformed)),
                (Hook::Host, F::GATEWAY, C1.ip::<F>(), Verdict::Drop(DropReason::Malformed)),
                (Hook::Uplink, F::OUTSIDE, F::HOST, Verdict::Pass),
            ] {
                let mut bytes = link_on(hook).protocol(number, from, to, &vec![0; len]);
                // What lies behind the packet in its frame is not part of it.
                bytes.resize(bytes.len() + 40, 0);
                let memory = Memory::new(RING);
                let became = travel(&memory, hook, &mut frame_on(hook, bytes));
                assert_eq!(became, verdict, "{len} bytes of protocol {number} by {hook:?}");
                assert!(flows(&memory).is_empty());
            }
        }
    }
}
