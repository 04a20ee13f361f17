//! How many packets are lost when something is taken away, or changes, until it is right again. What is known to lose nothing must
//! lose nothing; of the rest the number is printed, and traffic must come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netbpf_common::path::V4;
use netbpf_tests::place::Place;
use netbpf_tests::server::Server;
use netbpf_tests::wait::until;

use crate::lab::Lab;
use crate::stream::Stream;

/// What happens, by a line of the shell on the host, and whether it may cost anything.
const SCENARIOS: [(&str, &str, bool); 8] = [
    ("pins are removed", "rm %b/links/* %b/maps/*", false),
    ("a firewall is flushed", "nft flush ruleset", false),
    (
        "the uplink's program is detached",
        "bpftool link detach pinned %b/links/uplink-$(ip -o link show eth0 | cut -d: -f1)",
        true,
    ),
    ("the container's program is detached", "bpftool link detach pinned $(ls %b/links/egress-* | head -n1)", true),
    ("netbpf0 is deleted", "ip link delete netbpf0", true),
    ("the container's device is deleted", "ip link delete %1", true),
    ("the uplink goes down and up", "ip link set eth0 down; ip link set eth0 up", true),
    (
        "the uplink loses its address and has it again",
        "ip addr del 198.18.0.1/24 dev eth0; ip addr add 198.18.0.1/24 dev eth0",
        true,
    ),
];

#[test]
fn what_each_damage_costs_two_streams_of_datagrams() {
    let mut lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let _still = Server::tcp(&c1.place, "c1", 80);
    let streams = [Stream::default(), Stream::default()];
    let stop = AtomicBool::new(false);
    let inside = c1.place.udp(lab.everywhere(53)).expect("bound");
    let outside = lab.ext.udp(lab.everywhere(91)).expect("bound");
    let mut costs = Vec::new();
    thread::scope(|scope| {
        let (streams, stop) = (&streams, &stop);
        let to = [lab.at_host(5353), lab.at_ext(91)];
        let places = [&lab.ext, &c1.place].map(|place| Place::new(place.namespace().clone(), place.version()));
        for (((stream, place), to), socket) in streams.iter().zip(places).zip(to).zip([inside, outside]) {
            scope.spawn(move || {
                let sender = place.any_udp();
                // What cannot be sent is lost like the rest: a device that is down refuses it.
                stream.send(stop, |bytes| _ = sender.send_to(bytes, to));
            });
            scope.spawn(move || stream.receive_with_neighbours_away(stop, &socket));
        }
        let steady = |what: &str| {
            until(what, || streams.iter().all(Stream::is_steady));
        };
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            steady("both streams flow");
            let counted = || [&streams[0], &streams[1]].map(|stream| [stream.lost(), stream.late()]);
            let mut cost = |lab: &Lab, what: &str, may_cost: bool, before: [[u64; 2]; 2]| {
                let after = counted();
                assert!(may_cost || after == before, "{what}: lost or late, in and out: {before:?}, then {after:?}");
                assert!(lab.problems().is_empty(), "{what}: {:?}", lab.problems());
                let lost =
                    [0, 1].map(|way| (after[way][0] - before[way][0]).saturating_sub(after[way][1] - before[way][1]));
                costs.push(format!("{what}: {} in, {} out", lost[0], lost[1]));
            };
            for (what, line, may_cost) in SCENARIOS {
                lab.linked();
                let before = counted();
                streams.iter().for_each(Stream::begin_a_row);
                let line = line.replace("%b", lab.bpffs().to_str().expect("UTF-8")).replace("%1", &c1.device);
                let outcome = lab.shell(lab.scratch().path(), &line);
                assert_eq!(outcome.code, Some(0), "{line}: {}", outcome.stdout);
                until("it is repaired", || lab.problems().is_empty());
                streams.iter().for_each(Stream::begin_a_row);
                steady(what);
                cost(&lab, what, may_cost, before);
            }
            let before = counted();
            for _ in 0..5 {
                lab.kill_agent();
                lab.start_agent();
            }
            streams.iter().for_each(Stream::begin_a_row);
            steady("five agents later");
            cost(&lab, "the agent is killed and started again, five times", false, before);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = measured {
            std::panic::resume_unwind(panic);
        }
    });
    let sent: Vec<u64> = streams.iter().map(Stream::sent).collect();
    println!("datagrams sent: {} in, {} out; lost when", sent[0], sent[1]);
    costs.iter().for_each(|line| println!("  {line}"));
}
