//! Tier 0: what of TCP acts on a flow, and what somebody has only guessed.

use netbpf_common::abi::{DropReason, Event, Life};
use netbpf_common::flow::State;
use netbpf_common::path::Verdict;
use netbpf_common::wire::{protocol, tcp_flags};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Arrival, Speech, Tuple, answer, collect, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{AFTER_SYN, WINDOW};
use netbpf_tests::talk::{Talk, at, egress, peer};
use netbpf_tests::world::{C1, C2};

for_both!(
    a_reset_that_somebody_guesses_is_passed_on_and_changes_nothing,
    a_reset_inside_the_window_ends_a_connection_from_either_side,
    a_connection_whose_end_did_not_take_a_reset_lives_on,
    a_reset_in_the_originators_name_that_the_other_side_did_not_take_is_forgotten_too,
    whoever_closes_first_a_connection_ends_in_time_wait,
    a_fin_that_acknowledges_what_was_never_sent_closes_nothing,
    a_fin_and_a_syn_that_somebody_guesses_end_no_connection,
    a_handshake_that_somebody_completes_without_having_seen_its_answer_confirms_nothing,
    two_that_open_at_once_get_one_connection,
    a_connection_of_a_container_goes_on_by_the_same_port_after_the_table_was_lost,
    the_middle_of_a_connection_to_a_published_port_is_left_to_the_host_that_resets_it,
    what_comes_late_opens_nothing_and_leaks_nothing,
    a_refusal_ends_what_it_refuses_and_no_other,
    the_scale_of_the_windows_counts,
    a_container_cannot_reset_the_connections_of_another,
);

const SYN: u8 = tcp_flags::SYN;
const ACK: u8 = tcp_flags::ACK;
const FIN: u8 = tcp_flags::FIN;
const RST: u8 = tcp_flags::RST;

/// Sends a segment with any numbers.
fn say(memory: &Memory, hook: Hook, tuple: &Tuple, flags: u8, seq: u32, ack: u32) -> Arrival {
    let mut frame = frame_on(hook, link_on(hook).numbered(tuple.from, tuple.to, flags, seq, ack));
    let verdict = travel(memory, hook, &mut frame);
    Arrival::new(verdict, frame)
}

fn state(talk: &Talk<&Memory>) -> State {
    State::of(protocol::TCP, talk.flow(Speech::SYN).expect("a flow").word)
}

fn a_reset_that_somebody_guesses_is_passed_on_and_changes_nothing<F: TestFamily>() {
    for offset in [u32::from(WINDOW) + 1, 1 << 20, 1 << 31, u32::MAX] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        let outside = talk.establish(Speech::SYN).reversed();
        let forged = say(&memory, Hook::Uplink, &outside, RST, AFTER_SYN.wrapping_add(offset), 0);
        assert_eq!(forged.verdict, peer(C1), "its receiver is to judge");
        assert_eq!(state(&talk), State::Established, "{offset}");
        assert_eq!(memory.events(Event::OutOfWindow), 1);
        memory.sleep(3600);
        assert_eq!(collect(&memory), 0);
    }
}

fn a_reset_inside_the_window_ends_a_connection_from_either_side<F: TestFamily>() {
    for offset in [0, u32::from(WINDOW)] {
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        let outside = talk.establish(Speech::SYN).reversed();
        say(&memory, Hook::Uplink, &outside, RST, AFTER_SYN + offset, 0);
        assert_eq!(state(&talk), State::Reset);
        let memory = Memory::new(16);
        let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
        talk.establish(Speech::SYN);
        let inside = Tuple::new(Speech::SYN, at(C1.ip::<F>(), 20_000), F::SERVER);
        say(&memory, egress(C1), &inside, RST, AFTER_SYN + offset, 0);
        assert_eq!(state(&talk), State::Reset);
    }
}

fn a_connection_whose_end_did_not_take_a_reset_lives_on<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let outside = talk.establish(Speech::SYN).reversed();
    // Inside the window, but not where the next byte is: the container answers it with an ACK (RFC 5961).
    say(&memory, Hook::Uplink, &outside, RST, AFTER_SYN + 100, 0);
    assert_eq!(state(&talk), State::Reset);
    talk.say(Speech::ACK);
    assert_eq!(state(&talk), State::Established);
    memory.sleep(3600);
    assert_eq!(collect(&memory), 0);
}

