//! Tier 0: lives of flows, from the first packet to the collector, under a clock that the test turns.

use netbpf_common::abi::{DropReason, Event, Life};
use netbpf_common::path::{Family as _, HostSocket, V6, Verdict};
use netbpf_common::wire::checksum::Sum;
use netbpf_common::wire::{Be16, protocol, tcp_flags};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, TTL, Tuple, answer, collect, entry, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::IcmpError;
use netbpf_tests::packet::extension::{HOP_BY_HOP, extended};
use netbpf_tests::talk::{Talk, assert_exhausted, assert_told, at, egress, peer};
use netbpf_tests::world::{C1, C2, C3, MTU, NAT_FIRST, NAT_LAST};

for_both!(
    a_tcp_connection_is_confirmed_by_the_packet_that_completes_its_handshake,
    a_question_that_is_repeated_without_an_answer_confirms_nothing,
    a_flow_is_collected_when_it_was_silent_for_longer_than_its_state_allows,
    a_protocol_without_ports_is_collected_after_ten_minutes,
    either_side_alone_keeps_a_flow_alive,
    a_half_closed_connection_goes_on_in_the_other_direction,
    a_container_that_uses_its_port_again_right_after_close_gets_a_new_connection_by_the_same_port,
    a_reset_and_a_syn_that_somebody_forges_from_the_other_side_take_no_port_from_a_connection,
    a_repeated_syn_is_of_the_same_connection,
    two_containers_with_the_same_port_to_the_same_destination_each_get_their_own_answers,
    the_same_port_serves_any_number_of_destinations,
    a_port_outside_the_range_is_kept_and_its_answers_are_found_again,
    a_port_is_not_kept_where_a_socket_of_the_host_has_it,
    what_a_connected_socket_of_the_host_waits_for_is_not_taken_by_a_publish,
    a_published_port_is_no_port_for_masquerading,
    when_all_ports_to_a_destination_are_used_up_others_are_still_reached_and_it_recovers,
    a_full_table_refuses_new_flows_whole_and_leaves_the_others_alone,
    a_flood_ends_the_oldest_half_open_flows_and_no_confirmed_one,
    a_connection_is_not_evicted_in_place_of_an_older_one_with_the_same_key,
    the_size_of_a_segment_counts_against_the_mtu_and_not_the_size_of_all,
    what_is_longer_than_its_header_can_say_is_as_long_as_it_is_when_it_is_segments,
    the_host_is_told_what_the_device_of_a_container_takes,
);

// --- From the first packet to the last ---

fn a_tcp_connection_is_confirmed_by_the_packet_that_completes_its_handshake<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let life = || talk.flow(Speech::SYN).expect("a flow").word.life();
    let syn = talk.say(Speech::SYN);
    assert_eq!(life(), Life::Half);
    answer(&memory, &syn, Speech::SYN_ACK);
    assert_eq!(life(), Life::Half);
    talk.say(Speech::ACK);
    assert_eq!(life(), Life::Established);
}

fn a_question_that_is_repeated_without_an_answer_confirms_nothing<F: TestFamily>() {
    let memory = Memory::new(16);
    for (speech, to) in [(Speech::Udp, F::SERVER), (Speech::Ping, F::PINGED), (Speech::ACK, F::SERVER)] {
        let talk = Talk::of(&memory, C1, 20_000, to);
        for _ in 0..3 {
            talk.say(speech);
            assert_eq!(talk.flow(speech).expect("a flow").word.life(), Life::Half, "{speech:?}");
        }
    }
}

