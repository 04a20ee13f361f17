//! What netbpf needs of the system, and how a Debian system gets it.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::command::{find_program, run_quietly};

/// Debian's Rust for BPF: compiler, prebuilt core, clippy.
pub(crate) const COMPILER: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// What installs programs from Python's registry.
pub(crate) const PIP: &str = "python3-pip";

/// Programs that tests, demo, measurements, fuzzing and packaging call, with the Debian packages that hold them; libFuzzer is C++.
const PROGRAMS: [(&str, &str); 16] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("nft", "nftables"),
    ("socat", "socat"),
    ("setarch", "util-linux"),
    ("depmod", "kmod"),
    ("c++", "g++"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("python3", "python3"),
    ("dnsmasq", "dnsmasq-base"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("systemctl", "systemd"),
    ("deb-systemd-helper", "init-system-helpers"),
];

/// Programs of those that netbpf is measured beside, with their packages. Nothing else needs them.
const PEERS: [(&str, &str); 4] =
    [("dockerd", "docker.io"), ("docker", "docker.io"), ("iptables", "iptables"), ("busybox", "busybox-static")];

/// The packages of programs that peers need and that are not there.
pub(crate) fn missing_of(programs: &[&str]) -> Vec<&'static str> {
    let known = PEERS.into_iter().filter(|(program, _)| programs.contains(program) && find_program(program).is_none());
    let mut packages: Vec<_> = known.map(|(_, package)| package).collect();
    packages.dedup();
    packages
}

/// The programs that are not there, with their packages.
pub(crate) fn missing_programs() -> Vec<(&'static str, &'static str)> {
    PROGRAMS.into_iter().filter(|(program, _)| find_program(program).is_none()).collect()
}

/// Whether this is Debian or one of its children.
pub(crate) fn is_debian() -> bool {
    fs::exists("/etc/debian_version").unwrap_or(false) && find_program("apt-get").is_some()
}

/// Installs packages of Debian. Removes none: a conflict is for a person to solve.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    // One unreachable archive among several fails the update, not what the others hold.
    let update = run_quietly("fetching Debian's package lists", apt_get().arg("update"));
    let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    let what = format!("installing {}", packages.join(", "));
    let install = run_quietly(&what, apt_get().args(options).args(packages));
    match (update, install) {
        (_, Ok(())) => Ok(()),
        (Ok(()), Err(error)) => Err(error),
        (Err(update), Err(install)) => Err(install).with_context(|| format!("{update:#}")),
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--option", "DPkg::Lock::Timeout=120"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
