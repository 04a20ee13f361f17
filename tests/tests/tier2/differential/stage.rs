//! One of the two rigs, as an exchange finds it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use netbpf_tests::bridged::{Peer, Published};
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, Mac};
use netbpf_tests::place::Place;
use netbpf_tests::version::Version;
use netbpf_user::rig::Rig;

use super::record::{Record, SILENT};
use super::site::{C1, C2, FAR, FAR_MTU, HOST, LOOPBACK, PROHIBITED, ROUTER_OF_FAR, Site, Spot, UNREACHABLE, name};

/// Ports at which the kernels of ext and of the containers stay silent, for whoever sends frames of his own: no
/// socket has them, and neither a reset nor an ICMP error comes of what arrives there.
pub(super) const QUIET_EXT: u16 = 20_000;
pub(super) const QUIET_INSIDE: u16 = 26_000;
const QUIET: u16 = 4000;
/// What sockets of containers take when they do not care; apart from the quiet ones, within netbpf's NAT ports.
const EPHEMERAL: &str = "16384 24575";

/// Where datagrams tell that all that was sent before has arrived.
pub(super) const FENCE: u16 = 5399;
/// Where a socket takes what came in fragments.
pub(super) const FRAGMENTS: u16 = 5391;

/// Published ports of both rigs; nobody listens at the last of each transport.
pub(super) const PUBLISHED: [(&str, u16, Site, u16); 10] = [
    ("tcp", 8080, C1, 80),
    ("tcp", 9080, C2, 80),
    ("tcp", 8090, C1, QUIET_INSIDE),
    ("tcp", 8081, C1, 81),
    ("udp", 5353, C1, 53),
    ("udp", 9053, C2, 53),
    ("udp", 5390, C1, QUIET_INSIDE),
    ("udp", 5354, C1, 54),
    ("udp", FENCE, C1, FENCE),
    ("udp", FRAGMENTS, C1, FRAGMENTS),
];

/// The same with addresses of a family.
pub(super) fn published(version: Version) -> [Published; 10] {
    PUBLISHED.map(|(transport, host, to, port)| Published { transport, host, to: to.of(version), port })
}

/// A machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Machine {
    Ext,
    Host,
    C1,
    C2,
}

/// A rig and what is observed in it.
pub(super) struct Stage<'a> {
    pub(super) version: Version,
    pub(super) ext: &'a Place,
    pub(super) host: &'a Place,
    pub(super) c1: &'a Place,
    pub(super) c2: &'a Place,
    /// MAC addresses: of the host on the wire, and of the gateway as c1 and c2 know it.
    pub(super) host_mac: Mac,
    pub(super) gateway_mac: Mac,
    pub(super) record: Record,
}

impl Machine {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext",
            Self::Host => "host",
            Self::C1 => "c1",
            Self::C2 => "c2",
        }
    }
}