fn a_flow_is_collected_when_it_was_silent_for_longer_than_its_state_allows<F: TestFamily>() {
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
        ("a SYN", vec![O(S::SYN)], 120),
        ("a SYN that was answered", vec![O(S::SYN), R(S::SYN_ACK)], 60),
        ("an open connection", opened(), 432_000),
        ("one that the originator has closed", after_opening(vec![O(S::FIN)]), 120),
        ("one that the other side has closed", after_opening(vec![R(S::FIN)]), 120),
        ("one that both have closed", after_opening(vec![O(S::FIN), R(S::FIN)]), 30),
        ("one that is closed", after_opening(vec![O(S::FIN), R(S::FIN), O(S::ACK)]), 120),
        ("one that was reset", after_opening(vec![R(S::RST)]), 10),
        ("one that was refused", vec![O(S::SYN), R(S::REFUSAL)], 10),
        ("a question", vec![O(S::Udp)], 30),
        ("a question with its answer", vec![O(S::Udp), R(S::Udp)], 30),
        ("a conversation", vec![O(S::Udp), R(S::Udp), O(S::Udp)], 120),
        ("a ping", vec![O(S::Ping), R(S::Pong)], 30),
    ] {
        let memory = Memory::new(16);
        let to = if matches!(conversation[0], O(S::Ping)) { F::PINGED } else { F::SERVER };
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
        assert!(flows(&memory).is_empty(), "{says}");
        assert_eq!(memory.events(Event::FlowCollected), 1, "{says}");
    }
}

fn a_protocol_without_ports_is_collected_after_ten_minutes<F: TestFamily>() {
    let memory = Memory::new(16);
    let frame = link_on(egress(C1)).protocol(47, C1.ip::<F>(), F::FAR, &[0; 8]);
    travel(&memory, egress(C1), &mut frame_on(egress(C1), frame));
    memory.sleep(600);
    assert_eq!(collect(&memory), 0);
    memory.sleep(1);
    assert_eq!(collect(&memory), 1);
}

fn either_side_alone_keeps_a_flow_alive<F: TestFamily>() {
    for answers in [false, true] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
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

fn a_half_closed_connection_goes_on_in_the_other_direction<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
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

fn a_container_that_uses_its_port_again_right_after_close_gets_a_new_connection_by_the_same_port<F: TestFamily>() {
    for end in [Speech::FIN, Speech::RST] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
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

fn a_reset_and_a_syn_that_somebody_forges_from_the_other_side_take_no_port_from_a_connection<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let seen = talk.establish(Speech::SYN);
    let id = || talk.flow(Speech::SYN).map(|flow| flow.word.id());
    let before = id();
    for forged in [Speech::RST, Speech::SYN] {
        Talk::from_outside(&memory, seen.to, seen.from).say(forged);
        assert_eq!(id(), before);
    }
    assert_eq!(talk.say(Speech::ACK).tuple(), seen);
}

fn a_repeated_syn_is_of_the_same_connection<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let first = talk.say(Speech::SYN);
    memory.sleep(3);
    let second = talk.say(Speech::SYN);
    assert_eq!((second.verdict, second.bytes), (first.verdict, first.bytes));
    assert_eq!(memory.events(Event::FlowMade), 1);
}

// --- Ports ---

fn two_containers_with_the_same_port_to_the_same_destination_each_get_their_own_answers<F: TestFamily>() {
    for (speech, to) in [(Speech::Udp, F::SERVER), (Speech::SYN, F::SERVER), (Speech::Ping, F::PINGED)] {
        let memory = Memory::new(16);
        let first = Talk::of(&memory, C1, 20_000, to).say(speech);
        let second = Talk::of(&memory, C2, 20_000, to).say(speech);
        let third = Talk::of(&memory, C3, 20_000, to).say(speech);
        assert_eq!(first.tuple().from, at(F::HOST, 20_000), "{speech:?}");
        let ports = [&first, &second, &third].map(|seen| seen.tuple().from.port());
        assert!(ports[1] != ports[0] && ports[2] != ports[0] && ports[1] != ports[2], "{speech:?}: {ports:?}");
        assert!(ports.iter().all(|port| (NAT_FIRST..=NAT_LAST).contains(port)), "{speech:?}: {ports:?}");
        for (seen, container) in [(&third, C3), (&second, C2), (&first, C1)] {
            let back = answer(&memory, seen, speech.answer());
            assert_eq!(back.way_back(), Some(egress(container)), "{speech:?}");
            let asked = Tuple::new(speech, at(container.ip::<F>(), 20_000), to);
            assert_eq!(back.tuple(), asked.reversed(), "{speech:?}");
        }
    }
}

