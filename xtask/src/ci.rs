//! Everything a change must pass.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    bench,
    command::{cargo, run, target_dir, workspace},
    deny, fuzz,
    report::Report,
    setup, test, vm,
};

/// Runs every check, also after one has failed: one run tells all. The tests come last, those on other kernels after those on this
/// one, and then their sum.
pub(crate) fn ci() -> Result<ExitCode> {
    let toolchain = setup::setup()?;
    let clippy_ebpf = toolchain
        .cargo("clippy", workspace(), &target_dir().join("ebpf"))
        .context("cannot prepare the target directory of the eBPF crate")?;
    let checks = [
        ("format", with(cargo(), &["fmt", "--all", "--check"])),
        ("format of the fuzz targets", with(cargo(), &["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"])),
        ("clippy", with(cargo(), &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"])),
        ("clippy of tests that need root", with(tests_with_root(), &["--", "-D", "warnings"])),
        ("clippy of the kernel programs", with(clippy_ebpf, &["--", "-D", "warnings"])),
        ("clippy of the fuzz targets", with(fuzz::cargo("clippy"), &["--", "-D", "warnings"])),
        ("documentation", with(documentation(), &["doc", "--quiet", "--no-deps", "--document-private-items"])),
    ];
    let commands = checks.into_iter().filter_map(|(name, mut command)| check(name, || run(&mut command)));
    let mut failed: Vec<_> = commands.collect();
    failed.extend(check("licences and sources", deny::check));
    failed.extend(check("fuzzing", fuzz::short));
    failed.extend(check("benchmark", bench::quick));
    let mut outcomes = Vec::new();
    for tests in [test::test(test::Arguments::default()), vm::quick()] {
        match tests {
            Ok(report) => outcomes.extend(report.outcomes),
            Err(error) => failed.push(format!("tests: {error:#}")),
        }
    }
    Ok(Report { outcomes, filter: None }.print(failed))
}

/// What is wrong, when the check fails.
fn check(name: &str, passes: impl FnOnce() -> Result<()>) -> Option<String> {
    println!("── {name}");
    let started = Instant::now();
    match passes() {
        Ok(()) => {
            println!("   passed in {:.1} s", started.elapsed().as_secs_f64());
            None
        }
        Err(error) => Some(format!("{name}: {error:#}")),
    }
}

fn tests_with_root() -> Command {
    let mut command = cargo();
    command.args(["clippy", "--quiet"]).args(test::with_root());
    command
}

fn documentation() -> Command {
    let mut command = cargo();
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}
