//! Building the benchmark, and becoming it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    command::{cargo, replace, run, target_dir, workspace},
    ebpf::{self, Toolchain},
    packages, setup,
};

/// The kernel programs that make and count packets, of the package of netbpf's.
const TRAFFIC: &str = "traffic";
/// Builds without optimisations, since it judges no time.
const QUICK: &str = "--quick";

/// Builds what is needed and becomes the benchmark.
pub(crate) fn bench(arguments: &[String]) -> Result<ExitCode> {
    let mut program = ready(arguments)?;
    Err(replace(program.args(arguments)))
}

/// Every kind of work once.
pub(crate) fn quick() -> Result<()> {
    let arguments = [QUICK.to_owned()];
    run(ready(&arguments)?.args(&arguments))
}

/// The benchmark by the kernel's generator of packets, once and with tiny sizes: that what it sends comes through, in every direction, is what
/// an emulated machine can tell. As a line for one.
pub(crate) fn generated() -> Result<String> {
    let arguments = ["--pktgen", QUICK, "--only", "packets", "--without", "docker"].map(str::to_owned);
    let command = ready(&arguments)?;
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).chain(arguments).collect();
    Ok(format!("modprobe pktgen && {}", words.join(" ")))
}

/// The benchmark, with all that it needs.
fn ready(arguments: &[String]) -> Result<Command> {
    let toolchain = setup::setup()?;
    let is_quick = arguments.iter().any(|argument| argument == QUICK);
    let release = (!is_quick).then_some("--release");
    // It starts the agent that lies beside it.
    run(cargo().args(["build", "--package", "netbpf-user", "--bin", "netbpf"]).args(release))?;
    // Along with a test, what it rests on has the features that it has for all tests, which `ci` builds next: it is built once.
    let selection = if is_quick { ["--test", "tier1"] } else { ["--package", "netbpf-tests"] };
    run(cargo().args(["build", "--bin", "bench"]).args(selection).args(release))?;
    let program = target_dir().join(if is_quick { "debug" } else { "release" }).join("bench");
    install(&program, arguments)?;
    let mut command = Command::new(program);
    if !is_alone(arguments) {
        command.arg("--object").arg(traffic(&toolchain)?);
    }
    Ok(command)
}

/// Whether it is a verb of its own, without peers.
fn is_alone(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|first| !first.starts_with('-'))
}

/// Installs what the peers need. The benchmark says what that is, and refuses arguments that make no sense before anything is
/// installed.
fn install(program: &Path, arguments: &[String]) -> Result<()> {
    if is_alone(arguments) {
        return Ok(());
    }
    let output = Command::new(program).args(arguments).arg("--needs").output().context("cannot start the benchmark")?;
    if !output.status.success() {
        // It says what is wrong once more, as the user's own.
        return Ok(());
    }
    let needed = String::from_utf8_lossy(&output.stdout).into_owned();
    let missing = packages::missing_of(&needed.lines().collect::<Vec<_>>());
    if missing.is_empty() {
        return Ok(());
    }
    let named = missing.join(" ");
    ensure!(packages::is_debian(), "missing packages: {named}. Install them by your system's package manager");
    ensure!(
        !missing.contains(&"docker.io") || !Path::new("/run/systemd/system").exists(),
        "docker.io is not installed, and would be started along with it, in the network of this machine: install it yourself \
         (apt-get install docker.io), or do without it (--without docker)"
    );
    packages::install(&missing).with_context(|| format!("cannot install {named}"))
}

/// Builds the object with the programs that make and count packets.
fn traffic(toolchain: &Toolchain) -> Result<PathBuf> {
    let target = target_dir().join("ebpf");
    let mut build = toolchain
        .cargo("build", workspace(), &target)
        .map_err(|error| anyhow!("cannot prepare {}: {error}", target.display()))?;
    run(build.args(["--bin", TRAFFIC]))?;
    Ok(target.join(ebpf::TARGET).join("release").join(TRAFFIC))
}
