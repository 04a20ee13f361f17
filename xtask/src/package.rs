//! The Debian package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    command::{cargo, run, run_quietly, target_dir},
    setup,
};

/// What reads `[package.metadata.deb]`.
const PACKAGER_VERSION: &str = "3.8.0";

/// Shells with their files of completions, as `[package.metadata.deb]` has them.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "netbpf"), ("zsh", "_netbpf"), ("fish", "netbpf.fish")];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Of a build without optimisations, packed in haste: for tests
    #[arg(long)]
    dev: bool,
    /// What follows the version
    #[arg(long, value_name = "N", default_value = "1")]
    revision: String,
    /// Where the package goes [default: target/debian]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Builds netbpf and packs it.
pub(crate) fn package(arguments: &Arguments) -> Result<()> {
    setup::setup()?;
    let packager = packager()?;
    let (profile, directory) = if arguments.dev { ("dev", "debug") } else { ("release", "release") };
    run(cargo().args(["build", "--package", "netbpf-user", "--bin", "netbpf", "--profile", profile]))?;
    let built = target_dir().join(directory);
    write_manual(&built)?;
    write_completions(&built)?;
    let mut pack = cargo_deb(&packager);
    pack.args(["--quiet", "--package", "netbpf-user", "--no-build", "--strip", "--compress-system"]).args([
        "--profile",
        profile,
        "--deb-revision",
        &arguments.revision,
    ]);
    if arguments.dev {
        pack.args(["--fast", "--compress-type", "gz"]);
    }
    if let Some(output) = &arguments.output {
        pack.arg("--output").arg(std::path::absolute(output).context("an empty path names no directory")?);
    }
    // It prints where the package is.
    run(&mut pack)
}

/// The path of cargo-deb, which is installed where it is not. It stays in the target directory, beside whatever version
/// the user has.
pub(crate) fn packager() -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    let packager = tools.join("bin/cargo-deb");
    if is_wanted_version(&packager) {
        return Ok(packager);
    }
    let mut install = cargo();
    // What it compresses is small or done by xz: it need not be fast, but quickly built.
    install
        .args(["install", "--locked", "--force", "--debug", "cargo-deb", "--version", PACKAGER_VERSION])
        .args(["--no-default-features", "--features", "gzip", "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "false");
    run_quietly(&format!("installing cargo-deb {PACKAGER_VERSION}"), &mut install)?;
    Ok(packager)
}

fn is_wanted_version(packager: &Path) -> bool {
    let version = Command::new(packager).arg("--version").output();
    version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).trim().ends_with(PACKAGER_VERSION))
}

fn cargo_deb(packager: &Path) -> Command {
    let mut command = Command::new(packager);
    command.current_dir(crate::command::workspace());
    command
}

fn write_manual(built: &Path) -> Result<()> {
    let manual = emptied(built.join("manual"))?;
    run(Command::new(built.join("netbpf")).arg("manual").arg(manual))
}

fn write_completions(built: &Path) -> Result<()> {
    let directory = emptied(built.join("completions"))?;
    for (shell, name) in COMPLETIONS {
        let path = directory.join(name);
        let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        run(Command::new(built.join("netbpf")).args(["completions", shell]).stdout(Stdio::from(file)))?;
    }
    Ok(())
}

/// A directory without what an earlier run has left.
fn emptied(directory: PathBuf) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}
