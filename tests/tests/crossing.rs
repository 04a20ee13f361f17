//! Tier 0: what is said of packets that cross over between the families (RFC 7915), and which do not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use netbpf_common::abi::DropReason;
use netbpf_common::path::{V4, V6, Verdict};
use netbpf_common::wire::protocol;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::headers::{Headers, is_header_sound, is_transport_sound, repair};
use netbpf_tests::journey::{Arrival, Speech, TTL, Tuple, answer, flows, frame_on, link_on, send, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{IcmpError, fragmented};
use netbpf_tests::talk::{Talk, at, egress, peer};
use netbpf_tests::world::{C1, C2, C3, ETHERNET, MTU, TRANSLATOR, UPLINK, neighbour};

/// By how much packets are longer in IPv6.
const LONGER: u16 = 20;
/// Bytes of UDP's header, and of that of an ICMP error.
const EIGHT: usize = 8;

/// The world, in which C2 has no IPv6: it serves [`TestFamily::DNS`].
fn world() -> Memory {
    let mut memory = Memory::new(64);
    memory.take_ipv6(C2);
    memory
}

/// C2's port of the publish.
fn served() -> SocketAddr {
    at(C2.ip::<V4>(), 53)
}

/// Where clients are, and by which address they ask.
fn clients() -> [(Hook, SocketAddr, SocketAddr); 3] {
    [
        (Hook::Uplink, V6::CLIENT, V6::DNS),
        (egress(C3), at(C3.ip::<V6>(), 40_000), V6::DNS),
        (Hook::Host, at(V6::GATEWAY, 40_000), at(V6::VIRTUAL_HOST, V6::DNS.port())),
    ]
}

fn arrives(memory: &Memory, hook: Hook, bytes: Vec<u8>) -> Arrival {
    let mut frame = frame_on(hook, bytes);
    let verdict = travel(memory, hook, &mut frame);
    Arrival::new(verdict, frame)
}

/// An ICMP error as its receiver reads it.
struct Told {
    from: IpAddr,
    to: IpAddr,
    kind_and_code: [u8; 2],
    /// What follows the checksum: an MTU, or where a field lies.
    word: u32,
    about: Quoted,
}

/// The packet that it quotes: addresses, protocol, length of the payload, ports and the four bytes behind.
#[derive(PartialEq, Eq, Debug)]
struct Quoted {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: usize,
    transport: [u8; EIGHT],
}

impl Quoted {
    /// Out of a packet, or the beginning of one.
    #[track_caller]
    fn of(packet: &[u8]) -> Self {
        let (from, to, protocol, payload, header) = if packet[0] >> 4 == 4 {
            let ip = Ipv4HeaderSlice::from_slice(packet).expect("a header");
            assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
            let payload = usize::from(ip.total_len()) - ip.slice().len();
            (ip.source_addr().into(), ip.destination_addr().into(), ip.protocol(), payload, ip.slice().len())
        } else {
            let ip = Ipv6HeaderSlice::from_slice(packet).expect("a header");
            let payload = usize::from(ip.payload_length());
            (ip.source_addr().into(), ip.destination_addr().into(), ip.next_header(), payload, ip.slice().len())
        };
        let transport = *packet[header..].first_chunk().expect("RFC 792: eight bytes at the least");
        Self { from, to, protocol: protocol.0, payload, transport }
    }
}

#[track_caller]
fn told(frame: &[u8]) -> Told {
    assert!(is_header_sound(frame) && is_transport_sound(frame), "{frame:x?}");
    let Headers { source: from, destination: to, transport, .. } = Headers::read(frame).expect("IP");
    let message = &frame[transport];
    let [kind, code, _, _, word @ ..] = *message.first_chunk::<EIGHT>().expect("an error");
    let about = Quoted::of(&message[EIGHT..]);
    Told { from, to, kind_and_code: [kind, code], word: u32::from_be_bytes(word), about }
}

/// A packet, whole or as little of it as an error has to quote.
fn quotes(frame: &[u8]) -> [&[u8]; 2] {
    let transport = Headers::read(frame).expect("IP").transport;
    [&frame[ETHERNET..], &frame[ETHERNET..transport.start + EIGHT]]
}

/// An error in a family, and what becomes of it in the other: type, code and what follows the checksum.
type Becomes = (IcmpError, [u8; 2], u32);

/// Where an IPv6 header says what follows it (RFC 8200 section 3).
const NEXT_HEADER: u32 = 6;

#[test]
fn what_ipv6_says_of_an_answer_is_told_in_ipv4_with_the_answer_as_it_was_sent() {
    const BECOMES: [Becomes; 6] = [
        (IcmpError::fragmentation_needed(1400), [3, 4], (1400 - LONGER) as u32),
        (IcmpError::PORT_UNREACHABLE, [3, 3], 0),
        (IcmpError::PROTOCOL_UNREACHABLE.about_field(NEXT_HEADER), [3, 2], 0),
        (IcmpError::PROHIBITED, [3, 10], 0),
        (IcmpError::HOST_UNREACHABLE, [3, 1], 0),
        (IcmpError::TIME_EXCEEDED, [11, 0], 0),
    ];
    for (hook, client, service) in clients() {
        let memory = world();
        let asked = send(&memory, hook, Speech::Udp, client, service).tuple();
        let sent = Speech::Udp.frame(link_on(egress(C2)), asked.to, asked.from, TTL, &[7; 32]);
        let left = arrives(&memory, egress(C2), sent.clone());
        assert_eq!(left.tuple(), Tuple::new(Speech::Udp, service, client));
        // Routers are outside alone.
        let sayers = if hook == Hook::Uplink { vec![client.ip(), V6::FAR] } else { vec![client.ip()] };
        for (sayer, (what, kind_and_code, word)) in sayers.iter().flat_map(|sayer| BECOMES.map(|to| (*sayer, to))) {
            for quote in quotes(&left.bytes) {
                let error = link_on(hook).icmp_error(sayer, service.ip(), TTL, what, quote);
                let arrival = arrives(&memory, hook, error);
                assert_eq!(arrival.way_back(), Some(egress(C2)), "{what:?} by {hook:?}: {:?}", arrival.verdict);
                let told = told(&arrival.bytes);
                assert_eq!((told.from, told.to), (TRANSLATOR, C2.ip::<V4>()));
                assert_eq!((told.kind_and_code, told.word), (kind_and_code, word), "{what:?}");
                assert_eq!(told.about, Quoted::of(&sent[ETHERNET..]));
            }
        }
        assert_eq!(flows(&memory).len(), 1);
    }
}

#[test]
fn what_a_container_says_in_ipv4_of_a_question_is_told_in_ipv6_with_the_question_as_it_was_asked() {
    const BECOMES: [Becomes; 6] = [
        (IcmpError::PORT_UNREACHABLE, [1, 4], 0),
        (IcmpError::PROTOCOL_UNREACHABLE, [4, 1], NEXT_HEADER),
        (IcmpError::HOST_UNREACHABLE, [1, 0], 0),
        (IcmpError::PROHIBITED, [1, 1], 0),
        (IcmpError::fragmentation_needed(1400), [2, 0], (1400 + LONGER) as u32),
        (IcmpError::TIME_EXCEEDED, [3, 0], 0),
    ];
    for (hook, client, service) in clients() {
        let memory = world();
        let question = Speech::Udp.frame(link_on(hook), client, service, TTL, &[7; 32]);
        let seen = arrives(&memory, hook, question.clone());
        assert_eq!(seen.tuple().to, served());
        for (what, kind_and_code, word) in BECOMES {
            for quote in quotes(&seen.bytes) {
                let error = link_on(egress(C2)).icmp_error(served().ip(), TRANSLATOR, TTL, what, quote);
                let arrival = arrives(&memory, egress(C2), error);
                assert_eq!(arrival.way_back(), Some(hook), "{what:?} to {hook:?}: {:?}", arrival.verdict);
                let told = told(&arrival.bytes);
                assert_eq!((told.from, told.to), (service.ip(), client.ip()));
                assert_eq!((told.kind_and_code, told.word), (kind_and_code, word), "{what:?}");
                assert_eq!(told.about, Quoted::of(&question[ETHERNET..]));
            }
        }
        assert_eq!(flows(&memory).len(), 1);
    }
}

#[test]
fn an_error_without_a_counterpart_or_about_no_answer_is_dropped_by_name() {
    let memory = world();
    let seen = send(&memory, Hook::Uplink, Speech::Udp, V6::CLIENT, V6::DNS);
    let left = answer(&memory, &seen, Speech::Udp);
    let problem = IcmpError::PARAMETER_PROBLEM;
    let from_outside = link_on(Hook::Uplink).icmp_error(V6::FAR, V6::HOST, TTL, problem, &left.bytes[ETHERNET..]);
    assert_eq!(arrives(&memory, Hook::Uplink, from_outside).verdict, Verdict::Drop(DropReason::IcmpError));

    let inside = link_on(egress(C2));
    let said = |what, quote: &[u8]| inside.icmp_error(served().ip(), TRANSLATOR, TTL, what, quote);
    let other_client = inside.datagram(at(TRANSLATOR, seen.tuple().from.port() ^ 1), served(), TTL, b"odd");
    let cut = &seen.bytes[ETHERNET..ETHERNET + 20 + EIGHT - 1];
    for error in [
        said(problem, &seen.bytes[ETHERNET..]),
        said(IcmpError::PORT_UNREACHABLE, &other_client[ETHERNET..]),
        said(IcmpError::PORT_UNREACHABLE, cut),
        said(IcmpError::PORT_UNREACHABLE, &[]),
    ] {
        assert_eq!(arrives(&memory, egress(C2), error).verdict, Verdict::Drop(DropReason::IcmpError));
    }
    assert_eq!(flows(&memory).len(), 1);
}

/// C2's answer to a client outside, as it sends it: what becomes of it.
fn answers(memory: &Memory, ttl: u8, payload: &[u8]) -> (Vec<u8>, Arrival) {
    let seen = send(memory, Hook::Uplink, Speech::Udp, V6::CLIENT, V6::DNS).tuple();
    let sent = Speech::Udp.frame(link_on(egress(C2)), seen.to, seen.from, ttl, payload);
    (sent.clone(), arrives(memory, egress(C2), sent))
}

#[test]
fn why_an_answer_does_not_go_on_is_told_in_ipv4_by_the_gateway() {
    let fits = usize::from(MTU) - 40 - EIGHT;
    let next_hop = neighbour(V6::CLIENT.ip());
    let memory = world();
    assert_eq!(answers(&memory, TTL, &vec![7; fits]).1.verdict, Verdict::Neighbour { ifindex: UPLINK, next_hop });
    for (ttl, len, kind_and_code, word) in [(TTL, fits + 1, [3, 4], u32::from(MTU - LONGER)), (1, 32, [11, 0], 0)] {
        let (sent, arrival) = answers(&memory, ttl, &vec![7; len]);
        assert_eq!(arrival.verdict, peer(C2));
        let told = told(&arrival.bytes);
        assert_eq!((told.from, told.to), (V4::GATEWAY, C2.ip::<V4>()));
        assert_eq!((told.kind_and_code, told.word), (kind_and_code, word));
        assert_eq!(told.about, Quoted::of(&sent[ETHERNET..]));
    }
    assert_eq!(flows(&memory).len(), 1);
}

#[test]
fn what_cannot_cross_over_is_dropped_by_name() {
    const OPTIONS: u8 = 60;
    let question = Speech::Udp.frame(link_on(Hook::Uplink), V6::CLIENT, V6::DNS, TTL, &[7; 200]);
    let refused = |memory: &Memory, hook, bytes, reason| {
        assert_eq!(arrives(memory, hook, bytes).verdict, Verdict::Drop(reason));
    };
    for has_flow in [false, true] {
        let memory = world();
        if has_flow {
            send(&memory, Hook::Uplink, Speech::Udp, V6::CLIENT, V6::DNS);
        }
        for (place, piece) in fragmented(&question, 77, 64).into_iter().enumerate() {
            // Without a first one that is of a flow, later ones are the host's for all that is known.
            let is_known = has_flow || place == 0;
            let expected = if is_known { Verdict::Drop(DropReason::Fragment) } else { Verdict::Pass };
            assert_eq!(arrives(&memory, Hook::Uplink, piece).verdict, expected);
        }
        let transport = &question[Headers::read(&question).expect("IP").transport];
        let behind = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0], transport].concat();
        let extended = link_on(Hook::Uplink).protocol(OPTIONS, V6::CLIENT.ip(), V6::HOST, &behind);
        refused(&memory, Hook::Uplink, extended, DropReason::ExtensionHeaders);
        assert_eq!(flows(&memory).len(), usize::from(has_flow), "what cannot cross over opens nothing");
    }
    let memory = world();
    let seen = send(&memory, Hook::Uplink, Speech::Udp, V6::CLIENT, V6::DNS).tuple();
    let said = |speech: Speech| speech.frame(link_on(egress(C2)), seen.to, seen.from, TTL, &[7; 200]);
    for piece in fragmented(&said(Speech::Udp), 77, 64) {
        refused(&memory, egress(C2), piece, DropReason::Fragment);
    }
    refused(&memory, egress(C2), said(Speech::UdpWithoutChecksum), DropReason::UnsupportedProtocol);
    for speech in [Speech::Ping, Speech::Pong] {
        refused(&memory, egress(C2), said(speech), DropReason::UnsupportedProtocol);
    }
}

