//! The same exchanges through netbpf and through a host with a bridge, conntrack and Docker's nftables rules: what is
//! observed is the same, but for differences that are meant and say why.

mod connections;
mod damage;
mod datagrams;
mod fragments;
mod meant;
mod narrow;
mod oddities;
mod quotes;
mod record;
mod segments;
mod site;
mod stage;
mod talk;
mod watch;

use std::fmt::Write as _;
use std::thread;

use netbpf_tests::bridged::Peer;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::version::Version;
use netbpf_user::rig::Rig;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Lab, mac_of};
use meant::MEANT;
use record::{Record, differences};
use site::{C1, C2, Site};
use stage::{PUBLISHED, Stage, published};
use watch::Watch;

/// Runs everything in one rig, on one of the CPUs.
fn perform(mut stage: Stage<'_>, number: usize) -> Record {
    pin(number);
    stage.prepare();
    frames(&mut stage);
    stage.forget_ways();
    for exchange in &datagrams::generate(stage.version) {
        datagrams::run(&mut stage, exchange);
    }
    datagrams::same_port(&mut stage);
    datagrams::stranger(&mut stage);
    for is_large in [false, true] {
        for (from, to) in datagrams::ECHOES {
            datagrams::echo(&mut stage, from, to, is_large);
        }
    }
    for exchange in &connections::generate(stage.version) {
        connections::run(&mut stage, exchange);
    }
    for lost in &datagrams::LOST {
        datagrams::lose(&mut stage, lost);
    }
    narrow::run(&mut stage);
    stage.record
}

fn frames(stage: &mut Stage<'_>) {
    let watch = Watch::new(stage);
    for exchange in &segments::generate() {
        segments::run(stage, &watch, exchange);
    }
    for exchange in &oddities::generate(stage.version) {
        oddities::run(stage, &watch, exchange);
    }
    for exchange in &quotes::generate(stage.version) {
        quotes::run(stage, &watch, exchange);
    }
    quotes::about_nothing(stage, &watch);
    fragments::datagrams(stage, &watch);
    fragments::segments(stage, &watch);
}

/// Keeps the calling thread, and those that it starts, on one of the CPUs it may use.
fn pin(number: usize) {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("known");
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).expect("a CPU's number")).collect();
    let mut one = CpuSet::new();
    one.set(cpus[number % cpus.len()]).expect("a CPU's number");
    sched_setaffinity(this_thread, &one).expect("an allowed CPU");
}

fn flags(lab: &Lab, site: Site) -> Vec<String> {
    let own = PUBLISHED.iter().filter(|(_, _, to, _)| *to == site);
    own.flat_map(|(transport, host, _, port)| ["-p".into(), format!("{host}:{port}/{transport}")])
        .chain([lab.ip_flag().into(), site.of(lab.version).to_string()])
        .collect()
}

for_both!(what_is_observed_is_the_same_as_with_nftables_but_for_what_is_meant);

fn what_is_observed_is_the_same_as_with_nftables_but_for_what_is_meant<F: TestFamily>() {
    let version = Version::of(F::HOST);
    let peer = Peer::new(version, [C1, C2].map(|site| site.of(version)), &published(version));
    let lab = Lab::new::<F>();
    let containers = [("c1", C1), ("c2", C2)].map(|(name, site)| {
        let flags = flags(&lab, site);
        lab.container(name, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let stages = [
        Stage {
            version,
            ext: &lab.ext,
            host: &lab.host,
            c1: &containers[0].place,
            c2: &containers[1].place,
            host_mac: lab.host_mac(),
            gateway_mac: lab.gateway_mac(&containers[0]),
            record: Record::default(),
        },
        Stage {
            version,
            ext: &peer.ext,
            host: &peer.host,
            c1: &peer.c1,
            c2: &peer.c2,
            host_mac: mac_of(&peer.host, Rig::WIRE),
            gateway_mac: mac_of(&peer.host, Peer::BRIDGE),
            record: Record::default(),
        },
    ];
    let [netbpf, nftables] = thread::scope(|scope| {
        let mut number = 0;
        let runs = stages.map(|stage| {
            number += 1;
            scope.spawn(move || perform(stage, number))
        });
        runs.map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    compare(version, &netbpf, &nftables);
}

/// Every difference is meant, every meant one occurs, and there was something to see.
#[track_caller]
fn compare(version: Version, netbpf: &Record, nftables: &Record) {
    let mut unexplained = Vec::new();
    let meant_here: Vec<_> = MEANT.iter().filter(|meant| meant.families.contains(&version)).collect();
    let mut occurred = vec![0; meant_here.len()];
    for difference in differences(netbpf, nftables) {
        match meant_here.iter().position(|meant| meant.explains(&difference)) {
            Some(place) => occurred[place] += 1,
            None => unexplained.push(difference),
        }
    }
    let mut report = String::new();
    for difference in &unexplained {
        writeln!(report, "{difference}").expect("a String takes all");
    }
    for (meant, count) in meant_here.iter().zip(&occurred) {
        println!("{count:>5} {}: {}", meant.name, meant.reason);
        if *count == 0 {
            writeln!(report, "`{}` is listed as meant and does not occur", meant.name).expect("a String takes all");
        }
    }
    println!("{} observations, {} of something, {} unexplained", netbpf.len(), netbpf.with_sight(), unexplained.len());
    assert!(netbpf.with_sight() > netbpf.len() / 3, "a rig in which little is seen shows little");
    assert!(report.is_empty(), "{} differences:\n{report}", unexplained.len());
}