fn the_same_port_serves_any_number_of_destinations<F: TestFamily>() {
    let memory = Memory::new(256);
    for port in 1..200 {
        let seen = Talk::of(&memory, C1, 20_000, at(F::FAR, port)).say(Speech::Udp).tuple();
        assert_eq!(seen.from, at(F::HOST, 20_000));
    }
}

fn a_port_outside_the_range_is_kept_and_its_answers_are_found_again<F: TestFamily>() {
    let memory = Memory::new(16);
    let sip = Talk::of(&memory, C1, 5060, at(F::FAR, 5060)).say(Speech::Udp);
    assert_eq!(sip.tuple().from, at(F::HOST, 5060));
    assert_eq!(answer(&memory, &sip, Speech::Udp).verdict, peer(C1));
    let stranger = Talk::from_outside(&memory, F::CLIENT, at(F::HOST, 5060)).say(Speech::Udp);
    assert_eq!(stranger.verdict, Verdict::Pass, "what others send there is the host's");
}

fn a_port_is_not_kept_where_a_socket_of_the_host_has_it<F: TestFamily>() {
    for (port, speech) in [(5060, Speech::Udp), (20_000, Speech::Udp), (20_000, Speech::SYN)] {
        for socket in [HostSocket::Listening, HostSocket::Connected] {
            let mut memory = Memory::new(16);
            memory.bind(&Tuple::new(speech, F::SERVER, at(F::HOST, port)), socket);
            let seen = Talk::of(&memory, C1, port, F::SERVER).say(speech);
            assert_ne!(seen.tuple().from.port(), port);
            assert!((NAT_FIRST..=NAT_LAST).contains(&seen.tuple().from.port()));
            assert_eq!(answer(&memory, &seen, speech.answer()).verdict, peer(C1));
            assert_eq!(
                Talk::from_outside(&memory, F::SERVER, at(F::HOST, port)).say(speech.answer()).verdict,
                Verdict::Pass
            );
        }
    }
}

fn what_a_connected_socket_of_the_host_waits_for_is_not_taken_by_a_publish<F: TestFamily>() {
    for (speech, published) in [(Speech::SYN, F::WEB), (Speech::Udp, F::DNS)] {
        let mut memory = Memory::new(16);
        memory.bind(&Tuple::new(speech, F::CLIENT, published), HostSocket::Connected);
        let mine = Talk::from_outside(&memory, F::CLIENT, published).say(speech);
        assert_eq!(mine.verdict, Verdict::Pass, "{speech:?}");
        let others = Talk::from_outside(&memory, at(F::FAR, 40_000), published).say(speech);
        assert!(others.way_back().is_some(), "{speech:?}: everybody else reaches the container");
    }
}

fn a_published_port_is_no_port_for_masquerading<F: TestFamily>() {
    let memory = Memory::new(16);
    let seen = Talk::of(&memory, C3, 8080, F::SERVER).say(Speech::SYN).tuple();
    assert!((NAT_FIRST..=NAT_LAST).contains(&seen.from.port()));
}

fn when_all_ports_to_a_destination_are_used_up_others_are_still_reached_and_it_recovers<F: TestFamily>() {
    let mut memory = Memory::new(16);
    (memory.config.nat_first, memory.config.nat_last) = (20_000, 20_000);
    let talks = [C1, C2, C3].map(|container| Talk::of(&memory, container, 40_000, F::SERVER));
    let kept = talks[0].establish(Speech::Udp);
    assert_eq!(kept.from.port(), 40_000);
    assert_eq!(talks[1].say(Speech::Udp).tuple().from.port(), 20_000);
    for _ in 0..3 {
        assert_exhausted(&memory, C3, &talks[2].say(Speech::Udp), DropReason::NoPort);
    }
    assert_eq!(talks[0].say(Speech::Udp).tuple(), kept);
    assert_eq!(Talk::of(&memory, C3, 40_000, at(F::FAR, 444)).say(Speech::Udp).tuple().from.port(), 40_000);
    memory.sleep(31);
    assert_eq!(collect(&memory), 2, "the unanswered");
    assert_eq!(talks[2].say(Speech::Udp).tuple().from.port(), 20_000);
}