/// The frame with a traffic class, and in IPv6 a flow label, which IPv4 has not.
fn of_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[ETHERNET] >> 4 == 4 {
        frame[ETHERNET + 1] = class;
        repair(&mut frame);
    } else {
        let first = 0x6000_0000 | u32::from(class) << 20 | 0x54321;
        frame[ETHERNET..][..4].copy_from_slice(&first.to_be_bytes());
    }
    frame
}

/// Traffic class, and hops that are left.
fn class_and_hops(frame: &[u8]) -> (u8, u8) {
    let class = match frame[ETHERNET] >> 4 {
        4 => frame[ETHERNET + 1],
        _ => frame[ETHERNET] << 4 | frame[ETHERNET + 1] >> 4,
    };
    (class, Headers::read(frame).expect("IP").ttl)
}

#[test]
fn the_traffic_class_and_the_hops_that_are_left_cross_over_too() {
    for (hook, client, service) in clients() {
        let hop = u8::from(hook == Hook::Uplink);
        for (class, ttl) in [(0, 64), (0xb9, 2), (0xff, 255)] {
            let memory = world();
            let question = of_class(Speech::Udp.frame(link_on(hook), client, service, ttl, b"odd"), class);
            let there = arrives(&memory, hook, question);
            assert_eq!(class_and_hops(&there.bytes), (class, ttl - hop), "{hook:?}");
            assert!(is_header_sound(&there.bytes) && is_transport_sound(&there.bytes));
            let seen = there.tuple();
            let said = of_class(Speech::Udp.frame(link_on(egress(C2)), seen.to, seen.from, ttl, b"odd"), class);
            let back = arrives(&memory, egress(C2), said);
            assert_eq!(back.way_back(), Some(hook));
            assert_eq!(class_and_hops(&back.bytes), (class, ttl - hop), "{hook:?}");
            assert!(is_transport_sound(&back.bytes));
        }
    }
}

