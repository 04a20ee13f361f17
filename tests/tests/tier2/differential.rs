//! The same exchanges through netbpf and through a host with a bridge, conntrack and Docker's nftables rules: what is
//! observed is the same, but for differences that are meant and say why.

mod connections;
mod datagrams;
mod fragments;
mod meant;
mod narrow;
mod oddities;
mod quotes;
mod record;
mod segments;
mod stage;
mod talk;
mod watch;

use std::fmt::Write as _;
use std::thread;

use netbpf_user::rig::Rig;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Lab, Sysctls, mac_of};
use crate::peer::{Peer, Published};
use meant::MEANT;
use record::{Record, differences};
use stage::{C1, C2, PUBLISHED, Stage};
use watch::Watch;

/// Exchanges that wait for the translation of ICMP errors and of fragments; by the beginnings of their names.
const NEEDS_NEW_DATAPATH: &[&str] = &[
    "quote, Published",
    "quote, Masqueraded",
    "fragments, ",
    "large echo from c1 to ext",
    "large udp c1 to ext",
    "large udp c1 to its own published port",
    "large udp c2 to a published port of c1",
    "large udp ext to a published port",
    "large udp host to a published port",
    "error for c1 about a closed port of ext",
    "error for c1 about a narrow way behind ext",
    "error for c1 about far with ttl 2",
    "error for c1 about its own published port without listener",
    "error for c1 about where ext ",
    "error for c2 about a published port with",
    "error for ext about a published port with",
    "error for the host about a published port without listener",
    "frame, from c1 to port 0 of ext",
    "frame, masqueraded: protocol ",
    "frame, published: udp with ttl ",
    "narrow wire, a published port to ext",
    "narrow wire, c1 to ext, if it must be in fragments",
    "narrow wire, c1 to ext, always in fragments",
    "tcp c1 to where ext ",
];

/// Whether an exchange is to be done, or an excuse is due.
fn wanted(name: &str) -> bool {
    !NEEDS_NEW_DATAPATH.iter().any(|prefix| name.starts_with(prefix))
}

/// Runs everything in one rig, on one CPU.
fn perform(mut stage: Stage<'_>, cpu: usize) -> Record {
    pin(cpu);
    stage.prepare();
    frames(&mut stage);
    stage.forget_ways();
    for exchange in datagrams::generate().iter().filter(|exchange| wanted(&exchange.name)) {
        datagrams::run(&mut stage, exchange);
    }
    datagrams::same_port(&mut stage);
    datagrams::stranger(&mut stage);
    for is_large in [false, true] {
        for (from, to) in datagrams::ECHOES {
            if wanted(&datagrams::echo_name(from, to, is_large)) {
                datagrams::echo(&mut stage, from, to, is_large);
            }
        }
    }
    for exchange in connections::generate().iter().filter(|exchange| wanted(&exchange.name)) {
        connections::run(&mut stage, exchange);
    }
    for lost in datagrams::LOST.iter().filter(|lost| wanted(lost.name)) {
        datagrams::lose(&mut stage, lost);
    }
    narrow::run(&mut stage, wanted);
    stage.record
}

fn frames(stage: &mut Stage<'_>) {
    let watch = Watch::new(stage);
    for exchange in segments::generate().iter().filter(|exchange| wanted(&exchange.name)) {
        segments::run(stage, &watch, exchange);
    }
    for exchange in oddities::generate().iter().filter(|exchange| wanted(&exchange.name)) {
        oddities::run(stage, &watch, exchange);
    }
    for exchange in quotes::generate().iter().filter(|exchange| wanted(&exchange.name)) {
        quotes::run(stage, &watch, exchange);
    }
    if wanted("quote, no flow") {
        quotes::about_nothing(stage, &watch);
    }
    fragments::datagrams(stage, &watch, wanted);
    fragments::segments(stage, &watch, wanted);
}

fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU");
}

fn flags(to: std::net::Ipv4Addr) -> Vec<String> {
    let own = PUBLISHED.iter().filter(|published| published.to == to);
    own.flat_map(|Published { transport, host, port, .. }| ["-p".into(), format!("{host}:{port}/{transport}")])
        .chain(["--ip".into(), to.to_string()])
        .collect()
}

#[test]
fn what_is_observed_is_the_same_as_with_nftables_but_for_what_is_meant() {
    let peer = Peer::new([C1, C2], &PUBLISHED);
    let lab = Lab::with(Sysctls { ip_forward: false, rp_filter: 1 });
    let containers = [("c1", C1), ("c2", C2)].map(|(name, ip)| {
        let flags = flags(ip);
        lab.container(name, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let stages = [
        Stage {
            ext: &lab.ext,
            host: &lab.host,
            c1: &containers[0].place,
            c2: &containers[1].place,
            host_mac: lab.host_mac(),
            gateway_mac: lab.gateway_mac(&containers[0]),
            record: Record::default(),
        },
        Stage {
            ext: &peer.ext,
            host: &peer.host,
            c1: &peer.c1,
            c2: &peer.c2,
            host_mac: mac_of(&peer.host, Rig::WIRE),
            gateway_mac: mac_of(&peer.host, Peer::BRIDGE),
            record: Record::default(),
        },
    ];
    let cpus = thread::available_parallelism().expect("known").get();
    let [netbpf, nftables] = thread::scope(|scope| {
        let mut cpu = 0..;
        let runs = stages.map(|stage| {
            let cpu = cpu.next().expect("a number") % cpus;
            scope.spawn(move || perform(stage, cpu))
        });
        runs.map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    compare(&netbpf, &nftables);
}

/// Every difference is meant, every meant one occurs, and there was something to see.
#[track_caller]
fn compare(netbpf: &Record, nftables: &Record) {
    let mut unexplained = Vec::new();
    let mut occurred = vec![0; MEANT.len()];
    for difference in differences(netbpf, nftables) {
        match MEANT.iter().position(|meant| meant.explains(&difference)) {
            Some(place) => occurred[place] += 1,
            None => unexplained.push(difference),
        }
    }
    let mut report = String::new();
    for difference in &unexplained {
        writeln!(report, "{difference}").expect("a String takes all");
    }
    for (meant, count) in MEANT.iter().zip(&occurred) {
        println!("{count:>5} {}: {}", meant.name, meant.reason);
        if *count == 0 && meant.about.iter().any(|about| wanted(about)) {
            writeln!(report, "`{}` is listed as meant and does not occur", meant.name).expect("a String takes all");
        }
    }
    println!("{} observations, {} of something, {} unexplained", netbpf.len(), netbpf.with_sight(), unexplained.len());
    assert!(netbpf.with_sight() > netbpf.len() / 3, "a rig in which little is seen shows little");
    assert!(report.is_empty(), "{} differences:\n{report}", unexplained.len());
}
