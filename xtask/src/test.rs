//! The tiers of tests: running them, and telling what ran.

use std::{
    fmt,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    command::{cargo, is_root, run},
    package,
    report::{Outcome, Report},
};

#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Only this tier; may be given several times
    #[arg(long = "tier", value_name = "N")]
    tiers: Vec<Tier>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Tier {
    /// Pure logic, no root
    #[value(name = "0")]
    Logic,
    /// The built programs in the kernel's test runner
    #[value(name = "1")]
    Programs,
    /// Real sockets through namespaces
    #[value(name = "2")]
    Namespaces,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Logic, Self::Programs, Self::Namespaces];

    /// What selects its tests, as arguments of `cargo test`.
    pub(crate) fn selection(self) -> &'static [&'static str] {
        match self {
            Self::Logic => &["--no-fail-fast"],
            Self::Programs => &["--test", "tier1", "--test", "race"],
            Self::Namespaces => &["--test", "tier2"],
        }
    }

    /// How many of its tests run at the same time: those that wait for sockets and for the kernel leave a CPU to others.
    fn threads(self) -> usize {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        if self == Self::Namespaces { 2 * cpus } else { cpus }
    }

    /// What leaves out tests of what a kernel may be without: they run on those that have it, in virtual machines.
    fn left_out(self) -> &'static [&'static str] {
        if self == Self::Namespaces { &["--skip", "kernels::"] } else { &[] }
    }

    fn needs_root(self) -> bool {
        self != Self::Logic
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logic => "tier 0 logic",
            Self::Programs => "tier 1 programs",
            Self::Namespaces => "tier 2 namespaces",
        })
    }
}

/// What selects the tests that a plain `cargo test`, or `--all-targets`, leaves out.
pub(crate) fn with_root() -> impl Iterator<Item = &'static str> {
    Tier::ALL.into_iter().filter(|tier| tier.needs_root()).flat_map(|tier| tier.selection()).copied()
}

/// Runs the tiers.
pub(crate) fn test(arguments: Arguments) -> Result<Report> {
    let Arguments { mut tiers, filter } = arguments;
    if tiers.is_empty() {
        tiers = Tier::ALL.to_vec();
    }
    tiers.sort();
    tiers.dedup();
    // Tier 2 builds and runs the netbpf binary; what that takes is not to be counted as its time.
    run(cargo().args(["build", "--package", "netbpf-user"]))?;
    if tiers.contains(&Tier::Namespaces) {
        package::packager()?;
    }
    for tier in &tiers {
        run(cargo().args(["test", "--no-run"]).args(tier.selection()))?;
    }
    let outcomes = tiers.into_iter().map(|tier| (tier.to_string(), outcome(tier, filter.as_deref()))).collect();
    Ok(Report { outcomes, filter })
}

fn outcome(tier: Tier, filter: Option<&str>) -> Outcome {
    if tier.needs_root() && !is_root() {
        return Outcome::prevented("needs root: run it as root, or choose --tier 0");
    }
    println!("\n── {tier}");
    let mut outcome = Outcome::default();
    let started = Instant::now();
    let mut tests = cargo();
    tests.arg("test").args(tier.selection()).args(filter).args(["--", "--test-threads", &tier.threads().to_string()]);
    tests.args(tier.left_out());
    // Where a test has failed says its own line; a page of frames for each hides which.
    let result = follow(tests.env("RUST_BACKTRACE", "0"), &mut outcome);
    outcome.time = started.elapsed();
    outcome.problem = match result {
        Err(error) => Some(format!("{error:#}")),
        Ok(()) => outcome.lack(filter.is_some()),
    };
    outcome
}

/// Runs a `cargo test`, shows what it prints and adds up its result lines.
fn follow(command: &mut Command, outcome: &mut Outcome) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    outcome.follow(child.stdout.take().expect("stdout is piped"), |_| {})?;
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && !outcome.has_failed() {
        bail!("broke off ({status})");
    }
    Ok(())
}
