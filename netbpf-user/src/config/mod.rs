//! Settings of an instance: defaults, the file, and what makes no sense.

mod addressing;
mod check;
mod file;
mod kinds;
pub(crate) mod subnet;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use netbpf_common::abi::{RING_SHARES, TIMEOUTS, Timeout};
use serde::{Deserialize, Serialize};

pub(crate) use addressing::{Addressing, GlobalId, Part, Virtuals, overlap, unique_local};
pub use kinds::{AddressPool, DatapathLog, DeviceKind, GatewayMode, GroupName, LogFormat, PortRange, Xdp};

use crate::error::Result;

/// One half-open flow for each share of a ring, and then some.
const MIN_HALF_OPEN: u32 = 16 * RING_SHARES;

/// What an administrator can set: the agent's `--config` file (TOML) and its flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Desired state, kept over restarts.
    pub state_dir: PathBuf,
    /// The socket and other files that a reboot may remove.
    pub run_dir: PathBuf,
    /// Whose members may ask for anything besides root; the group `netbpf`, where there is one, when absent.
    pub socket_group: Option<GroupName>,
    /// Whose members may look; the group `netbpf-read`, where there is one, when absent.
    pub read_group: Option<GroupName>,
    /// Directory of this instance on a bpffs: its pinned maps, links and programs.
    pub bpffs: PathBuf,
    /// cgroup2 directory that the socket hooks hang on; the root of the cgroup2 mount when absent.
    pub cgroup: Option<PathBuf>,
    /// Devices to the world; every device that is not netbpf's own when empty.
    pub uplinks: Vec<String>,
    /// Whether uplinks are served by XDP.
    pub xdp: Xdp,
    /// Whether the default network has IPv4.
    pub ipv4: bool,
    /// IPv4 gateway and subnet of the default network in one, as Docker has it: instead of `subnet` and `default_gateway`.
    pub bip: Option<Ipv4Net>,
    /// IPv4 subnet of the default network; [`Settings::SUBNET`] when absent.
    pub subnet: Option<Ipv4Net>,
    /// IPv4 gateway of the default network; the first address when absent.
    pub default_gateway: Option<Ipv4Addr>,
    /// Part of the IPv4 subnet that containers get their addresses from; all of it when absent.
    pub fixed_cidr: Option<Ipv4Net>,
    /// How IPv4 of the default network reaches the world.
    pub mode: GatewayMode,
    /// Whether the default network has IPv6.
    pub ipv6: bool,
    /// IPv6 subnet of the default network; when absent a /64 of unique local addresses, drawn once (RFC 4193).
    pub subnet_v6: Option<Ipv6Net>,
    /// IPv6 gateway of the default network; the first address after that of the subnet itself when absent.
    pub default_gateway_v6: Option<Ipv6Addr>,
    /// Part of `subnet_v6` that containers get their addresses from; all of it when absent.
    pub fixed_cidr_v6: Option<Ipv6Net>,
    /// How IPv6 of the default network reaches the world.
    pub mode_v6: GatewayMode,
    /// What the addresses of `subnet_v6` are translated to, for the mode `prefix`; of the same length.
    pub external_prefix_v6: Option<Ipv6Net>,
    /// MTU of networks that do not say another, in bytes.
    pub mtu: u32,
    /// Where networks without a subnet get one from.
    pub default_address_pools: Vec<AddressPool>,
    /// Whether containers find each other by name: the agent answers DNS at the gateways.
    pub resolver: bool,
    /// Resolvers of containers that name none; the host's when there are none.
    pub dns: Vec<IpAddr>,
    /// Domains that containers which name none look for names in; the host's when there are none.
    pub dns_search: Vec<String>,
    /// Options of the resolver of containers that name none; the host's when there are none.
    pub dns_options: Vec<String>,
    /// Source ports that masquerading gives out, and the ephemeral ports of containers.
    pub nat_ports: PortRange,
    /// A /24 of link-local addresses that stand for the host's own addresses in `connect()`.
    pub virtual_subnet: Ipv4Net,
    /// The same for IPv6, a /120; when absent one of the unique local addresses that are drawn once.
    pub virtual_subnet_v6: Option<Ipv6Net>,
    /// IPv4 flows that fit into their table.
    pub flows: u32,
    /// IPv6 flows that fit into theirs.
    pub flows_v6: u32,
    /// Half-open flows of each family per CPU, a power of two; fewer on a machine with so many CPUs that theirs together
    /// would fill more than half of a table.
    pub half_open: u32,
    /// Confirmed flows that one container may have; a quarter of `flows`, or with IPv6 of the smaller table, when absent.
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
    /// What containers' devices are in networks that do not say it.
    pub device: DeviceKind,
    /// Lifetimes of idle flows in seconds, by name; see [`Settings::TIMEOUT_NAMES`].
    pub timeouts: BTreeMap<String, u32>,
    /// How the agent writes its log.
    pub log_format: LogFormat,
    /// Whether what somebody takes away of the instance is put back. Otherwise it is told alone.
    pub repair: bool,
    /// Least severe lines of the datapath that reach the log. Off costs nothing per packet.
    pub datapath_log: DatapathLog,
}

