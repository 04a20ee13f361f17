//! Settings of an instance: defaults, the file, and what makes no sense.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::Ipv4Net;
use netbpf_common::abi::{RING_SHARES, TIMEOUTS, Timeout};
use serde::{Deserialize, Serialize, de};

use crate::error::{Context as _, Error, Result};

/// Largest flow count: two entries each, and `map_max_entries` of a hash is bounded by 2^31.
const MAX_FLOWS: u32 = 1 << 24;

/// One half-open flow for each share of a ring, and then some.
const MIN_HALF_OPEN: u32 = 16 * RING_SHARES;

/// An LRU map gives every CPU a stock of its own: a small one would forget what has just come.
const FRAGMENTS: RangeInclusive<u32> = 1024..=1 << 20;

/// What an administrator can set: the agent's `--config` file (TOML) and its flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Desired state, kept over restarts.
    pub state_dir: PathBuf,
    /// The socket and other files that a reboot may remove.
    pub run_dir: PathBuf,
    /// Directory of this instance on a bpffs: its pinned maps, links and programs.
    pub bpffs: PathBuf,
    /// cgroup2 directory that the socket hooks hang on; the root of the cgroup2 mount when absent.
    pub cgroup: Option<PathBuf>,
    /// Devices to the world; every device that is not netbpf's own when empty.
    pub uplinks: Vec<String>,
    /// Whether uplinks are served by XDP.
    pub xdp: Xdp,
    /// IPv4 subnet of the default network.
    pub subnet: Ipv4Net,
    /// Gateway of the default network; the first address when absent.
    pub gateway: Option<Ipv4Addr>,
    /// MTU of the default network, in bytes.
    pub mtu: u32,
    /// Source ports that masquerading gives out, and the ephemeral ports of containers.
    pub nat_ports: PortRange,
    /// A /24 of link-local addresses that stand for the host's own addresses in `connect()`.
    pub virtual_subnet: Ipv4Net,
    /// Flows that fit into the table.
    pub flows: u32,
    /// Half-open flows per CPU, a power of two; fewer on a machine with so many CPUs that theirs together would fill more
    /// than half of the table.
    pub half_open: u32,
    /// Confirmed flows that one container may have; a quarter of `flows` when absent.
    pub flows_per_container: Option<u32>,
    /// First fragments whose ports are remembered at a time.
    pub fragments: u32,
    /// Fragments that are held, at a time, until the first of their packet comes; 2 KiB each.
    pub held_fragments: u32,
    /// Broadcasts and multicasts that one container may send to its network, per second.
    pub broadcast_rate: u16,
    /// Whether a port of a container has the same NAT port towards everybody, and everybody can send to it (RFC 4787:
    /// endpoint-independent mapping and filtering, "full cone").
    pub full_cone: bool,
    /// Whether the MSS that TCP connections with the world announce is held down to what the way out takes.
    pub clamp_mss: bool,
    /// Lifetimes of idle flows in seconds, by name; see [`Settings::TIMEOUT_NAMES`].
    pub timeouts: BTreeMap<String, u32>,
    /// Least severe lines of the datapath that reach the log. Off costs nothing per packet.
    pub datapath_log: DatapathLog,
}

/// Whether and how uplinks are served by XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// By TC alone.
    #[default]
    Off,
    /// By XDP behind the driver.
    Generic,
    /// By XDP in the driver.
    Native,
}

/// Level of the datapath's own log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathLog {
    /// None.
    #[default]
    Off,
    /// Defects.
    Error,
    /// And what an administrator should look into.
    Warn,
    /// And what is made and ends.
    Info,
    /// And single packets.
    Debug,
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Whether any port of `first..=last` is in the range.
    pub fn overlaps(&self, first: u16, last: u16) -> bool {
        first <= self.last && last >= self.first
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        match range {
            Some(range) if range.first != 0 && range.first <= range.last => Ok(range),
            _ => Err(format!("bad port range '{text}': write FIRST-LAST, as in 16384-32767")),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let net = |address, prefix| Ipv4Net::new_assert(address, prefix);
        Self {
            state_dir: "/var/lib/netbpf".into(),
            run_dir: "/run/netbpf".into(),
            bpffs: "/sys/fs/bpf/netbpf".into(),
            cgroup: None,
            uplinks: Vec::new(),
            xdp: Xdp::Off,
            subnet: net(Ipv4Addr::new(172, 30, 0, 0), 16),
            gateway: None,
            mtu: 1500,
            nat_ports: PortRange { first: 16384, last: 32767 },
            virtual_subnet: net(Ipv4Addr::new(169, 254, 30, 0), 24),
            flows: 131_072,
            half_open: 16_384,
            flows_per_container: None,
            fragments: 8192,
            held_fragments: 1024,
            broadcast_rate: 100,
            full_cone: false,
            clamp_mss: false,
            timeouts: BTreeMap::new(),
            datapath_log: DatapathLog::Off,
        }
    }
}