fn a_reset_in_the_originators_name_that_the_other_side_did_not_take_is_forgotten_too<F: TestFamily>() {
    let memory = Memory::new(16);
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    let seen = client.establish(Speech::SYN);
    let forged = Tuple::new(Speech::SYN, F::CLIENT, F::WEB);
    say(&memory, Hook::Uplink, &forged, RST, AFTER_SYN + 100, 0);
    assert_eq!(state(&client), State::Reset);
    Talk::server_of(&memory, C1, seen).say(Speech::ACK);
    assert_eq!(state(&client), State::Established);
    memory.sleep(3600);
    assert_eq!(collect(&memory), 0);
}

fn whoever_closes_first_a_connection_ends_in_time_wait<F: TestFamily>() {
    for client_first in [true, false] {
        let memory = Memory::new(16);
        let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
        let seen = client.establish(Speech::SYN);
        let server = Talk::server_of(&memory, C1, seen);
        let [first, second] = if client_first { [client, server] } else { [server, client] };
        first.say(Speech::FIN);
        assert_eq!(state(&client), State::FinWait);
        second.say(Speech::FIN);
        assert_eq!(state(&client), State::Closing);
        first.say(Speech::ACK);
        assert_eq!(state(&client), State::TimeWait, "the client first: {client_first}");
    }
}

fn a_fin_that_acknowledges_what_was_never_sent_closes_nothing<F: TestFamily>() {
    let memory = Memory::new(16);
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    client.establish(Speech::SYN);
    let forged = Tuple::new(Speech::SYN, F::CLIENT, F::WEB);
    for (flags, ack) in [(FIN | ACK, AFTER_SYN + 1), (FIN | ACK, 1 << 30), (FIN, 0)] {
        say(&memory, Hook::Uplink, &forged, flags, AFTER_SYN, ack);
        assert_eq!(state(&client), State::Established, "{flags:#x} {ack}");
    }
}

fn a_fin_and_a_syn_that_somebody_guesses_end_no_connection<F: TestFamily>() {
    let memory = Memory::new(16);
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    let seen = client.establish(Speech::SYN);
    let id = client.flow(Speech::SYN).expect("a flow").word.id();
    let forged = Tuple::new(Speech::SYN, F::CLIENT, F::WEB);
    say(&memory, Hook::Uplink, &forged, FIN | ACK, AFTER_SYN + (1 << 24), AFTER_SYN);
    say(&memory, Hook::Uplink, &forged, SYN, 7, 0);
    let flow = client.flow(Speech::SYN).expect("the same flow");
    assert_eq!((flow.word.id(), flow.word.life()), (id, Life::Established));
    let server = Talk::server_of(&memory, C1, seen);
    assert_eq!(server.say(Speech::ACK).tuple().to, F::CLIENT);
}

fn a_handshake_that_somebody_completes_without_having_seen_its_answer_confirms_nothing<F: TestFamily>() {
    let memory = Memory::new(16);
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    let there = client.say(Speech::SYN);
    answer(&memory, &there, Speech::SYN_ACK);
    let forged = Tuple::new(Speech::SYN, F::CLIENT, F::WEB);
    for ack in [0, AFTER_SYN - 1, AFTER_SYN + 1, 1 << 31] {
        say(&memory, Hook::Uplink, &forged, ACK, AFTER_SYN, ack);
        assert_eq!(state(&client), State::SynRecv, "{ack}");
    }
    client.say(Speech::ACK);
    assert_eq!(state(&client), State::Established);
}

fn two_that_open_at_once_get_one_connection<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let seen = talk.say(Speech::SYN).tuple();
    let outside = Talk::from_outside(&memory, seen.to, seen.from);
    assert_eq!(outside.say(Speech::SYN).verdict, peer(C1), "the other's SYN, not an answer");
    talk.say(Speech::SYN_ACK);
    assert_eq!(outside.say(Speech::SYN_ACK).verdict, peer(C1));
    talk.say(Speech::ACK);
    assert_eq!(state(&talk), State::Established);
    assert_eq!(memory.events(Event::FlowMade), 1);
}

