//! Finding what building and testing needs, and installing what is missing.

use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    command::{cargo, find_program, is_root, run_quietly},
    ebpf::{self, Compiler, Toolchain},
    packages,
};

/// The nightly that is installed where Debian's packages are not: its LLVM is the linker's.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Everything in place, or one error that names what to install. Fast when there is nothing to do.
pub(crate) fn setup() -> Result<Toolchain> {
    programs()?;
    compiler()?;
    linker()?;
    let toolchain = Toolchain::find().map_err(|error| anyhow!(error))?;
    eprintln!("eBPF toolchain: {toolchain}");
    Ok(toolchain)
}

/// The programs that tests call and builds use.
pub(crate) fn programs() -> Result<()> {
    let missing = packages::missing_programs();
    if missing.is_empty() {
        return Ok(());
    }
    let (names, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    let names = names.join(", ");
    ensure!(packages::is_debian(), "missing programs: {names}. Install them by your system's package manager");
    let packages_named = packages.join(" ");
    ensure!(is_root(), "missing programs: {names}. As root: apt-get install {packages_named}");
    packages::install(&packages).with_context(|| format!("cannot install {packages_named}"))
}

fn compiler() -> Result<()> {
    let Err(missing) = usable_compiler() else { return Ok(()) };
    let mut failures = Vec::new();
    if packages::is_debian() && is_root() {
        let installed = packages::install(&packages::COMPILER);
        match installed.map_err(|error| format!("{error:#}")).and_then(|()| usable_compiler()) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(error),
        }
    }
    if find_program("rustup").is_some() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src,clippy"]);
        let installed = run_quietly(&format!("installing rustup's {NIGHTLY} with rust-src"), &mut install);
        match installed.map_err(|error| format!("{error:#}")).and_then(|()| usable_compiler()) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(error),
        }
    }
    for failure in failures {
        eprintln!("{failure}");
    }
    bail!(
        "{missing}. Install either, on Debian as root: apt-get install {}; or: rustup toolchain install {NIGHTLY} --component rust-src,clippy",
        packages::COMPILER.join(" ")
    )
}

/// Whether there is a compiler for BPF, and its clippy.
fn usable_compiler() -> Result<(), String> {
    let compiler = Compiler::find()?;
    if compiler.has_clippy() { Ok(()) } else { Err(format!("{} lacks clippy", compiler.name)) }
}

fn linker() -> Result<()> {
    let Err(missing) = ebpf::linker() else { return Ok(()) };
    let version = ebpf::LINKER_VERSION;
    let mut install = cargo();
    install.args(["install", "--locked", "--force", "bpf-linker", "--version", version]);
    run_quietly(&format!("installing bpf-linker {version}"), &mut install).with_context(|| {
        format!("{missing} and cannot be installed; try: cargo install --locked bpf-linker --version {version}")
    })
}
