//! Tier 1: the object in the kernel. The verifier takes it, and every fixture comes out of the
//! programs as it does out of the paths in memory.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use netbpf_common::abi::{Event, GatewayMode, Visitors};
use netbpf_common::path::Verdict;
use netbpf_common::wire::V6Addr;
use netbpf_tests::fixture::{self, Fixture, Hook};
use netbpf_tests::headers::Headers;
use netbpf_tests::kernel::Kernel;
use netbpf_tests::verified::{self, Record, STACK};

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// The least that the kernel takes as a frame for BPF_PROG_TEST_RUN: an IP header. Tier 0 tries what is
/// shorter.
fn shortest(frame: &[u8]) -> usize {
    let ipv6 = frame.len() > ETHERNET && frame[12..ETHERNET] == [0x86, 0xdd];
    ETHERNET + if ipv6 { 40 } else { 20 }
}

#[test]
fn the_verifier_takes_every_program() {
    Kernel::new(64, 16).expect("the object loads");
}

#[test]
fn the_verifier_walks_as_much_of_every_program_as_was_recorded_of_its_kernel() {
    let series = verified::series().expect("the kernel has a release");
    let programs = verified::programs().expect("the object loads");
    for (name, asked) in &programs {
        assert!(
            asked.stack <= STACK,
            "{name} takes {} bytes of stack: no kernel gives it more than {STACK}",
            asked.stack
        );
    }
    let record = Record::read().expect("the record is readable");
    let differences = record.differences(&series, &programs).expect("the record can be written");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_fixture_comes_out_of_the_kernel_as_it_says() {
    for [with_express, in_driver] in [[false, false], [true, false], [false, true]] {
        // Each in a kernel of its own: what is remembered of fragments outlives their flows.
        let kernel = Kernel::new(1024, 16).expect("the object loads");
        let mut steps = 0;
        for (mode, fixtures) in fixture::by_mode() {
            kernel.change(mode).expect("the kernel takes the mode");
            for fixture in fixtures {
                steps += comes_out(&kernel, mode, &fixture, with_express, in_driver);
            }
        }
        assert!(steps > 50, "only {steps} packets were tried");
        let taken = kernel.counter(Event::Express as u32).expect("counters are readable");
        assert!(if with_express { taken > 10 } else { taken == 0 }, "XDP has taken {taken} packets");
    }
}

/// Runs a fixture through the programs; how many packets that were. With XDP, what goes on is left untouched by it. In the driver of
/// a netkit what is dropped is sent nowhere.
fn comes_out(kernel: &Kernel, mode: GatewayMode, fixture: &Fixture, with_express: bool, in_driver: bool) -> usize {
    kernel.forget_flows().expect("the table is readable");
    let steps = fixture.steps.iter().filter(|step| step.input.len() >= shortest(&step.input));
    steps
        .inspect(|step| {
            let says = format!("{mode:?}: {}: {}", fixture.name, step.says);
            let counted = |reason| kernel.counter(reason as u32).expect("counters are readable");
            let (expected, before) = match step.verdict {
                Verdict::Pass => (TC_ACT_UNSPEC, None),
                Verdict::Drop(reason) => (TC_ACT_SHOT, Some((reason, counted(reason)))),
                // Held, or replicated: those are counted otherwise.
                Verdict::Done => (TC_ACT_SHOT, None),
                _ => (TC_ACT_REDIRECT, None),
            };
            if with_express && step.hook == Hook::Uplink {
                let run = kernel.run_express(&step.input, 1).expect("the kernel takes the frame");
                if run.returned != XDP_PASS {
                    assert_eq!((run.returned, &run.output), (XDP_REDIRECT, &step.output), "{says}: by XDP");
                    return;
                }
                assert_eq!(run.output, step.input, "{says}: untouched by XDP");
            }
            let is_sent_nowhere = in_driver && matches!(step.hook, Hook::Egress(_)) && expected == TC_ACT_SHOT;
            let expected = if is_sent_nowhere { TC_ACT_REDIRECT } else { expected };
            let run = kernel.run_at(step.hook, in_driver, &step.input, 1).expect("the kernel takes the frame");
            assert_eq!(run.returned as i32, expected, "{says}");
            match before {
                Some((reason, before)) => {
                    assert_eq!(counted(reason), before + 1, "{says}: counted as {}", reason.name());
                }
                None => assert_eq!(run.output, step.output, "{says}"),
            }
            // What opens a flow is followed by one that finds it.
            if with_express && step.hook == Hook::Uplink && matches!(step.verdict, Verdict::Peer { .. }) {
                let again = kernel.run_express(&step.input, 1).expect("the kernel takes the frame");
                let (expected, output) =
                    if again.returned == XDP_PASS { (XDP_PASS, &step.input) } else { (XDP_REDIRECT, &step.output) };
                assert_eq!((again.returned, &again.output), (expected, output), "{says}: once more, by XDP");
            }
        })
        .count()
}

#[test]
fn a_trie_of_any_size_is_read_as_it_was_written() {
    let kernel = Kernel::new(64, 16).expect("the object loads");
    let table = &kernel.datapath.maps.v6.allowed;
    // Several batches, and keys longer than a hash's positions.
    let address =
        |number: u32| V6Addr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, (number >> 16) as u16, number as u16));
    let written: HashSet<Visitors<V6Addr>> =
        (0..10_000).map(|number| Visitors::new(number % 7, number % 3, address(number), 128)).collect();
    let keys: Vec<Visitors<V6Addr>> = written.iter().copied().collect();
    table.set_all(&keys, &vec![1; keys.len()]).expect("there is room");
    let read: Vec<Visitors<V6Addr>> =
        table.entries().expect("it is readable").into_iter().map(|(key, _)| key).collect();
    assert_eq!((read.len(), read.into_iter().collect::<HashSet<_>>()), (written.len(), written));
}

#[test]
fn no_length_of_a_packet_upsets_a_program() {
    let kernel = Kernel::new(1024, 16).expect("the object loads");
    for (mode, fixtures) in fixture::by_mode() {
        kernel.change(mode).expect("the kernel takes the mode");
        for step in fixtures.iter().flat_map(|fixture| &fixture.steps) {
            for len in shortest(&step.input)..step.input.len() {
                let run = kernel.run(step.hook, &step.input[..len], 1).expect("the kernel takes the frame");
                let returned = run.returned as i32;
                let answers = [TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT];
                assert!(answers.contains(&returned), "{}: {returned} at {len} bytes", step.says);
                if returned == TC_ACT_REDIRECT {
                    // Only what is whole goes on: a frame's padding may be cut, the packet may not.
                    let end = Headers::read(&step.input).map_or(0, |headers| headers.transport.end);
                    assert!(len >= end, "{}: goes on at {len} bytes", step.says);
                }
            }
        }
    }
    // Forwarded packets are refused before anything is read.
    let forwarded = kernel.run(Hook::Forwarded, &[0; ETHERNET], 1).expect("the kernel takes the frame");
    assert_eq!(forwarded.returned as i32, TC_ACT_SHOT);
}
