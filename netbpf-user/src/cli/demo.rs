//! `netbpf demo`

mod tour;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use netbpf_user::rig::{Interrupt, Options, Rig};
use nix::unistd::Uid;

use super::{Global, output, status};
use tour::{Outcome, Tour};

/// The guided tour: builds a private rig, shows what netbpf does, cleans up
///
/// A host, a machine outside and two containers, all in network namespaces of their own: the machine's network is not
/// touched. Exit code 0 when every step passed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf demo
  netbpf demo --json | jq '.steps[] | select(.passed | not)'")]
pub(super) struct Demo {}

impl Demo {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        ensure!(Uid::effective().is_root(), "the demo makes network namespaces and loads BPF programs: run it as root");
        let interrupt = Interrupt::watch().context("cannot watch for Ctrl-C")?;
        let start = Instant::now();
        let rig = waiting("building a host, a machine outside, and starting the agent", || {
            Rig::new(Options::new(std::env::current_exe().context("cannot find this binary")?))
                .map_err(anyhow::Error::from)
        })?;
        let report = Tour::new(&rig, &interrupt, global.json).and_then(Tour::run);
        waiting("cleaning up", || drop(rig));
        let report = report?;
        if global.json {
            output::json(&report)?;
        } else {
            print(&report)?;
            output::print(format_args!("\nAll cleaned up after {}.", seconds(start.elapsed())))?;
        }
        let passed = report.steps.iter().all(|step| step.passed);
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(report: &tour::Report) -> anyhow::Result<()> {
    let mut steps = output::table(["STEP", "RESULT", "TIME"]);
    for Outcome { step, passed, seen, seconds } in &report.steps {
        let result = format!("{} {seen}", if *passed { "✓" } else { "✗" });
        steps.add_row([step.clone(), result, format!("{:.1} ms", seconds * 1e3)]);
    }
    output::print("")?;
    output::print_table(&steps)?;
    for (heading, counts) in [("COUNTED", &report.events), ("DROPPED", &report.drops)] {
        if !counts.is_empty() {
            output::print("")?;
            output::print_table(&status::counters(heading, counts))?;
        }
    }
    Ok(())
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        HumanDuration(time).to_string()
    }
}

/// Shows that something goes on, on a terminal alone.
fn waiting<T>(what: &'static str, action: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.set_style(ProgressStyle::default_spinner());
    spinner.enable_steady_tick(Duration::from_millis(100));
    let result = action();
    spinner.finish_and_clear();
    result
}
