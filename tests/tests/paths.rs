//! Tier 0: the paths over tables in memory.

use netbpf_common::path::{self, Verdict};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::{self, Step};
use netbpf_tests::for_both;
use netbpf_tests::frame::Frame;
use netbpf_tests::gateway;
use netbpf_tests::journey::{flows, frame_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world;

/// Runs a packet of a fixture; what becomes of it, and the bytes.
fn run(memory: &Memory, step: &Step) -> (Verdict, Vec<u8>) {
    let mut frame = frame_on(step.hook, step.input.clone());
    (travel(memory, step.hook, &mut frame), frame.bytes)
}

#[test]
fn every_fixture_comes_out_as_it_says() {
    let mut steps = 0;
    let fixtures =
        fixture::by_mode().flat_map(|(mode, fixtures)| fixtures.into_iter().map(move |fixture| (mode, fixture)));
    for (mode, fixture) in fixtures {
        let memory = gateway::world(mode);
        for step in &fixture.steps {
            let (verdict, bytes) = run(&memory, step);
            assert_eq!(verdict, step.verdict, "{mode:?}: {}: {}", fixture.name, step.says);
            if !matches!(verdict, Verdict::Drop(_)) {
                assert_eq!(bytes, step.output, "{mode:?}: {}: {}", fixture.name, step.says);
            }
            steps += 1;
        }
    }
    assert!(steps > 50, "only {steps} packets were tried");
}

for_both!(an_echo_reply_reaches_the_container_and_the_host);

fn an_echo_reply_reaches_the_container_and_the_host<F: TestFamily>() {
    let fixtures = fixture::common::<F>();
    let fixture = fixtures.iter().find(|f| f.name.starts_with("an echo keeps its identifier")).expect("is there");
    let memory = Memory::new(16);
    for step in &fixture.steps {
        run(&memory, step);
    }
    let mut reply = Frame::new(world::UPLINK, fixture.steps[1].input.clone());
    assert_eq!(path::uplink(&mut reply, &&memory), Verdict::Pass);
    let into = Ethernet { from: world::GATEWAY_MAC, to: world::C1.mac };
    let copy = into.echo(F::FAR, world::C1.ip::<F>(), false, 7, 64);
    assert_eq!(reply.copies, [(world::C1.device(), copy)]);
    assert_eq!(reply.bytes, fixture.steps[1].input, "the host gets it whole");
}

#[test]
fn what_is_refused_leaves_no_flow() {
    for (mode, fixtures) in fixture::by_mode() {
        let refused = fixtures.iter().flat_map(|f| &f.steps).filter(|s| matches!(s.verdict, Verdict::Drop(_)));
        for step in refused {
            let memory = gateway::world(mode);
            run(&memory, step);
            assert!(flows(&memory).is_empty(), "{mode:?}: {}", step.says);
        }
    }
}
