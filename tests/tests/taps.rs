//! Tier 0: an endpoint whose device has no peer is sent to by the device itself, from wherever.

use netbpf_common::abi::{DropReason, EndpointFlags, Event};
use netbpf_common::path::Verdict;
use netbpf_common::wire::tcp_flags;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, TTL, Tuple, answer, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::{IcmpError, fragmented};
use netbpf_tests::talk::{Talk, assert_told, at, egress, peer};
use netbpf_tests::world::{C1, C2, C3, Container, MTU};

for_both!(
    whoever_sends_to_it_does_so_by_the_device,
    who_sends_more_than_its_device_takes_is_told_how_much_that_is,
    what_its_device_does_not_take_opens_no_flow_wherever_it_comes_from,
    a_fragment_that_its_device_does_not_take_is_not_held_for_its_first,
    what_it_is_told_comes_by_the_device,
    its_echo_replies_go_to_the_host_as_well,
);

/// The world, in which C1 is behind a tap.
fn world() -> Memory {
    let mut memory = Memory::new(64);
    memory.endpoints.get_mut(&C1.slot).expect("of the world").flags = EndpointFlags::NO_PEER;
    memory
}

/// Out of a container's device, as it is.
const fn device(container: Container) -> Verdict {
    Verdict::Device { ifindex: container.device() }
}

fn whoever_sends_to_it_does_so_by_the_device<F: TestFamily>() {
    let memory = world();
    for speech in [Speech::SYN, Speech::Udp] {
        let of_neighbour = Talk::of(&memory, C2, 20_000, at(C1.ip::<F>(), 53)).say(speech);
        assert_eq!(of_neighbour.verdict, device(C1));
        // It answers as everybody does.
        assert_eq!(answer(&memory, &of_neighbour, speech.answer()).verdict, peer(C2));
        let of_world = Talk::of(&memory, C1, 20_000, F::SERVER).say(speech);
        assert_eq!(answer(&memory, &of_world, speech.answer()).verdict, device(C1));
    }
    assert_eq!(Talk::from_outside(&memory, F::CLIENT, F::WEB).say(Speech::SYN).verdict, device(C1));
    assert_eq!(Talk::of_host::<F>(&memory, 45_000).say(Speech::SYN).verdict, device(C1));
    assert_eq!(Talk::of(&memory, C3, 20_000, F::WEB).say(Speech::SYN).verdict, device(C1));
    assert_eq!(Talk::of(&memory, C1, 30_000, F::WEB).say(Speech::SYN).verdict, device(C1), "to itself");
}

fn who_sends_more_than_its_device_takes_is_told_how_much_that_is<F: TestFamily>() {
    let memory = world();
    let room = usize::from(MTU) - F::HEADER_LEN as usize - 8;
    let to = at(C1.ip::<F>(), 53);
    let said = |len: usize, gso_size: u32| {
        let bytes = link_on(egress(C2)).datagram(at(C2.ip::<F>(), 20_000), to, TTL, &vec![7; len]);
        let mut frame = frame_on(egress(C2), bytes);
        frame.gso_size = gso_size;
        (travel(&memory, egress(C2), &mut frame), frame.bytes)
    };
    let (told, bytes) = said(room + 1, 0);
    assert_eq!((told, memory.drops(DropReason::TooBig)), (peer(C2), 1), "the sender");
    assert_told(&bytes, IcmpError::fragmentation_needed(MTU));
    assert!(flows(&memory).is_empty(), "it opens nothing");
    assert_eq!(said(room, 0).0, device(C1));
    assert_eq!(said(room + 1, 0).0, peer(C2), "of a flow that is there, too");
    assert_eq!(said(4 * room, room as u32).0, device(C1), "in pieces that fit");
    // What comes from elsewhere goes the same way; a container with a namespace takes everything.
    let outside = link_on(Hook::Uplink).segment(F::CLIENT, F::WEB, tcp_flags::SYN, TTL, &vec![7; room]);
    let mut frame = frame_on(Hook::Uplink, outside);
    travel(&memory, Hook::Uplink, &mut frame);
    assert_told(&frame.bytes, IcmpError::fragmentation_needed(MTU));
    let bytes = link_on(egress(C1)).datagram(at(C1.ip::<F>(), 20_000), at(C2.ip::<F>(), 53), TTL, &vec![7; room + 1]);
    assert_eq!(travel(&memory, egress(C1), &mut frame_on(egress(C1), bytes)), peer(C2));
}