// --- Full tables, floods ---

fn a_full_table_refuses_new_flows_whole_and_leaves_the_others_alone<F: TestFamily>() {
    for capacity in [2, 3] {
        let mut memory = Memory::new(16);
        memory.capacity = capacity;
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        let seen = talk.establish(Speech::Udp);
        for speech in [Speech::Udp, Speech::SYN] {
            let refused = Talk::of(&memory, C2, 20_000, F::SERVER).say(speech);
            assert_exhausted(&memory, C2, &refused, DropReason::TableFull);
        }
        let refused = Talk::from_outside(&memory, F::CLIENT, F::WEB).say(Speech::SYN);
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull));
        assert_eq!(flows(&memory).len(), 1);
        assert_eq!(talk.say(Speech::Udp).tuple(), seen);
    }
}

fn a_flood_ends_the_oldest_half_open_flows_and_no_confirmed_one<F: TestFamily>() {
    const FLOOD: u16 = 100;
    let memory = Memory::new(8);
    let confirmed = [1, 2, 3].map(|port| Talk::from_outside(&memory, at(F::OUTSIDE, port), F::WEB));
    for talk in confirmed {
        talk.establish(Speech::SYN);
    }
    let talk = |port| Talk::from_outside(&memory, at(F::FAR, port), F::WEB);
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

fn a_connection_is_not_evicted_in_place_of_an_older_one_with_the_same_key<F: TestFamily>() {
    let memory = Memory::new(2);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    talk.say(Speech::SYN);
    talk.say(Speech::RST);
    talk.say(Speech::SYN);
    // Its turn is the first connection's, which is no more.
    Talk::of(&memory, C2, 20_000, F::SERVER).say(Speech::SYN);
    assert_eq!((memory.events(Event::FlowEvicted), flows(&memory).len()), (0, 2));
    assert!(talk.flow(Speech::SYN).is_some());
}

// --- Sizes ---

/// Sends a GSO packet of `options` bytes of TCP options (UDP: none) in segments of `size` bytes.
fn send_gso<F: TestFamily>(memory: &Memory, protocol: u8, options: usize, size: u32) -> Verdict {
    let (from, to, payload) = (at(C1.ip::<F>(), 20_000), F::SERVER, [7; 9000]);
    let link = link_on(egress(C1));
    let bytes = if protocol == protocol::UDP {
        link.datagram(from, to, TTL, &payload)
    } else {
        link.syn_with_options(from, to, TTL, &vec![1; options], &payload)
    };
    let mut frame = frame_on(egress(C1), bytes);
    frame.gso_size = size;
    travel(memory, egress(C1), &mut frame)
}

fn the_size_of_a_segment_counts_against_the_mtu_and_not_the_size_of_all<F: TestFamily>() {
    let room = MTU - F::HEADER_LEN as u16;
    for (says, protocol, options, largest) in [
        ("UDP", protocol::UDP, 0, room - 8),
        ("TCP", protocol::TCP, 0, room - 20),
        ("TCP with timestamps", protocol::TCP, 12, room - 32),
        ("TCP with all the options there are", protocol::TCP, 40, room - 60),
    ] {
        let memory = Memory::new(16);
        let fits = send_gso::<F>(&memory, protocol, options, u32::from(largest));
        assert!(matches!(fits, Verdict::Neighbour { .. }), "{says}: {fits:?}");
        let beyond = send_gso::<F>(&memory, protocol, options, u32::from(largest) + 1);
        assert_eq!(beyond, peer(C1), "{says}: the container is told");
        assert_eq!(memory.drops(DropReason::TooBig), 1, "{says}");
    }
}

/// A frame of which the header says no length, with so many bytes of IP.
fn big<F: TestFamily>(len: usize) -> Vec<u8> {
    let mut bytes = link_on(egress(C1)).segment(at(C1.ip::<F>(), 20_000), F::SERVER, tcp_flags::SYN, TTL, b"");
    let header = &mut bytes[14..];
    if F::HEADER_HAS_CHECKSUM {
        header[2..4].fill(0);
        header[10..12].fill(0);
        let words = header[..20].chunks(2).map(|word| Be16::from_raw(u16::from_ne_bytes([word[0], word[1]])));
        let sum = words.fold(Sum::ZERO, Sum::add16).checksum();
        header[10..12].copy_from_slice(&sum.raw().to_ne_bytes());
    } else {
        header[4..6].fill(0);
    }
    bytes.resize(14 + len, 7);
    bytes
}

fn what_is_longer_than_its_header_can_say_is_as_long_as_it_is_when_it_is_segments<F: TestFamily>() {
    let memory = Memory::new(16);
    let mut frame = frame_on(egress(C1), big::<F>(150_000));
    frame.gso_size = 1400;
    let verdict = travel(&memory, egress(C1), &mut frame);
    assert!(matches!(verdict, Verdict::Neighbour { .. }), "{verdict:?}");
    let said = Tuple::new(Speech::SYN, at(C1.ip::<F>(), 20_000), F::SERVER);
    assert_eq!(entry(&memory, egress(C1), &said).expect("a flow").bytes, 150_000);
    // No segments: the header lies.
    let mut frame = frame_on(egress(C1), big::<F>(150_000));
    assert_eq!(travel(&memory, egress(C1), &mut frame), Verdict::Drop(DropReason::Malformed));
}

#[test]
fn the_option_that_says_how_long_a_large_packet_of_ipv6_is_is_in_none_of_its_segments() {
    const JUMBO: [u8; 6] = [0xc2, 4, 0, 2, 0x49, 0xc8];
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let sent = |mut bytes: Vec<u8>, is_big: bool, option: [u8; 6], size: u16| {
        let memory = Memory::new(16);
        bytes = extended(bytes, HOP_BY_HOP, &option);
        if is_big {
            bytes[18..20].fill(0);
        }
        let mut frame = frame_on(egress(C1), bytes);
        frame.gso_size = size.into();
        let verdict = travel(&memory, egress(C1), &mut frame);
        (matches!(verdict, Verdict::Neighbour { .. }), memory.drops(DropReason::TooBig))
    };
    let room = MTU - V6::HEADER_LEN as u16 - 20;
    let big = || big::<V6>(150_000);
    assert_eq!(sent(big(), true, JUMBO, room), (true, 0));
    assert_eq!(sent(big(), true, JUMBO, room + 1), (false, 1));
    // One that can say so itself has whatever it has in each of them.
    let (from, to) = (at(C1.ip::<V6>(), 20_000), V6::SERVER);
    let other = || link_on(egress(C1)).syn_with_options(from, to, TTL, &[], &[7; 9000]);
    assert_eq!(sent(other(), false, PADDING, room - 8), (true, 0));
    assert_eq!(sent(other(), false, PADDING, room - 7), (false, 1));
}

fn the_host_is_told_what_the_device_of_a_container_takes<F: TestFamily>() {
    let memory = Memory::new(16);
    let room = usize::from(MTU) - F::HEADER_LEN as usize - 8;
    let said = |len: usize| {
        let (from, to) = (at(F::GATEWAY, 45_000), at(C1.ip::<F>(), 53));
        let bytes = link_on(Hook::Host).datagram(from, to, TTL, &vec![7; len]);
        let mut frame = frame_on(Hook::Host, bytes);
        (travel(&memory, Hook::Host, &mut frame), frame.bytes)
    };
    assert_eq!(said(room).0, Verdict::Device { ifindex: C1.device() });
    let (verdict, told) = said(room + 1);
    assert!(matches!(verdict, Verdict::Ingress { .. }), "{verdict:?}");
    assert_told(&told, IcmpError::fragmentation_needed(MTU));
}