impl Default for Settings {
    fn default() -> Self {
        let net = |address, prefix| Ipv4Net::new_assert(address, prefix);
        Self {
            state_dir: "/var/lib/netbpf".into(),
            run_dir: "/run/netbpf".into(),
            socket_group: None,
            read_group: None,
            bpffs: "/sys/fs/bpf/netbpf".into(),
            cgroup: None,
            uplinks: Vec::new(),
            xdp: Xdp::Off,
            ipv4: true,
            bip: None,
            subnet: None,
            default_gateway: None,
            fixed_cidr: None,
            mode: GatewayMode::Masquerade,
            ipv6: false,
            subnet_v6: None,
            default_gateway_v6: None,
            fixed_cidr_v6: None,
            mode_v6: GatewayMode::Masquerade,
            external_prefix_v6: None,
            mtu: subnet::LARGEST_MTU,
            default_address_pools: vec![AddressPool { base: net(Ipv4Addr::new(172, 31, 0, 0), 16), size: 24 }],
            resolver: true,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            nat_ports: PortRange { first: 16384, last: 32767 },
            virtual_subnet: net(Ipv4Addr::new(169, 254, 30, 0), 24),
            virtual_subnet_v6: None,
            flows: 131_072,
            flows_v6: 65_536,
            half_open: 16_384,
            flows_per_container: None,
            fragments: 8192,
            held_fragments: 1024,
            broadcast_rate: 100,
            full_cone: false,
            clamp_mss: false,
            device: DeviceKind::Veth,
            timeouts: BTreeMap::new(),
            log_format: LogFormat::Text,
            repair: true,
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

    /// IPv4 subnet of the default network when none is named.
    pub const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 16);

    /// Reads a TOML file over the defaults; it must make sense by itself.
    ///
    /// # Errors
    /// When it does not: with file, line and setting.
    pub fn load(path: &Path) -> Result<Self> {
        file::read(path)
    }

    /// Socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("netbpf.sock")
    }

    /// Socket of the API for those who may only look.
    pub fn read_socket(&self) -> PathBuf {
        read_socket_beside(&self.socket())
    }

    /// Where the resolver of containers listens on the gateways' addresses, if there is to be one.
    pub fn dns_port(&self) -> Option<u16> {
        // Nobody publishes it, and no process of the host is given it.
        self.resolver.then_some(self.nat_ports.last)
    }

    /// IPv4 subnet of the default network.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet.or(self.bip.map(|bip| bip.trunc())).unwrap_or(Self::SUBNET)
    }

    /// IPv4 gateway of the default network.
    pub fn gateway(&self) -> Ipv4Addr {
        let first = || Ipv4Addr::from_bits(self.subnet().network().to_bits() + 1);
        self.default_gateway.or(self.bip.map(|bip| bip.addr())).unwrap_or_else(first)
    }

    /// Half-open flows of each of so many CPUs: a flood at all of them leaves half of either table to confirmed ones.
    pub fn half_open_per_cpu(&self, cpus: usize) -> u32 {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX).max(1);
        let share = (self.flows.min(self.flows_v6) / 2 / cpus).max(MIN_HALF_OPEN);
        // The largest power of two that is not above it.
        self.half_open.min(1 << share.ilog2())
    }

    /// Confirmed flows that one container may have.
    pub fn flow_limit(&self) -> u32 {
        let smaller = if self.ipv6 { self.flows.min(self.flows_v6) } else { self.flows };
        self.flows_per_container.unwrap_or(smaller / 4)
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
}

/// The socket for those who may only look, by the one for those who may ask for anything.
pub(crate) fn read_socket_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("read.sock")
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
    fn dockers_bip_is_a_subnet_and_its_gateway() {
        let settings = Settings { bip: "10.5.0.254/24".parse().ok(), ..Settings::default() };
        settings.validate().unwrap();
        assert_eq!(settings.subnet().to_string(), "10.5.0.0/24");
        assert_eq!(settings.gateway().to_string(), "10.5.0.254");
        let addressing = Addressing::new(&settings, [1; 5]).unwrap();
        assert_eq!(addressing.v4.unwrap().gateway.to_string(), "10.5.0.254");
    }

    #[test]
    fn half_open_flows_of_all_cpus_leave_room_for_confirmed_ones() {
        let settings = Settings::default();
        for (cpus, expected) in [(1, 16_384), (2, 16_384), (4, 8192), (64, 512), (100, 256), (4096, 256)] {
            assert_eq!(settings.half_open_per_cpu(cpus), expected, "{cpus}");
        }
    }
}
