//! What commands, containers and names cost, against a real agent in a rig: `cargo xtask scale`.
//!
//! Nothing here asserts a time. What is compared takes turns in one run, since a machine changes its speed by itself.

mod crowd;
mod names;
mod packets;
mod sample;
mod verbs;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use netbpf_user::rig::{Options, Rig};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The CPU of those who send packets and questions.
const ASKING: usize = 1;

/// Measures netbpf with few and with many containers, and its resolver.
#[derive(Parser)]
#[command(bin_name = "cargo xtask scale")]
struct Arguments {
    /// How often each command is measured
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Containers of the crowd
    #[arg(long, default_value_t = 1000)]
    containers: usize,
    /// Networks that they are spread over
    #[arg(long, default_value_t = 50)]
    networks: usize,
    /// Seconds of each measurement of the resolver
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measure this alone; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Do without this one for comparison; may be repeated
    #[arg(long, value_enum)]
    without: Vec<Peer>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Single commands
    Verbs,
    /// Many containers
    Crowd,
    /// The resolver
    Names,
}

/// What it is compared with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Namespaces on a bridge, made by `ip -batch`
    Ip,
    /// A resolver for the names of a site
    Dnsmasq,
}

fn main() -> Result<()> {
    let Arguments { rounds, containers, networks, seconds, only, without } = Arguments::parse();
    ensure!(containers >= 2 && networks >= 1 && rounds >= 1, "there is nothing to measure: ask for more");
    let is_wanted = |part| only.is_empty() || only.contains(&part);
    let is_compared = |peer| !without.contains(&peer);
    if is_wanted(Part::Verbs) {
        verbs::measure(&rig()?, rounds, is_compared(Peer::Ip))?;
    }
    if is_wanted(Part::Crowd) {
        crowd::measure(rig()?, containers, networks, is_compared(Peer::Ip))?;
    }
    if is_wanted(Part::Names) {
        names::measure(&rig()?, seconds, is_compared(Peer::Dnsmasq))?;
    }
    Ok(())
}

fn rig() -> Result<Rig> {
    Ok(Rig::new(Options::new(netbpf()?))?)
}

/// The program that was built along with this one.
fn netbpf() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let program = me.with_file_name("netbpf");
    ensure!(program.exists(), "{} is missing: run this by `cargo xtask scale`, which builds it", program.display());
    Ok(program)
}

/// A name that nobody else on the machine has.
fn name(what: &str, number: usize) -> String {
    format!("s{}-{what}{number}", std::process::id())
}

/// Does something in a thread that stays on one CPU, as do those that it begins.
fn on_one_cpu<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let stay = || {
        let mut cpus = CpuSet::new();
        cpus.set(ASKING)?;
        sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot choose a CPU")?;
        action()
    };
    thread::scope(|scope| scope.spawn(stay).join().expect("no panic"))
}
