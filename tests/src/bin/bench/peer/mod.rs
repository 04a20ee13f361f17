//! Who does the work.

mod bare;
mod docker;
mod netbpf;
mod nftables;
mod plain;

use std::env;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::cost::{Memory, Networked, Published};
use crate::site::{self, Direction, Ways};
use crate::traffic::Traffic;

/// Who does the work, by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// No network: one machine with itself
    Loopback,
    /// No network but a pair of devices: two machines, and no translation
    Veth,
    /// dockerd with its bridge and iptables, as Debian has it
    Docker,
    /// A bridge and nftables rules, as one writes them by hand
    Nftables,
    /// A program at tcx that does nothing but redirect
    BareTcx,
    /// A program at XDP that does nothing but redirect
    BareXdp,
    /// netbpf, with its programs at tcx alone
    NetbpfTc,
    /// netbpf with XDP at its uplinks
    NetbpfXdp,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no variant is skipped");
        f.pad(value.get_name())
    }
}

impl Name {
    /// Everybody.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// Programs that it takes beside those of every test.
    pub(crate) fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["dockerd", "docker", "iptables", "busybox"],
            Self::Nftables => &["nft"],
            _ => &[],
        }
    }

    /// Whether what it does over a way is worth a look of its own: XDP is at uplinks alone.
    pub(crate) fn goes(self, direction: Direction) -> bool {
        match self {
            Self::Loopback => direction == Direction::Neighbours,
            Self::BareXdp | Self::NetbpfXdp => direction != Direction::Neighbours,
            _ => true,
        }
    }

    /// Whether it remembers who speaks to whom.
    pub(crate) fn knows_flows(self) -> bool {
        matches!(self, Self::Docker | Self::Nftables | Self::NetbpfTc | Self::NetbpfXdp)
    }

    /// Starts it, with room for so many flows where that is a setting.
    pub(crate) fn start(self, traffic: &Traffic, flows: u32) -> Result<Box<dyn Peer>> {
        let peer: Result<Box<dyn Peer>> = (|| match self {
            Self::Loopback => Ok(Box::new(plain::Loopback::start()?) as Box<dyn Peer>),
            Self::Veth => Ok(Box::new(plain::Veth::start()?) as Box<dyn Peer>),
            Self::Docker => Ok(Box::new(docker::Docker::start()?) as Box<dyn Peer>),
            Self::Nftables => Ok(Box::new(nftables::Nftables::start()?) as Box<dyn Peer>),
            Self::BareTcx => Ok(Box::new(bare::Bare::start(traffic, false)?) as Box<dyn Peer>),
            Self::BareXdp => Ok(Box::new(bare::Bare::start(traffic, true)?) as Box<dyn Peer>),
            Self::NetbpfTc => Ok(Box::new(netbpf::Netbpf::start(self, &[], flows)?) as Box<dyn Peer>),
            Self::NetbpfXdp => {
                // It serves a veth by XDP only where it is named.
                let flags = ["--xdp", "native", "--uplink", site::DEVICE];
                Ok(Box::new(netbpf::Netbpf::start(self, &flags, flows)?) as Box<dyn Peer>)
            }
        })();
        peer.with_context(|| format!("{self} does not start (`--without {self}` leaves it out)"))
    }
}

/// Somebody who does the work.
pub(crate) trait Peer {
    /// The ways that packets take.
    fn ways(&self) -> &Ways;

    /// Lets so many ports be published, of which the measured one is the last. False where there are none.
    fn set_ports(&mut self, _total: u32) -> Result<bool> {
        Ok(false)
    }

    /// Waits until nothing is at work that was begun by a command which has returned.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// The most flows that can live at a time.
    fn most_flows(&self) -> u32 {
        u32::MAX
    }

    /// Why so many ports cannot be published here, where that is so.
    fn cannot_publish(&self, _ports: u16) -> Option<String> {
        None
    }

    /// What it costs to publish so many ports, in one range or one by one.
    fn publish(&mut self, _ports: u16, _one_by_one: bool) -> Result<Option<Published>> {
        Ok(None)
    }

    /// What it costs to make and remove the network of so many containers at the same time.
    fn network(&mut self, _at_once: usize) -> Result<Option<Networked>> {
        Ok(None)
    }

    /// What it holds in memory.
    fn memory(&mut self, _containers: u16, _ports: u16) -> Result<Memory> {
        Ok(Memory::default())
    }
}

/// Whether all that is needed is there, before anything is begun.
pub(crate) fn check(peers: &[Name]) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes network namespaces and loads programs: run it as root"
    );
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2),
        "sender and receiver are to have a CPU each: run it on a machine with two"
    );
    for peer in peers {
        for program in peer.needs() {
            ensure!(
                is_there(program),
                "{program} is missing, which {peer} needs: install it, or leave the peer out by `--without {peer}`"
            );
        }
    }
    site::sweep();
    docker::sweep();
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|place| place.join(program).is_file())
}

/// Resident memory of a process in KiB, what is shared counted by its share.
fn memory_of(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// The most connections that the kernel tracks. A setting of the whole machine, which is not ours to change.
fn conntrack_limit() -> u32 {
    let limit = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(u32::MAX)
}
