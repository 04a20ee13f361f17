//! netbpf beside its peers, doing the same work in one run: `cargo xtask bench`. docs/benchmarks/README.md tells how it measures.

mod cost;
mod cpu;
mod machine;
mod peer;
mod plan;
mod programs;
mod report;
mod results;
mod run;
mod site;
mod traffic;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use netbpf_user::rig::Interrupt;

use crate::peer::Name;
use crate::plan::{Effort, Part};

/// Measures netbpf beside a host without a network between, Docker, nftables and programs that do nothing but redirect.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    alone: Option<Alone>,
    /// Every kind of work once with tiny sizes; builds without optimisations, and its times say nothing
    #[arg(long)]
    quick: bool,
    /// Do without this peer; may be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    without: Vec<Name>,
    /// Measure this part alone; may be repeated
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// How often everything is gone through
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How often, in each round, the peers take turns at a piece of work
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slices: Option<u32>,
    /// Milliseconds of each slice
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    time: Option<u64>,
    /// Let the kernel's generator make packets; an error where it is not there. Without this it does where it is
    #[arg(long)]
    pktgen: bool,
    /// Directory for the report (page, plots, JSON); nothing is written without it
    #[arg(long, value_name = "DIRECTORY")]
    report: Option<PathBuf>,
    /// The object with the programs that make and count packets
    #[arg(long, hide = true)]
    object: Option<PathBuf>,
    /// Say which programs the peers need, and do nothing
    #[arg(long, hide = true)]
    needs: bool,
}

#[derive(Subcommand)]
enum Alone {
    /// Nanoseconds per packet of each program of netbpf, by the kernel's test runner
    Programs,
    /// Print a script that measures packets per second with the kernel's generator on your own network cards
    Pktgen,
}

fn main() -> ExitCode {
    match bench(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: Arguments) -> Result<()> {
    match arguments.alone {
        Some(Alone::Programs) => return programs::measure(),
        Some(Alone::Pktgen) => {
            print!("{}", include_str!("../../../../docs/benchmarks/pktgen.sh"));
            return Ok(());
        }
        None => {}
    }
    let peers: Vec<Name> = Name::all().filter(|name| !arguments.without.contains(name)).collect();
    ensure!(!peers.is_empty(), "no peer is left to measure: leave out fewer");
    let maker = traffic::Maker::choose(arguments.pktgen)?;
    if arguments.needs {
        peers.iter().flat_map(|name| name.needs()).for_each(|program| println!("{program}"));
        return Ok(());
    }
    let mut effort = if arguments.quick { Effort::quick() } else { Effort::full() };
    effort.rounds = arguments.rounds.unwrap_or(effort.rounds);
    effort.slices = arguments.slices.unwrap_or(effort.slices);
    effort.time = arguments.time.map_or(effort.time, Duration::from_millis);
    let parts = |part: &Part| arguments.only.is_empty() || arguments.only.contains(part);
    let plan = plan::Plan { peers, effort, parts: Part::all().filter(parts).collect() };
    // Before there are other threads.
    let interrupt = Interrupt::watch()?;
    let traffic = traffic::Traffic::find(arguments.object, maker)?;
    let machine = machine::Machine::look(&plan.peers, maker)?;
    peer::check(&plan.peers)?;

    let results = run::run(&plan, &traffic, &interrupt)?;
    report::print(&results, &machine, &plan);
    if let Some(directory) = arguments.report {
        report::write(&directory, &results, &machine, &plan)?;
    }
    Ok(())
}
