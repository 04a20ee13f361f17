//! Fuzzing: building the targets of `tests/fuzz`, running them, and telling what they found.
//!
//! What cargo-fuzz would do with a nightly, done with any toolchain: coverage is a pass of LLVM that the
//! compiler is asked for, and no sanitizer is needed where no code is unsafe.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    command::{self, run, target_dir, workspace},
    setup,
};

/// The target that is made of the agent; a feature of its name is what it needs.
const API: &str = "api";

/// What makes a program tell libFuzzer where it has been and what it compared.
const INSTRUMENTATION: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Branches that are folded into one are not told apart.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// Of what libFuzzer says, what stands before the file with an input that a target did not survive.
const WRITTEN: &str = "Test unit written to ";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only this target
    target: Option<String>,
    /// How long each target runs; they run side by side
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u32,
}

/// How long a target runs.
#[derive(Clone, Copy)]
enum Length {
    /// As long as somebody has patience, and on from where the last such run stopped.
    Seconds(u32),
    /// About 15 seconds, and the same in every run.
    Short,
}

/// A target that is running.
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Runs the targets for long.
pub(crate) fn fuzz(arguments: &Arguments) -> Result<ExitCode> {
    setup::programs()?;
    let mut targets = targets()?;
    if let Some(wanted) = &arguments.target {
        let known = targets.join(", ");
        targets.retain(|target| target == wanted);
        ensure!(!targets.is_empty(), "no fuzz target is called {wanted}; there are {known}");
    }
    run_all(&targets, Length::Seconds(arguments.seconds))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs targets for so short that every change can wait for it. Building the agent for one of them takes longer than that.
pub(crate) fn short() -> Result<()> {
    let mut targets = targets()?;
    targets.retain(|target| target != API);
    run_all(&targets, Length::Short)
}

/// cargo for the fuzz targets. Instrumented is what is built for the target, build scripts and macros are not.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = command::cargo();
    command
        .args([subcommand, "--quiet", "--release", "--manifest-path", "tests/fuzz/Cargo.toml"])
        .args(["--target", &triple(), "--target-dir"])
        .arg(directory())
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"));
    command
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// What is built and found, below the target directory.
fn directory() -> PathBuf {
    target_dir().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let sources = workspace().join("tests/fuzz/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn run_all(targets: &[String], length: Length) -> Result<()> {
    let features: &[&str] = if targets.iter().any(|target| target == API) { &["--features", API] } else { &[] };
    // No program of the kernel is loaded.
    run(cargo("build").args(features).env("NETBPF_SKIP_EBPF", "1"))?;
    let seeds = ["run", "--quiet", "--package", "netbpf-tests", "--no-default-features", "--bin", "seeds"];
    run(command::cargo().args(seeds).args(features).arg("--").arg(directory().join("seeds")))?;

    let mut running = Vec::new();
    let mut problems = Vec::new();
    for target in targets {
        match start(target, length) {
            Ok(target) => running.push(target),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    for target in running {
        let name = target.name.clone();
        match target.outcome() {
            Ok(said) => println!("   {name}: {said}, nothing found"),
            Err(error) => problems.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

fn start(target: &str, length: Length) -> Result<Running> {
    let (log, findings) = (directory().join(format!("{target}.log")), directory().join("findings").join(target));
    let corpus = directory().join(if let Length::Short = length { "short" } else { "corpus" }).join(target);
    let seeds = directory().join("seeds").join(target);
    let regressions = workspace().join("tests/fuzz/regressions").join(target);
    if let Length::Short = length {
        match fs::remove_dir_all(&corpus) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", corpus.display()));
            }
            _ => {}
        }
    }
    for directory in [&corpus, &findings] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let (out, said) = (fs::File::create(&log), format!("cannot write {}", log.display()));
    let out = out.context(said)?;

    let program = directory().join(triple()).join("release").join(target);
    let mut command;
    match length {
        Length::Seconds(seconds) => {
            println!("   {target}: running for {seconds} s, what it says is in {}", log.display());
            command = Command::new(program);
            command.arg(format!("-max_total_time={seconds}"));
        }
        Length::Short => {
            // Addresses are numbers that libFuzzer learns from, and what it reads again it tries again: neither
            // may differ from run to run. A machine that is too slow gives up in time.
            command = Command::new("setarch");
            command.arg("--addr-no-randomize").arg(program).args(["-seed=1", "-reload=0", "-max_total_time=60"]);
            command.arg(format!("-runs={}", short_runs(target)));
        }
    }
    command
        .args(["-timeout=10", "-max_len=4096", "-print_final_stats=1"])
        .arg(format!("-dict={}", directory().join("seeds/dictionary").display()))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args([corpus, seeds, regressions])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("cannot copy a file handle")?)
        .stderr(out);
    let child = command.spawn().with_context(|| format!("cannot start the fuzz target {target}"))?;
    Ok(Running { name: target.to_owned(), child, log })
}

/// How many inputs a target takes in about 15 seconds.
fn short_runs(target: &str) -> u32 {
    if target == "parse" { 4_000_000 } else { 100_000 }
}

impl Running {
    /// Waits for its end; how much it tried.
    fn outcome(mut self) -> Result<String> {
        let status = self.child.wait().context("cannot wait for it")?;
        let said = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let said = String::from_utf8_lossy(&said);
        if let Some((why, input)) = finding(&said) {
            show(input)?;
            bail!("{why}; the input is {}, all that was said in {}", input.display(), self.log.display());
        }
        ensure!(status.success(), "broke off ({status}), see {}", self.log.display());
        let inputs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        Ok(format!("{} inputs", inputs.context("it does not say how much it tried")?.trim()))
    }
}

/// Prints an input as `xxd -r -p` reads it: where a machine keeps no files, what it printed is all there is.
fn show(input: &Path) -> Result<()> {
    let bytes = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    for line in bytes.chunks(64) {
        println!("{}", line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    Ok(())
}

/// What a target found, when it did: the words of its panic, or of libFuzzer, and the file with the input.
fn finding(said: &str) -> Option<(String, &Path)> {
    let input = said.lines().find_map(|line| Some(line.split_once(WRITTEN)?.1))?;
    let mut lines = said.lines().skip_while(|line| !line.contains(" panicked at "));
    let why = match (lines.next(), lines.next()) {
        (Some(place), Some(words)) => format!("{} {words}", place.split_once(" panicked at ")?.1),
        _ => said.lines().find(|line| line.contains("ERROR: libFuzzer"))?.to_owned(),
    };
    Some((why, Path::new(input)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_with_its_place_its_words_and_its_input() {
        let said = "#7 NEW cov: 3\n\nthread '<unnamed>' (9) panicked at tests/src/journey.rs:7:5:\nhalf a flow\n\
            note: run with\n==9== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/f/'; Test unit written to /f/crash-0a\nBase64: AA==\n";
        let told = ("tests/src/journey.rs:7:5: half a flow".to_owned(), Path::new("/f/crash-0a"));
        assert_eq!(finding(said), Some(told));
    }

    #[test]
    fn what_hangs_is_told_in_the_words_of_libfuzzer() {
        let said = "ALARM: working on the last Unit for 11 seconds\nartifact_prefix='/f/'; Test unit written to \
            /f/timeout-0a\n==9== ERROR: libFuzzer: timeout after 11 seconds\n";
        let told = ("==9== ERROR: libFuzzer: timeout after 11 seconds".to_owned(), Path::new("/f/timeout-0a"));
        assert_eq!(finding(said), Some(told));
        assert_eq!(finding("#7 DONE cov: 3\nDone 7 runs in 1 second(s)\n"), None);
    }
}