impl<'a> Stage<'a> {
    pub(super) fn place(&self, machine: Machine) -> &'a Place {
        match machine {
            Machine::Ext => self.ext,
            Machine::Host => self.host,
            Machine::C1 => self.c1,
            Machine::C2 => self.c2,
        }
    }

    /// Sets both rigs up alike, beyond what they are made with.
    pub(super) fn prepare(&self) {
        for machine in [Machine::Ext, Machine::Host, Machine::C1, Machine::C2] {
            // Every error is told, however many there were.
            self.set(machine, "net/ipv4/icmp_ratelimit", "0");
            self.set(machine, "net/ipv4/icmp_msgs_per_sec", "1000000");
            self.set(machine, "net/ipv4/icmp_msgs_burst", "1000000");
            self.set(machine, "net/ipv6/icmp/ratelimit", "0");
        }
        self.set(Machine::C1, "net/ipv4/ip_local_port_range", EPHEMERAL);
        self.set(Machine::C2, "net/ipv4/ip_local_port_range", EPHEMERAL);
        // The outside machine is a router to what is behind it.
        for forwarding in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            self.set(Machine::Ext, forwarding, "1");
        }
        let version = self.version;
        let far = |line: &str| {
            self.ext.command("ip", &[version.flag()].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
        };
        let (length, nodad) = match version {
            Version::V4 => (24, ""),
            Version::V6 => (64, " nodad"),
        };
        let [far_ip, router, host] = [FAR, ROUTER_OF_FAR, HOST].map(|site| site.of(version));
        far("link add far type veth peer name beyond");
        far(&format!("link set far mtu {FAR_MTU} up"));
        far("link set beyond up");
        far(&format!("address add {router}/{length} dev far{nodad}"));
        far(&format!("neigh add {far_ip} lladdr 02:00:00:00:00:09 dev far"));
        far(&format!("route add unreachable {}", UNREACHABLE.of(version)));
        far(&format!("route add prohibit {}", PROHIBITED.of(version)));
        // Whoever wants to try reaches containers by the host.
        far(&format!("route add {} via {host}", Peer::subnet(version)));
        for (machine, first) in [(Machine::Ext, QUIET_EXT), (Machine::C1, QUIET_INSIDE), (Machine::C2, QUIET_INSIDE)] {
            let ports = format!("{first}-{}", first + QUIET - 1);
            // IPv6 asks before it puts fragments together, and `dport` of a later one is read from the IPv6 header (Linux 6.18).
            let rules = format!(
                "table inet quiet {{
                    chain input {{
                        type filter hook input priority filter; policy accept;
                        frag frag-off != 0 accept
                        tcp dport {ports} drop
                        udp dport {ports} drop
                    }}
                }}"
            );
            self.place(machine).command("nft", &[&rules]);
        }
    }

    /// Makes all machines forget what they have learned of the MTUs of ways.
    pub(super) fn forget_ways(&self) {
        for place in [self.ext, self.host, self.c1, self.c2] {
            place.command("ip", &[self.version.flag(), "route", "flush", "cache"]);
        }
    }

    /// The host's device to the outside takes no more than this from now on; the ends do not know.
    pub(super) fn narrow(&self, mtu: u16) {
        self.host.command("ip", &["link", "set", "dev", Rig::WIRE, "mtu", &mtu.to_string()]);
    }

    fn set(&self, machine: Machine, name: &str, value: &str) {
        self.place(machine).namespace().sysctl(name, value).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The device of a machine that is not the host.
    pub(super) fn link(&self, machine: Machine) -> Link {
        Link::open(self.place(machine), Rig::WIRE)
    }

    /// Frames of a machine towards the host.
    pub(super) fn towards_host(&self, machine: Machine, link: &Link) -> Ethernet {
        let to = if machine == Machine::Ext { self.host_mac } else { self.gateway_mac };
        Ethernet { from: link.mac, to }
    }
}

/// Whether it is a way in this family: Linux leads no packet for ::1 to another device, there is no `route_localnet` of IPv6,
/// and Docker gives such ports to its proxy.
pub(super) fn is_way(version: Version, to: Spot) -> bool {
    version == Version::V4 || to.site != LOOPBACK
}

/// A client's port of its own, by turns among netbpf's NAT ports and outside: none that a kernel gives out, so that
/// it does not meet the connection of another.
pub(super) fn own_port(number: u16, turn: usize) -> u16 {
    number + [31_000, 5000, 24_600][turn % 3]
}

/// How long anything may take that is to happen in a rig.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What a system call failed with.
pub(super) fn failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SILENT.into(),
        Some(code) => format!("{:?}", Errno::from_raw(code)),
        None if error.kind() == io::ErrorKind::TimedOut => "timeout".into(),
        None => error.to_string(),
    }
}

/// Bytes that tell where they belong.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 % 251) as u8).collect()
}

/// Where a packet seems to come from.
pub(super) fn named(address: SocketAddr) -> String {
    format!("{}:{}", name(address.ip()), address.port())
}

/// Whom a server takes for a client that sends from `own`.
pub(super) fn seen_as(seen: SocketAddr, own: u16) -> String {
    format!("{}, {}", name(seen.ip()), if seen.port() == own { "its own port" } else { "another port" })
}
