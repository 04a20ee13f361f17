//! Where work is done: ways of packets, and machines that are nobody else's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result};
use netbpf_tests::namespace::OwnNamespace;
use netbpf_user::rig::{Namespace, Rig};
use nix::net::if_::if_nametoindex;
use serde_json::Value;

const PREFIX: &str = "nbb";
/// The port that is published.
pub(crate) const PUBLISHED: u16 = 8080;
/// First of the ports that are published beside it, apart from those that anybody translates to.
pub(crate) const OTHERS: u16 = 40_000;
/// The port at which containers listen.
pub(crate) const LISTENED: u16 = 80;

/// Who sends to whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Direction {
    /// A container to another one.
    Neighbours,
    /// A machine outside to a published port.
    Inward,
    /// A container to a machine outside.
    Outward,
}

impl Direction {
    pub(crate) const ALL: [Self; 3] = [Self::Neighbours, Self::Inward, Self::Outward];

    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Neighbours => "container to container",
            Self::Inward => "outside to published port",
            Self::Outward => "container to outside",
        }
    }
}

/// Where packets are counted and ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sink {
    /// As frames, before there is an skb: what is redirected as a frame.
    Frames,
    /// When the stack of the receiver gets them.
    Packets,
}

/// The way of packets from one machine to another.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Who sends.
    pub(crate) from: Namespace,
    /// Who receives.
    pub(crate) to: Namespace,
    /// Whom the sender names.
    pub(crate) address: SocketAddr,
    /// Where the receiver listens.
    pub(crate) listen: u16,
    /// The machine and device that the sender's device leads to; none for loopback.
    pub(crate) entry: Option<(Namespace, String)>,
    /// Where packets are counted.
    pub(crate) sink: Sink,
    /// Whether packets from any address are taken.
    pub(crate) from_anybody: bool,
}

/// Device of a machine towards the others.
pub(crate) const DEVICE: &str = "eth0";

impl Way {
    /// A way between machines by devices, to a port that is listened at.
    pub(crate) fn new(from: &Namespace, to: &Namespace, address: Ipv4Addr, entry: (&Namespace, &str)) -> Self {
        Self {
            from: from.clone(),
            to: to.clone(),
            address: SocketAddr::from((address, LISTENED)),
            listen: LISTENED,
            entry: Some((entry.0.clone(), entry.1.to_owned())),
            sink: Sink::Packets,
            from_anybody: false,
        }
    }

    /// The same from anybody to a port that leads to another.
    pub(crate) fn published(mut self) -> Self {
        self.address.set_port(PUBLISHED);
        self.from_anybody = true;
        self
    }
}

/// The ways that a peer has; none where there is no such thing.
#[derive(Default)]
pub(crate) struct Ways {
    pub(crate) neighbours: Option<Way>,
    pub(crate) inward: Option<Way>,
    pub(crate) outward: Option<Way>,
}

impl Ways {
    /// All of them.
    pub(crate) fn all(neighbours: Way, inward: Way, outward: Way) -> Self {
        Self { neighbours: Some(neighbours), inward: Some(inward), outward: Some(outward) }
    }

    /// The way in a direction.
    pub(crate) fn to(&self, direction: Direction) -> Option<&Way> {
        match direction {
            Direction::Neighbours => self.neighbours.as_ref(),
            Direction::Inward => self.inward.as_ref(),
            Direction::Outward => self.outward.as_ref(),
        }
    }
}

/// Namespaces of one peer.
#[derive(Default)]
pub(crate) struct Machines {
    own: Vec<OwnNamespace>,
}

impl Machines {
    /// Makes one that forwards nothing.
    pub(crate) fn make(&mut self, peer: &str, machine: &str) -> Result<Namespace> {
        let name = own_name(&format!("{peer}-{machine}"));
        self.own.push(OwnNamespace::make(&name));
        let namespace = Namespace::named(&name);
        quiet(&namespace)?;
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// One that is there and shall go with the others.
    pub(crate) fn take(&mut self, name: &str) -> Namespace {
        self.own.push(OwnNamespace::found(name.to_owned()));
        Namespace::named(name)
    }
}

/// A name that nobody else on the machine has.
pub(crate) fn own_name(what: &str) -> String {
    format!("{PREFIX}-{}-{what}", process::id())
}

/// What a new namespace inherits from the machine is said here, and none sends what nobody asked for.
pub(crate) fn quiet(namespace: &Namespace) -> Result<()> {
    for (name, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/rp_filter", "1"),
        ("ipv4/conf/default/rp_filter", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
    ] {
        namespace.sysctl(&format!("net/{name}"), value)?;
    }
    Ok(())
}

/// Connects a host with a machine outside, as a rig has it.
pub(crate) fn wire(host: &Namespace, outside: &Namespace) -> Result<()> {
    let (host_ip, ext_ip) = (Rig::HOST_IP, Rig::EXT_IP);
    host.ip(&[
        &format!("link add {DEVICE} type veth peer name {DEVICE} netns {}", outside.name()),
        &format!("address add {host_ip}/24 dev {DEVICE}"),
        &format!("link set {DEVICE} up"),
        &format!("route add default via {ext_ip}"),
    ])?;
    outside.ip(&[&format!("address add {ext_ip}/24 dev {DEVICE}"), &format!("link set {DEVICE} up")])?;
    Ok(())
}

/// Number of a device.
pub(crate) fn ifindex(namespace: &Namespace, device: &str) -> Result<u32> {
    namespace.enter(|| if_nametoindex(device))?.with_context(|| format!("no device {device}"))
}

/// The device of a host that leads to a container's.
pub(crate) fn host_end(host: &Namespace, container: &Namespace) -> Result<String> {
    let shown = json(container, &["-json", "link", "show", "dev", DEVICE])?;
    let index = shown[0]["link_index"].as_u64().context("the container has a veth")?;
    let links = json(host, &["-json", "link", "show"])?;
    let links = links.as_array().context("a list of devices")?;
    let end = links.iter().find(|link| link["ifindex"].as_u64() == Some(index));
    Ok(end.and_then(|link| link["ifname"].as_str()).context("the host has the other end of the veth")?.to_owned())
}

/// What `ip` tells in JSON.
pub(crate) fn json(namespace: &Namespace, arguments: &[&str]) -> Result<Value> {
    let text = namespace.run("ip", arguments)?;
    serde_json::from_str(&text).with_context(|| format!("ip {} tells no JSON", arguments.join(" ")))
}

/// Prefixes of what processes that are gone have left, by what a directory holds.
pub(crate) fn left_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_left = |name: &String| {
        let mut parts = name.split('-');
        let own = parts.next() == Some(PREFIX);
        own && parts.next().is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    names.filter(is_left).collect()
}

/// Removes the namespaces that processes have left.
pub(crate) fn sweep() {
    for name in left_in(Path::new("/run/netns")) {
        drop(OwnNamespace::found(name));
    }
}