/// The address of IPv6 that stands for one of IPv4 (RFC 6052 section 2.1).
fn standing_for(address: IpAddr) -> IpAddr {
    let IpAddr::V4(address) = address else { panic!("{address} is none") };
    Ipv6Addr::from_bits(0x0064_ff9b << 96 | u128::from(address.to_bits())).into()
}

#[test]
fn a_container_that_sends_ipv6_from_an_address_that_stands_for_ipv4_is_nobody() {
    let memory = world();
    let seen = send(&memory, Hook::Uplink, Speech::Udp, V6::CLIENT, V6::DNS).tuple();
    let translator = at(standing_for(TRANSLATOR), seen.from.port());
    for container in [C1, C2] {
        let from = standing_for(container.ip::<V4>());
        for to in [translator, V6::CLIENT, V6::SERVER, V6::DNS] {
            let refused = send(&memory, egress(container), Speech::Udp, at(from, 53), to);
            assert_eq!(refused.verdict, Verdict::Drop(DropReason::SpoofedAddress), "to {to}");
        }
    }
    assert_eq!(flows(&memory).len(), 1);
}

#[test]
fn machines_behind_a_nat64_are_machines_like_others() {
    let memory = world();
    let behind = at(standing_for(V4::FAR), 443);
    let seen = Talk::of(&memory, C1, 20_000, behind).establish(Speech::SYN);
    assert_eq!(seen, Tuple::new(Speech::SYN, at(V6::HOST, 20_000), behind));
    let client = Talk::from_outside(&memory, behind, V6::WEB).establish(Speech::SYN);
    assert_eq!(client, Tuple::new(Speech::SYN, behind, at(C1.ip::<V6>(), 80)));
    let of_c2 = Talk::from_outside(&memory, behind, V6::DNS).establish(Speech::Udp);
    assert_eq!((of_c2.from.ip(), of_c2.to), (TRANSLATOR, served()));
}
