//! Tier 0: the short way in. What XDP takes comes out as by the way through the stack, and all else goes on to that untouched.

use std::net::SocketAddr;

use netbpf_common::abi::{DropReason, EndpointFlags, Event};
use netbpf_common::path::{self, Verdict};
use netbpf_common::wire::tcp_flags::{ACK, FIN, RST, SYN};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::{self, Hook};
use netbpf_tests::for_both;
use netbpf_tests::gateway;
use netbpf_tests::journey::{frame_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world::{C1, GATEWAY_MAC, OUTSIDE_MAC, UPLINK_MAC};

const TTL: u8 = 64;
const ARRIVING: Ethernet = Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC };
const DELIVERED: Ethernet = Ethernet { from: GATEWAY_MAC, to: C1.mac };

/// By the short way, and on through the stack where it does not end there; what becomes of the packet, and whether it was taken.
fn arrive(memory: &Memory, input: &[u8]) -> (Verdict, Vec<u8>, bool) {
    let mut frame = frame_on(Hook::Uplink, input.to_vec());
    match path::express(&mut frame, &memory) {
        Verdict::Pass => {
            assert_eq!(frame.bytes, input, "what goes on is untouched");
            (travel(memory, Hook::Uplink, &mut frame), frame.bytes, false)
        }
        verdict @ (Verdict::Peer { .. } | Verdict::Drop(_)) => (verdict, frame.bytes, true),
        other => panic!("XDP can do nothing with {other:?}"),
    }
}

#[test]
fn every_fixture_comes_out_as_it_says_with_xdp_too() {
    let (mut taken, mut others) = (0, 0);
    for (mode, fixtures) in fixture::by_mode() {
        for fixture in fixtures {
            let memory = gateway::world(mode);
            for step in &fixture.steps {
                if step.hook != Hook::Uplink {
                    travel(&memory, step.hook, &mut frame_on(step.hook, step.input.clone()));
                    continue;
                }
                // What opens a flow is followed by one that finds it.
                let times = if matches!(step.verdict, Verdict::Peer { .. }) { 2 } else { 1 };
                for _ in 0..times {
                    let (verdict, bytes, is_taken) = arrive(&memory, &step.input);
                    let says = format!("{mode:?}: {}: {}", fixture.name, step.says);
                    assert_eq!(verdict, step.verdict, "{says}");
                    if !matches!(verdict, Verdict::Drop(_)) {
                        assert_eq!(bytes, step.output, "{says}");
                    }
                    let count = if is_taken { &mut taken } else { &mut others };
                    *count += 1;
                }
            }
        }
    }
    assert!(taken > 10 && others > 50, "{taken} were taken, {others} went on");
}

/// A connection to a published port that both sides have spoken on.
fn connected<F: TestFamily>() -> (Memory, [SocketAddr; 2]) {
    let memory = Memory::new(16);
    let ends = [SocketAddr::new(F::OUTSIDE, 40_000), SocketAddr::new(F::HOST, 8080)];
    let [client, host] = ends;
    let service = SocketAddr::new(C1.ip::<F>(), 80);
    let back = Ethernet { from: C1.mac, to: GATEWAY_MAC };
    arrive(&memory, &ARRIVING.segment(client, host, SYN, TTL, b""));
    let mut answer = frame_on(Hook::Egress(C1.device()), back.segment(service, client, SYN | ACK, TTL, b""));
    travel(&memory, Hook::Egress(C1.device()), &mut answer);
    arrive(&memory, &ARRIVING.segment(client, host, ACK, TTL, b""));
    (memory, ends)
}

fn data_of_a_connection_is_taken_and_counted<F: TestFamily>() {
    let (memory, [client, host]) = connected::<F>();
    let before = memory.events.borrow().get(&Event::Hit).copied().unwrap_or(0);
    let data = ARRIVING.segment(client, host, ACK, TTL, b"GET / HTTP/1.1");
    let delivered = DELIVERED.segment(client, SocketAddr::new(C1.ip::<F>(), 80), ACK, TTL - 1, b"GET / HTTP/1.1");
    assert_eq!(arrive(&memory, &data), (Verdict::Peer { ifindex: C1.device() }, delivered, true));
    let events = memory.events.borrow();
    assert_eq!((events[&Event::Hit], events.get(&Event::Express)), (before + 1, Some(&1)));
}

fn what_changes_a_flow_or_is_none_of_its_plain_packets_goes_through_the_stack<F: TestFamily>() {
    let (memory, [client, host]) = connected::<F>();
    let foreign = Ethernet { from: OUTSIDE_MAC, to: [2, 0xde, 0xad, 0, 0, 1] };
    let stranger = SocketAddr::new(F::OUTSIDE, 40_001);
    let mut tagged = ARRIVING.segment(client, host, ACK, TTL, b"x");
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    for (what, input) in [
        ("a SYN", ARRIVING.segment(client, host, SYN, TTL, b"")),
        ("for another machine", foreign.segment(client, host, ACK, TTL, b"x")),
        ("of a VLAN", tagged),
        ("with no hop left", ARRIVING.segment(client, host, ACK, 1, b"x")),
        ("of a connection that nobody knows", ARRIVING.segment(stranger, host, ACK, TTL, b"x")),
        ("a FIN", ARRIVING.segment(client, host, FIN | ACK, TTL, b"")),
        ("a RST", ARRIVING.segment(client, host, RST, TTL, b"")),
    ] {
        assert!(!arrive(&memory, &input).2, "{what}");
    }
}

fn who_takes_no_frames_ahead_of_the_stack_is_given_none<F: TestFamily>() {
    let (mut memory, [client, host]) = connected::<F>();
    let data = ARRIVING.segment(client, host, ACK, TTL, b"x");
    memory.endpoints.get_mut(&C1.slot).expect("of the world").flags = EndpointFlags::NO_PEER;
    memory.express.remove(&C1.slot);
    assert_eq!(arrive(&memory, &data).0, Verdict::Device { ifindex: C1.device() }, "by the stack");
}

fn a_connection_whose_container_is_gone_ends_by_the_way_through_the_stack<F: TestFamily>() {
    let (mut memory, [client, host]) = connected::<F>();
    memory.endpoints.get_mut(&C1.slot).expect("of the world").generation += 1;
    let (verdict, _, is_taken) = arrive(&memory, &ARRIVING.segment(client, host, ACK, TTL, b"x"));
    assert!(!is_taken && !matches!(verdict, Verdict::Peer { .. } | Verdict::Drop(DropReason::Internal)), "{verdict:?}");
}

for_both!(
    data_of_a_connection_is_taken_and_counted,
    what_changes_a_flow_or_is_none_of_its_plain_packets_goes_through_the_stack,
    who_takes_no_frames_ahead_of_the_stack_is_given_none,
    a_connection_whose_container_is_gone_ends_by_the_way_through_the_stack,
);