fn what_its_device_does_not_take_opens_no_flow_wherever_it_comes_from<F: TestFamily>() {
    let room = usize::from(MTU) - F::HEADER_LEN as usize - 20;
    let neighbour = at(C2.ip::<F>(), 20_000);
    let of_host = [at(F::VIRTUAL_LOOPBACK, F::WEB.port()), at(C1.ip::<F>(), 80)].map(|to| (Hook::Host, F::GATEWAY, to));
    let ways = [(Hook::Uplink, F::CLIENT.ip(), F::WEB), (egress(C2), neighbour.ip(), at(C1.ip::<F>(), 80))];
    for (hook, from, to) in ways.into_iter().chain(of_host) {
        let opened = |len: usize| {
            let memory = world();
            let bytes = link_on(hook).segment(at(from, 20_000), to, tcp_flags::SYN, TTL, &vec![7; len]);
            let mut frame = frame_on(hook, bytes);
            let verdict = travel(&memory, hook, &mut frame);
            (verdict, memory.drops(DropReason::TooBig), flows(&memory).len(), frame.bytes)
        };
        let (verdict, told, left, bytes) = opened(room + 1);
        assert_eq!((told, left), (1, 0), "{hook:?} to {to}: {verdict:?}");
        assert_told(&bytes, IcmpError::fragmentation_needed(MTU));
        let (verdict, told, left, _) = opened(room);
        assert_eq!((verdict, told, left), (device(C1), 0, 1), "{hook:?} to {to}");
    }
}

fn a_fragment_that_its_device_does_not_take_is_not_held_for_its_first<F: TestFamily>() {
    let memory = world();
    let bytes = link_on(egress(C2)).datagram(at(C2.ip::<F>(), 20_000), at(C1.ip::<F>(), 53), TTL, &[7; 4000]);
    let sent = |frame: &[u8]| travel(&memory, egress(C2), &mut frame_on(egress(C2), frame.to_vec()));
    let pieces = fragmented(&bytes, 7, 1600);
    assert_eq!(sent(&pieces[1]), Verdict::Drop(DropReason::TooBig), "by name, and nobody is told of a later one");
    assert_eq!(memory.held(), 0);
    // That its first tells.
    assert_eq!((sent(&pieces[0]), memory.drops(DropReason::TooBig)), (peer(C2), 1));
    let pieces = fragmented(&bytes, 8, 1400);
    assert_eq!(sent(&pieces[1]), device(C1), "to a neighbour without ports");
    // Whom it is for only its first tells.
    let published = link_on(egress(C2)).datagram(at(C2.ip::<F>(), 20_000), F::DNS, TTL, &[7; 4000]);
    assert_eq!(sent(&fragmented(&published, 9, 1600)[1]), Verdict::Done);
    assert_eq!(memory.held(), 1);
}

fn what_it_is_told_comes_by_the_device<F: TestFamily>() {
    let memory = world();
    let told = Talk::of(&memory, C1, 20_000, at(F::NOBODY, 53)).say(Speech::Udp);
    assert_eq!(told.verdict, device(C1));
    assert_told(&told.bytes, IcmpError::HOST_UNREACHABLE);
    assert_eq!(memory.events(Event::IcmpMade), 1);
}

fn its_echo_replies_go_to_the_host_as_well<F: TestFamily>() {
    let memory = world();
    let asked = Talk::of(&memory, C1, 77, F::PINGED).say(Speech::Ping);
    let Tuple { from, to, .. } = asked.tuple();
    let bytes = Speech::Ping.answer().frame(link_on(Hook::Uplink), to, from, 64, b"odd");
    let mut frame = frame_on(Hook::Uplink, bytes.clone());
    assert_eq!(travel(&memory, Hook::Uplink, &mut frame), Verdict::Pass, "to the host as it was");
    assert_eq!(frame.bytes, bytes);
    let copied: Vec<u32> = frame.copies.iter().map(|(device, _)| *device).collect();
    assert_eq!(copied, [C1.device()]);
}
