//! A host that does the same work the usual way: a bridge, routing, conntrack and nftables, with the rules Docker makes.
//!
//! ```text
//! ext (198.18.0.2) eth0 ──── eth0 host (198.18.0.1) br0 (172.30.0.1) ──── eth0 c1 (172.30.0.2), c2 (172.30.0.3)
//! ```
//!
//! In IPv6 2001:db8:198::/64 is on the wire, and fd00:172:30::/64 behind the bridge, with the same last numbers.
//! The addresses are those of a netbpf rig, so that what is observed in both can be compared literally.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use netbpf_user::rig::{Namespace, Rig};

use crate::namespace::OwnNamespace;
use crate::place::Place;
use crate::version::Version;

const PREFIX: &str = "nft";
const WIRE: &str = Rig::WIRE;

/// A published port.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// Port of the host.
    pub host: u16,
    /// Address of the container.
    pub to: IpAddr,
    /// Port of the container.
    pub port: u16,
}

/// The host, its containers, and a machine outside. All of it goes when dropped.
pub struct Peer {
    /// The machine outside.
    pub ext: Place,
    /// The host.
    pub host: Place,
    /// The first container.
    pub c1: Place,
    /// The second container.
    pub c2: Place,
    _namespaces: [OwnNamespace; 4],
}

impl Peer {
    /// The host's device towards its containers.
    pub const BRIDGE: &str = "br0";

    fn gateway(version: Version) -> IpAddr {
        match version {
            Version::V4 => Ipv4Addr::new(172, 30, 0, 1).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The network of the containers.
    pub fn subnet(version: Version) -> &'static str {
        match version {
            Version::V4 => "172.30.0.0/16",
            Version::V6 => "fd00:172:30::/64",
        }
    }

    /// Builds a host with two containers at these addresses of one family.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(version: Version, containers: [IpAddr; 2], published: &[Published]) -> Self {
        static PEERS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let prefix = format!("{PREFIX}-{}-{}", process::id(), PEERS.fetch_add(1, Ordering::Relaxed));
        let namespaces = ["ext", "host", "c1", "c2"].map(|machine| {
            let name = format!("{prefix}-{machine}");
            (OwnNamespace::make(&name), Namespace::named(&name))
        });
        let [ext, host, c1, c2] = namespaces.each_ref().map(|(_, namespace)| namespace);
        for namespace in [ext, host, c1, c2] {
            // Devices that are made from now on: none is configured from outside, and each can be used at once.
            for setting in ["accept_ra", "accept_dad"] {
                set(namespace, &format!("net/ipv6/conf/default/{setting}"), "0");
            }
        }
        wire(version, host, ext);
        bridge(version, host, [(c1, containers[0]), (c2, containers[1])]);
        rules(version, host, containers, published);
        let [ext, host, c1, c2] = [ext, host, c1, c2].map(|namespace| Place::new(namespace.clone(), version));
        Self { ext, host, c1, c2, _namespaces: namespaces.map(|(own, _)| own) }
    }
}

fn wire(version: Version, host: &Namespace, ext: &Namespace) {
    let (host_ip, ext_ip): (IpAddr, IpAddr) = match version {
        Version::V4 => (Rig::HOST_IP.into(), Rig::EXT_IP.into()),
        Version::V6 => (Rig::HOST_IP6.into(), Rig::EXT_IP6.into()),
    };
    let length = match version {
        Version::V4 => 24,
        Version::V6 => 64,
    };
    // A new namespace inherits from the machine's: what the rest rests on is said here.
    for (name, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "1"), ("conf/default/rp_filter", "1")] {
        set(host, &format!("net/ipv4/{name}"), value);
    }
    if version == Version::V6 {
        set(host, "net/ipv6/conf/all/forwarding", "1");
    }
    ip(
        host,
        &[
            "link set lo up",
            &format!("link add {WIRE} type veth peer name {WIRE} netns {}", ext.name()),
            &format!("address add {host_ip}/{length} dev {WIRE}{}", usable(version)),
            &format!("link set {WIRE} up"),
            &format!("route add default via {ext_ip}"),
        ],
    );
    ip(
        ext,
        &[
            "link set lo up",
            &format!("address add {ext_ip}/{length} dev {WIRE}{}", usable(version)),
            &format!("link set {WIRE} up"),
        ],
    );
}

