//! Builds the kernel programs and leaves the object where the library embeds it from.
//!
//! `NETBPF_SKIP_EBPF=1` embeds an empty object instead: for checks of the other code on a machine
//! without the eBPF toolchain. Such a binary cannot load anything.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../xtask/src/ebpf.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod ebpf;

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    println!("cargo::error={}", error.line);
    let Some(said) = error.said else {
        // cargo fails on the line above; a failing exit status would bury it under all we printed.
        return ExitCode::SUCCESS;
    };
    eprintln!("{said}");
    ExitCode::FAILURE
}

/// Why there is no object: one line, and what the compiler said where it was that far.
struct Failure {
    line: String,
    said: Option<String>,
}

impl From<String> for Failure {
    fn from(line: String) -> Self {
        Self { line, said: None }
    }
}

fn run() -> Result<(), Failure> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let manifest = variable("CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&manifest).parent().expect("a package directory has a parent");

    println!("cargo::rerun-if-env-changed=NETBPF_SKIP_EBPF");
    for source in [
        "Cargo.toml",
        "Cargo.lock",
        "netbpf-ebpf",
        "netbpf-common/src",
        "netbpf-common/Cargo.toml",
        "xtask/src/ebpf.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }

    let object = out.join(ebpf::PACKAGE);
    if env::var_os("NETBPF_SKIP_EBPF").is_some_and(|value| value == "1") {
        fs::write(&object, []).map_err(|error| format!("cannot write {}: {error}", object.display()))?;
        return Ok(());
    }
    build(workspace, &object, &shared_target_dir(&out)?)
}

/// `ebpf` beside the `debug` and `release` of the outer build (OUT_DIR is `debug/build/NAME-HASH/out`
/// under it): both embed the same object.
fn shared_target_dir(out: &Path) -> Result<PathBuf, String> {
    let target = out.ancestors().nth(4).ok_or_else(|| format!("{} is no OUT_DIR of cargo", out.display()))?;
    Ok(target.join("ebpf"))
}

fn build(workspace: &Path, object: &Path, target_dir: &Path) -> Result<(), Failure> {
    let toolchain = ebpf::Toolchain::find()?;
    let mut command = toolchain
        .cargo("build", workspace, target_dir)
        .map_err(|error| format!("cannot prepare {}: {error}", target_dir.display()))?;
    let output = command
        .args(["--bin", ebpf::PACKAGE])
        .output()
        .map_err(|error| format!("cannot start the build of the eBPF programs: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let line = format!("the eBPF programs do not compile with {toolchain}; what the compiler said stands below");
        return Err(Failure { line, said: Some(said) });
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    let built = target_dir.join(ebpf::TARGET).join("release").join(ebpf::PACKAGE);
    fs::copy(&built, object).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: this is the build script of cargo"))
}
