//! On what it was measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::peer::Name;
use crate::traffic::Maker;

/// Machine, kernel and versions; no names of hosts or paths.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor, and how many of it.
    pub(crate) processor: String,
    /// Memory in GiB.
    pub(crate) memory: u64,
    /// The kernel.
    pub(crate) kernel: String,
    /// The system.
    pub(crate) system: String,
    /// Load of the minute before: what others were doing.
    pub(crate) load: String,
    /// Who makes packets.
    pub(crate) maker: &'static str,
    /// How netbpf and this program were built.
    pub(crate) build: &'static str,
    /// Versions of who was measured.
    pub(crate) versions: BTreeMap<&'static str, String>,
}

impl Machine {
    /// Looks at this one.
    pub(crate) fn look(peers: &[Name], maker: Maker) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            line.map(|rest| rest.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let model = field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
        let memory = field(&read("/proc/meminfo")?, "MemTotal").and_then(|total| total.split(' ').next()?.parse().ok());
        let release = read("/etc/os-release").unwrap_or_default();
        let mut versions = BTreeMap::from([("netbpf", env!("CARGO_PKG_VERSION").to_owned())]);
        let mut tell = |name, program, arguments: &[&str]| {
            versions.extend(first_line(program, arguments).map(|line| (name, line)));
        };
        if peers.contains(&Name::Docker) {
            tell("dockerd", "dockerd", &["--version"]);
            tell("iptables", "iptables", &["--version"]);
        }
        if peers.contains(&Name::Nftables) {
            tell("nftables", "nft", &["--version"]);
        }
        Ok(Self {
            processor: format!("{cpus} × {model}"),
            memory: memory.unwrap_or(0_u64).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            system: field(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
            maker: maker.words(),
            build: if cfg!(debug_assertions) { "without optimisations: these times say nothing" } else { "release" },
            versions,
        })
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