fn a_connection_of_a_container_goes_on_by_the_same_port_after_the_table_was_lost<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let seen = talk.establish(Speech::SYN);
    memory.forget_flows();
    // Whoever speaks first: what comes from outside is nobody's until the container has spoken.
    let outside = Talk::from_outside(&memory, seen.to, seen.from);
    assert_eq!(outside.say(Speech::ACK).verdict, Verdict::Pass);
    assert_eq!(talk.say(Speech::ACK).tuple(), seen);
    assert_eq!(outside.say(Speech::ACK).verdict, peer(C1));
    talk.say(Speech::ACK);
    assert_eq!(state(&talk), State::Established);
}

fn the_middle_of_a_connection_to_a_published_port_is_left_to_the_host_that_resets_it<F: TestFamily>() {
    let memory = Memory::new(16);
    let client = Talk::from_outside(&memory, F::CLIENT, F::WEB);
    let seen = client.establish(Speech::SYN);
    memory.forget_flows();
    assert_eq!(client.say(Speech::ACK).verdict, Verdict::Pass);
    assert!(flows(&memory).is_empty());
    // What the server says meanwhile leaves by another port than its client knows, whose reset finds it.
    let stray = Talk::server_of(&memory, C1, seen).say(Speech::ACK);
    assert_eq!(stray.tuple().from.ip(), F::HOST);
    assert_ne!(stray.tuple().from.port(), F::WEB.port());
    assert_eq!(answer(&memory, &stray, Speech::RST).verdict, peer(C1));
}

fn what_comes_late_opens_nothing_and_leaks_nothing<F: TestFamily>() {
    for late in [Speech::RST, Speech::REFUSAL, Speech::SYN_ACK, Speech::Pong] {
        let memory = Memory::new(16);
        let seen = Talk::of(&memory, C1, 20_000, F::SERVER).say(late);
        assert_eq!(seen.verdict, Verdict::Drop(DropReason::NoFlow), "{late:?}");
        assert!(flows(&memory).is_empty());
    }
    // A FIN may be the middle of a connection that is picked up: it leaves as the host's.
    let memory = Memory::new(16);
    assert_eq!(Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::FIN).tuple().from.ip(), F::HOST);
}

fn a_refusal_ends_what_it_refuses_and_no_other<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    let seen = talk.say(Speech::SYN).tuple();
    say(&memory, Hook::Uplink, &seen.reversed(), RST | ACK, 0, AFTER_SYN + 5);
    assert_ne!(state(&talk), State::Reset);
    say(&memory, Hook::Uplink, &seen.reversed(), RST | ACK, 0, AFTER_SYN);
    assert_eq!(state(&talk), State::Reset);
}

fn the_scale_of_the_windows_counts<F: TestFamily>() {
    let memory = Memory::new(16);
    let hook = egress(C1);
    let (from, to) = (at(C1.ip::<F>(), 20_000), F::SERVER);
    // Maximum segment size, no operation, window scale 7.
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    let mut frame = frame_on(hook, link_on(hook).syn_with_options(from, to, 64, &options, &[]));
    let verdict = travel(&memory, hook, &mut frame);
    let there = Arrival::new(verdict, frame);
    answer(&memory, &there, Speech::SYN_ACK);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    talk.say(Speech::ACK);
    let outside = there.tuple().reversed();
    let window = u32::from(WINDOW) << 7;
    say(&memory, Hook::Uplink, &outside, RST, AFTER_SYN + window + 1, 0);
    assert_eq!(state(&talk), State::Established);
    say(&memory, Hook::Uplink, &outside, RST, AFTER_SYN + window, 0);
    assert_eq!(state(&talk), State::Reset);
}

fn a_container_cannot_reset_the_connections_of_another<F: TestFamily>() {
    let memory = Memory::new(16);
    let talk = Talk::of(&memory, C1, 20_000, F::SERVER);
    talk.establish(Speech::SYN);
    let forged = Tuple::new(Speech::RST, at(C1.ip::<F>(), 20_000), F::SERVER);
    let mut frame = frame_on(egress(C2), link_on(egress(C2)).numbered(forged.from, forged.to, RST, AFTER_SYN, 0));
    assert_eq!(travel(&memory, egress(C2), &mut frame), Verdict::Drop(DropReason::SpoofedAddress));
    assert_eq!(state(&talk), State::Established);
}
