//! The one door for developing netbpf: `cargo xtask VERB`.

mod bench;
mod ci;
mod command;
mod deny;
mod ebpf;
mod fuzz;
mod package;
mod packages;
mod report;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::command::{cargo, is_root, replace, run};

/// Sets up, builds, tests and shows netbpf.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find what building and testing needs, and install what is missing
    Setup,
    /// Build everything: the kernel programs, the netbpf binary, the tests' helpers
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
    },
    /// Run the tests and say what ran
    Test(test::Arguments),
    /// Build netbpf and run its guided tour in a private rig of namespaces
    Demo {
        /// Arguments for `netbpf demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// netbpf beside its peers, doing the same work in one run
    Bench {
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What commands, a thousand containers and names cost
    Scale {
        /// Arguments for the measurement
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests on other kernels, in virtual machines
    Vm(vm::Arguments),
    /// Look for inputs that upset the paths
    Fuzz(fuzz::Arguments),
    /// Make a Debian package
    Package(package::Arguments),
    /// Everything a change must pass: format, clippy, documentation, a little fuzzing, the benchmark once, all tests, and some on other kernels
    Ci,
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().verb) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => {
            setup::setup()?;
        }
        Verb::Build { release } => {
            setup::setup()?;
            run(cargo().args(["build", "--bins"]).args(release.then_some("--release")))?;
        }
        Verb::Test(arguments) => {
            setup::setup()?;
            return Ok(test::test(arguments)?.print(Vec::new()));
        }
        Verb::Demo { arguments } => {
            ensure!(is_root(), "the demo makes network namespaces and loads BPF programs: run it as root");
            return become_program(&["--package", "netbpf-user"], ["demo".into()].into_iter().chain(arguments));
        }
        Verb::Bench { arguments } => {
            ensure!(is_root(), "the benchmark makes network namespaces and loads BPF programs: run it as root");
            return bench::bench(&arguments);
        }
        Verb::Scale { arguments } => {
            ensure!(is_root(), "the measurement makes network namespaces and loads BPF programs: run it as root");
            setup::setup()?;
            // It starts the agent that lies beside it.
            run(cargo().args(["build", "--release", "--package", "netbpf-user", "--bin", "netbpf"]))?;
            return become_program(&["--package", "netbpf-tests", "--bin", "scale"], arguments);
        }
        Verb::Vm(arguments) => return vm::vm(&arguments),
        Verb::Fuzz(arguments) => return fuzz::fuzz(&arguments),
        Verb::Package(arguments) => package::package(&arguments)?,
        Verb::Ci => return ci::ci(),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a program with optimisations and becomes it.
fn become_program(selection: &[&str], arguments: impl IntoIterator<Item = String>) -> Result<ExitCode> {
    setup::setup()?;
    run(cargo().args(["build", "--release"]).args(selection))?;
    Err(replace(cargo().args(["run", "--quiet", "--release"]).args(selection).arg("--").args(arguments)))
}