/// What makes an address usable at once.
fn usable(version: Version) -> &'static str {
    match version {
        Version::V4 => "",
        Version::V6 => " nodad",
    }
}

fn bridge(version: Version, host: &Namespace, containers: [(&Namespace, IpAddr); 2]) {
    let (bridge, gateway) = (Peer::BRIDGE, Peer::gateway(version));
    let (_, length) = Peer::subnet(version).split_once('/').expect("a prefix");
    ip(
        host,
        &[
            &format!("link add {bridge} type bridge"),
            &format!("address add {gateway}/{length} dev {bridge}{}", usable(version)),
            &format!("link set {bridge} up"),
        ],
    );
    // What one container sends another is translated on its way through the bridge, as Docker has it, which loads the module too.
    if !Path::new("/proc/sys/net/bridge").exists() {
        host.run("modprobe", &["br_netfilter"]).unwrap_or_else(|error| panic!("{error}"));
    }
    set(host, "net/bridge/bridge-nf-call-iptables", "1");
    set(host, "net/bridge/bridge-nf-call-ip6tables", "1");
    // 127.0.0.1 is led to containers too. There is no such thing for ::1.
    set(host, &format!("net/ipv4/conf/{bridge}/route_localnet"), "1");
    for (n, (container, address)) in (1..).zip(containers) {
        ip(
            host,
            &[
                &format!("link add port{n} type veth peer name eth0 netns {}", container.name()),
                &format!("link set port{n} master {bridge}"),
                // A container that asks for its own published port is answered by the port it came in.
                &format!("link set port{n} type bridge_slave hairpin on"),
                &format!("link set port{n} up"),
            ],
        );
        ip(
            container,
            &[
                "link set lo up",
                &format!("address add {address}/{length} dev eth0{}", usable(version)),
                "link set eth0 up",
                &format!("route add default via {gateway}"),
            ],
        );
    }
}

/// The rules of Docker 28 without its proxy: `userland-proxy: false`. Nobody outside reaches containers by their own
/// addresses. With `ip6tables: true` they are the same for IPv6.
fn rules(version: Version, host: &Namespace, containers: [IpAddr; 2], published: &[Published]) {
    let bridge = Peer::BRIDGE;
    let lines = |line: &dyn Fn(&Published) -> String| published.iter().map(line).collect::<Vec<_>>().join("\n");
    let ip = match version {
        Version::V4 => "ip",
        Version::V6 => "ip6",
    };
    let dnat = lines(&|p| format!("{} dport {} dnat to {}", p.transport, p.host, SocketAddr::new(p.to, p.port)));
    let accept = lines(&|p| format!("iifname != {bridge} {ip} daddr {} {} dport {} accept", p.to, p.transport, p.port));
    let own = containers.map(|address| format!("{ip} saddr {address} {ip} daddr {address} masquerade")).join("\n");
    let rules = format!(
        "table {ip} nat {{
            chain published {{
                {dnat}
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat; policy accept;
                fib daddr type local jump published
            }}
            chain output {{
                type nat hook output priority -100; policy accept;
                fib daddr type local jump published
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                oifname {bridge} fib saddr type local masquerade
                oifname != {bridge} {ip} saddr {subnet} masquerade
                {own}
            }}
        }}
        table {ip} raw {{
            chain prerouting {{
                type filter hook prerouting priority raw; policy accept;
                iifname != {bridge} {ip} daddr {{ {c1}, {c2} }} drop
            }}
        }}
        table {ip} filter {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                oifname {bridge} ct state related,established accept
                {accept}
                iifname {bridge} accept
            }}
        }}",
        subnet = Peer::subnet(version),
        c1 = containers[0],
        c2 = containers[1],
    );
    host.run("nft", &[&rules]).unwrap_or_else(|error| panic!("{error}"));
}

fn ip(namespace: &Namespace, lines: &[&str]) {
    namespace.ip(lines).unwrap_or_else(|error| panic!("{error}"));
}

fn set(namespace: &Namespace, name: &str, value: &str) {
    namespace.sysctl(name, value).unwrap_or_else(|error| panic!("{error}"));
}

/// Removes what killed processes have left.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (prefix, pid) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()));
        if let (Some(PREFIX), Some(pid)) = (prefix, pid)
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            drop(OwnNamespace::found(name));
        }
    }
}
