//! Another build of netbpf takes over under load, and back: nothing is lost.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use netbpf_common::path::V6;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp};
use netbpf_tests::wait::{is_slow, poll, until};

use crate::lab::Lab;
use crate::stream::{RATE, Stream, paced};

/// Who ask at the same time: one alone waits for each answer and does not come to the rate.
const ASKERS: u32 = 4;

/// All that are asked for on a slow machine: a container with closed connections of two minutes is refused more than its share of
/// the table, and nobody makes room while no agent runs.
const ROOM: &str = "flows_per_container = 65536\n";

/// Other constants make other programs, as another version has: all are replaced.
const OTHER_PROGRAMS: &str = "datapath_log = \"error\"\n";

/// What was sent, and what of it arrived.
#[derive(Debug, Default)]
struct Load {
    bulk: AtomicU64,
    requests: AtomicU64,
    datagrams: Stream,
}

/// Lets agents come and go under a bulk stream each way, new connections and a stream of datagrams that counts; fails
/// when anything of it is lost or reset.
fn nothing_is_lost_while(lab: &mut Lab, deed: impl FnOnce(&mut Lab, &Load)) -> Load {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp", "-p", "9090:90"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let sink = c1.place.udp(lab.everywhere(53)).expect("bound");
    let receiver = c1.place.listen(lab.everywhere(90)).expect("bound");
    let world = lab.ext.listen(lab.everywhere(91)).expect("bound");
    let load = Load::default();
    let (stop, all_arrived) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (load, stop, all_arrived) = (&load, &stop, &all_arrived);
        let mut workers = Vec::new();
        let incoming = lab.ext.connect(lab.at_host(9090)).expect("connected");
        let outgoing = c1.place.connect(lab.at_ext(91)).expect("connected");
        for (mut sender, listener) in [(incoming, receiver), (outgoing, world)] {
            let mut arrived = listener.accept().expect("accepted").0;
            let sent = scope.spawn(move || {
                let block: Vec<u8> = (0..65_536_u32).map(|at| at as u8).collect();
                let mut total = 0;
                while !stop.load(Ordering::Relaxed) {
                    sender.write_all(&block).expect("the stream goes on");
                    total += block.len() as u64;
                }
                total
            });
            workers.push(scope.spawn(move || {
                let mut block = vec![0; 65_536];
                let mut total = 0_u64;
                loop {
                    let length = arrived.read(&mut block).expect("no reset");
                    if length == 0 {
                        break;
                    }
                    assert!(block[..length].iter().zip(total..).all(|(byte, at)| *byte == at as u8), "as it was sent");
                    total += length as u64;
                    load.bulk.fetch_add(length as u64, Ordering::Relaxed);
                }
                assert_eq!(total, sent.join().expect("sent"), "all of it");
            }));
        }
        for _ in 0..ASKERS {
            // A place of its own: the lab is for who starts agents.
            let ext = Place::new(lab.ext.namespace().clone(), lab.ext.version());
            let web = lab.at_host(8080);
            workers.push(scope.spawn(move || {
                paced(RATE / ASKERS, stop, |number| {
                    let seen = ask_tcp(&ext, web).unwrap_or_else(|error| panic!("request {number}: {error}"));
                    assert_eq!(seen.server, "c1");
                    load.requests.fetch_add(1, Ordering::Relaxed);
                });
            }));
        }
        let (counter, to) = (lab.ext.any_udp(), lab.at_host(5353));
        workers.push(scope.spawn(move || {
            load.datagrams.send(stop, |bytes| _ = counter.send_to(bytes, to).expect("sent"));
        }));
        let arriving = scope.spawn(move || load.datagrams.receive(all_arrived, &sink));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deed(lab, load)));
        stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let is_whole = poll(|| (load.datagrams.arrived() == load.datagrams.sent()).then_some(())).is_some();
        all_arrived.store(true, Ordering::Relaxed);
        arriving.join().expect("in order");
        for worker in ended {
            worker.expect("nothing is lost");
        }
        assert!(is_whole, "datagrams were lost: {load:?}");
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    load
}

/// Waits until some more of everything has been sent.
fn goes_on(load: &Load) {
    let now = || [load.bulk.load(Ordering::Relaxed), load.requests.load(Ordering::Relaxed), load.datagrams.arrived()];
    let before = now();
    until("traffic goes on", || now().iter().zip(before).all(|(now, before)| *now > before + 200));
}

fn programs(lab: &Lab) -> Vec<String> {
    let status = lab.json(&["status", "--json"]);
    let programs = status["programs"].as_array().expect("a list");
    let mut shown: Vec<String> =
        programs.iter().map(|program| format!("{} {}", program["attach_point"], program["program_id"])).collect();
    shown.sort();
    shown
}

fn other_programs_take_over_and_back_under_load<F: TestFamily>() {
    let mut lab = Lab::configured::<F>(ROOM);
    let begin = Instant::now();
    let load = nothing_is_lost_while(&mut lab, |lab, load| {
        goes_on(load);
        let mut before = programs(lab);
        for settings in [OTHER_PROGRAMS, ""].repeat(if is_slow() { 1 } else { 2 }) {
            lab.configure(&format!("{ROOM}{settings}"));
            lab.kill_agent();
            goes_on(load);
            lab.start_agent();
            goes_on(load);
            let after = programs(lab);
            assert!(before.iter().zip(&after).all(|(before, after)| before != after), "all are others: {after:?}");
            before = after;
        }
    });
    println!("upgrades and downgrades under load: {load:?}, in {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(load.datagrams.lost(), 0);
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}

#[test]
fn a_layout_of_another_version_is_refused_and_traffic_goes_on() {
    let mut lab = Lab::new::<V6>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    lab.kill_agent();
    let config = lab.bpffs().join("maps/CONFIG");
    let path = config.to_str().expect("UTF-8");
    let shown = lab.host.command("bpftool", &["--json", "map", "lookup", "pinned", path, "key", "0", "0", "0", "0"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON of bpftool");
    let value: Vec<String> =
        shown["value"].as_array().expect("bytes").iter().map(|byte| byte.as_str().expect("hex").to_owned()).collect();
    let write = |version: &str| {
        let bytes = [version].into_iter().chain(value[1..].iter().map(String::as_str));
        let fixed = ["map", "update", "pinned", path, "key", "0", "0", "0", "0", "value"];
        lab.host.command("bpftool", &fixed.into_iter().chain(bytes).collect::<Vec<_>>());
    };
    for other in ["0x63", "0x01"] {
        write(other);
        let line = lab.no_agent_with("");
        assert!(line.contains("layout") && line.contains("netbpf uninstall"), "{line}");
        kept.exchange(b"still there?").expect("the datapath goes on");
        ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    }
    write(&value[0]);
    lab.start_agent();
    kept.exchange(b"still there?").expect("the datapath goes on");
}

for_both!(other_programs_take_over_and_back_under_load);
