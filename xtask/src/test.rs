//! The tiers of tests: running them, and telling what ran.

use std::{
    fmt,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    command::{cargo, is_root, run},
    package,
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
enum Tier {
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
    fn selection(self) -> &'static [&'static str] {
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

    fn needs_root(self) -> bool {
        self != Self::Logic
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logic => "0 logic",
            Self::Programs => "1 programs",
            Self::Namespaces => "2 namespaces",
        })
    }
}

/// What a tier came to.
#[derive(Default)]
struct Outcome {
    passed: u32,
    failed: u32,
    ignored: u32,
    time: Duration,
    /// Why it counts as failed beyond its failed tests.
    problem: Option<String>,
}

/// What ran and what it came to.
pub(crate) struct Report {
    outcomes: Vec<(Tier, Outcome)>,
    filter: Option<String>,
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
    let outcomes = tiers.into_iter().map(|tier| (tier, outcome(tier, filter.as_deref()))).collect();
    Ok(Report { outcomes, filter })
}

fn outcome(tier: Tier, filter: Option<&str>) -> Outcome {
    if tier.needs_root() && !is_root() {
        return Outcome {
            problem: Some("needs root: run it as root, or choose --tier 0".into()),
            ..Outcome::default()
        };
    }
    println!("\n── tier {tier}");
    let mut outcome = Outcome::default();
    let started = Instant::now();
    let mut tests = cargo();
    tests.arg("test").args(tier.selection()).args(filter).args(["--", "--test-threads", &tier.threads().to_string()]);
    // Where a test has failed says its own line; a page of frames for each hides which.
    let result = follow(tests.env("RUST_BACKTRACE", "0"), &mut outcome);
    outcome.time = started.elapsed();
    outcome.problem = match result {
        Err(error) => Some(format!("{error:#}")),
        // A test that should run and does not is no success.
        Ok(()) if outcome.ignored > 0 => Some(format!("{} ignored", outcome.ignored)),
        Ok(()) if outcome.passed + outcome.failed == 0 && filter.is_none() => Some("no test ran".into()),
        Ok(()) => None,
    };
    outcome
}

/// Runs a `cargo test`, shows what it prints and adds up its result lines.
fn follow(command: &mut Command, outcome: &mut Outcome) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the tests print")?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result: ") {
            outcome.passed += count(counts, "passed");
            outcome.failed += count(counts, "failed");
            outcome.ignored += count(counts, "ignored");
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && outcome.failed == 0 {
        bail!("broke off ({status})");
    }
    Ok(())
}

/// The number before `word` in libtest's "ok. 3 passed; 0 failed; 0 ignored; ...".
fn count(counts: &str, word: &str) -> u32 {
    let words: Vec<_> = counts.split([' ', ';', '.']).filter(|part| !part.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

impl Report {
    /// Prints a line per tier, what went wrong besides failed tests, and last `N passed, N failed`.
    /// `problems` are those of the caller.
    pub(crate) fn print(&self, mut problems: Vec<String>) -> ExitCode {
        println!("\n{:<14} {:>7} {:>7} {:>8}", "tier", "passed", "failed", "time");
        for (tier, Outcome { passed, failed, time, problem, .. }) in &self.outcomes {
            println!("{:<14} {passed:>7} {failed:>7} {:>6.1} s", tier.to_string(), time.as_secs_f64());
            problems.extend(problem.iter().map(|why| format!("tier {tier}: {why}")));
        }
        let passed: u32 = self.outcomes.iter().map(|(_, outcome)| outcome.passed).sum();
        let failed: u32 = self.outcomes.iter().map(|(_, outcome)| outcome.failed).sum();
        if let (0, 0, Some(filter)) = (passed, failed, &self.filter) {
            problems.push(format!("no test has {filter:?} in its name"));
        }
        for problem in &problems {
            println!("error: {problem}");
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 && problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_result_line_are_read() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.02s";
        assert_eq!([count(line, "passed"), count(line, "failed"), count(line, "ignored")], [12, 3, 1]);
        assert_eq!(count("ok. ", "passed"), 0);
    }
}