impl Settings {
    /// The names that `timeouts` takes, in the order of [`Timeout`].
    pub const TIMEOUT_NAMES: [&'static str; TIMEOUTS] = [
        "tcp_syn_sent",
        "tcp_syn_recv",
        "tcp_established",
        "tcp_fin_wait",
        "tcp_closing",
        "tcp_time_wait",
        "tcp_reset",
        "udp_unreplied",
        "udp_replied",
        "icmp",
        "sctp_unreplied",
        "sctp_replied",
        "other",
        "mapping",
    ];

    /// Reads a TOML file over the defaults.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("read the settings in {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            Error::Invalid(format!("bad settings in {}: {}", path.display(), one_line(&error.to_string())))
        })
    }

    /// Socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("netbpf.sock")
    }

    /// Gateway of the default network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from_bits(self.subnet.network().to_bits() + 1))
    }

    /// Half-open flows of each of so many CPUs: a flood at all of them leaves half of the table to confirmed ones.
    pub fn half_open_per_cpu(&self, cpus: usize) -> u32 {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX).max(1);
        let share = (self.flows / 2 / cpus).max(MIN_HALF_OPEN);
        // The largest power of two that is not above it.
        self.half_open.min(1 << share.ilog2())
    }

    /// Confirmed flows that one container may have.
    pub fn flow_limit(&self) -> u32 {
        self.flows_per_container.unwrap_or(self.flows / 4)
    }

    /// Lifetimes in seconds, in the order of [`Timeout`].
    pub fn timeout_seconds(&self) -> [u32; TIMEOUTS] {
        let mut seconds = Timeout::DEFAULT_SECONDS;
        for (place, name) in seconds.iter_mut().zip(Self::TIMEOUT_NAMES) {
            if let Some(set) = self.timeouts.get(name) {
                *place = *set;
            }
        }
        seconds
    }

    /// Refuses what makes no sense, before anything is touched.
    pub fn validate(&self) -> Result<()> {
        let invalid = |line: String| Err(Error::Invalid(line));
        for (name, path) in [("state_dir", &self.state_dir), ("run_dir", &self.run_dir), ("bpffs", &self.bpffs)] {
            if !path.is_absolute() {
                return invalid(format!(
                    "{name} '{}' is not an absolute path: give one that starts with /",
                    path.display()
                ));
            }
        }
        if self.xdp != Xdp::Off {
            return Err(Error::Unsupported("XDP on uplinks is not offered by this version: use --xdp off".into()));
        }
        if self.subnet.network() != self.subnet.addr() {
            return invalid(format!("subnet {} has host bits set: write {}", self.subnet, self.subnet.trunc()));
        }
        if !(8..=29).contains(&self.subnet.prefix_len()) {
            return invalid(format!(
                "subnet {} is of a size that is no use: take a prefix from /8 to /29",
                self.subnet
            ));
        }
        let first = self.subnet.network().octets()[0];
        if first == 0 || first == 127 || first >= 224 {
            return invalid(format!("subnet {} is not of unicast addresses: take one of RFC 1918", self.subnet));
        }
        let gateway = self.gateway();
        if !self.subnet.contains(&gateway) || gateway == self.subnet.network() || gateway == self.subnet.broadcast() {
            return invalid(format!("gateway {gateway} is no host address of {}: choose another", self.subnet));
        }
        if !(576..=65_535).contains(&self.mtu) {
            return invalid(format!("mtu {} is out of range: choose 576 to 65535", self.mtu));
        }
        if self.nat_ports.first < 1024 || self.nat_ports.last - self.nat_ports.first < 255 {
            return invalid(format!(
                "nat_ports {} is no use: take at least 256 ports, none below 1024",
                self.nat_ports
            ));
        }
        let virtuals = self.virtual_subnet;
        if virtuals.prefix_len() != 24 || virtuals.network() != virtuals.addr() {
            return invalid(format!("virtual_subnet {virtuals} is not a /24: write one as in 169.254.30.0/24"));
        }
        if self.subnet.contains(&virtuals) || virtuals.contains(&self.subnet) {
            return invalid(format!("virtual_subnet {virtuals} overlaps subnet {}: move one of them", self.subnet));
        }
        if !(1024..=MAX_FLOWS).contains(&self.flows) {
            return invalid(format!("flows {} is out of range: choose 1024 to {MAX_FLOWS}", self.flows));
        }
        if !self.half_open.is_power_of_two() || self.half_open < MIN_HALF_OPEN || self.half_open > self.flows {
            return invalid(format!(
                "half_open {} is no use: choose a power of two, at least {MIN_HALF_OPEN} and at most flows ({})",
                self.half_open, self.flows
            ));
        }
        if !(1..=self.flows).contains(&self.flow_limit()) {
            return invalid(format!(
                "flows_per_container {} is out of range: choose 1 to flows ({})",
                self.flow_limit(),
                self.flows
            ));
        }
        for (name, fragments) in [("fragments", self.fragments), ("held_fragments", self.held_fragments)] {
            if !FRAGMENTS.contains(&fragments) {
                let (least, most) = (FRAGMENTS.start(), FRAGMENTS.end());
                return invalid(format!("{name} {fragments} is out of range: choose {least} to {most}"));
            }
        }
        if self.broadcast_rate == 0 {
            return invalid("broadcast_rate is 0: choose at least one per second".into());
        }
        for (name, seconds) in &self.timeouts {
            if !Self::TIMEOUT_NAMES.contains(&name.as_str()) {
                return invalid(format!("unknown timeout '{name}': there are {}", Self::TIMEOUT_NAMES.join(", ")));
            }
            if *seconds == 0 {
                return invalid(format!("timeout {name} is 0: choose at least one second"));
            }
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        Settings::default().validate().unwrap();
        assert_eq!(Settings::default().gateway(), Ipv4Addr::new(172, 30, 0, 1));
    }

    #[test]
    fn a_file_overrides_single_settings_and_rejects_unknown_ones() {
        let settings: Settings = toml::from_str("nat_ports = \"20000-30000\"\n[timeouts]\nicmp = 5\n").unwrap();
        assert_eq!(settings.nat_ports, PortRange { first: 20000, last: 30000 });
        assert_eq!(settings.timeout_seconds()[Timeout::Icmp as usize], 5);
        assert!(toml::from_str::<Settings>("uplink = [\"eth0\"]").is_err());
    }

    #[test]
    fn half_open_flows_of_all_cpus_leave_room_for_confirmed_ones() {
        let settings = Settings::default();
        for (cpus, expected) in [(1, 16_384), (4, 16_384), (8, 8192), (64, 1024), (100, 512), (4096, 256)] {
            assert_eq!(settings.half_open_per_cpu(cpus), expected, "{cpus}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(refused(|s| s.subnet = "172.30.0.5/16".parse().unwrap()).contains("172.30.0.0/16"));
        assert!(refused(|s| s.gateway = Some(Ipv4Addr::new(10, 0, 0, 1))).contains("gateway"));
        assert!(refused(|s| s.half_open = 1000).contains("power of two"));
        assert!(refused(|s| s.xdp = Xdp::Native).contains("--xdp off"));
        assert!(refused(|s| _ = s.timeouts.insert("tcp".into(), 1)).contains("tcp_syn_sent"));
        assert!(refused(|s| s.flows_per_container = Some(0)).contains("flows_per_container"));
        assert!(refused(|s| s.flows_per_container = Some(s.flows + 1)).contains("flows_per_container"));
        assert!(refused(|s| s.fragments = 10).contains("1024"));
        assert!(refused(|s| s.broadcast_rate = 0).contains("broadcast_rate"));
        assert!(refused(|s| s.virtual_subnet = "172.30.7.0/24".parse().unwrap()).contains("overlaps"));
    }
}
