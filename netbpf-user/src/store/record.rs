//! What is kept of a container over restarts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use netbpf_common::abi::Transport;
use netbpf_common::wire::Mac;
use nix::net::if_::if_nametoindex;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::config::DeviceKind;
use crate::net::namespace;
use crate::spec::Allowed;

/// A container as it is desired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its name.
    pub(crate) name: String,
    /// 64 hex digits.
    pub(crate) id: String,
    /// Its hostname.
    pub(crate) hostname: String,
    /// Its network namespace.
    pub(crate) netns: PathBuf,
    /// Whether netbpf has made that namespace, under the container's name.
    pub(crate) owns_netns: bool,
    /// Whether that was a process's, and has only got its name from netbpf.
    #[serde(default)]
    pub(crate) is_taken_in: bool,
    /// Whether it has the host's own namespace.
    #[serde(default)]
    pub(crate) is_host: bool,
    /// The container whose namespace it shares.
    #[serde(default)]
    pub(crate) shared_with: Option<String>,
    /// Its ends of networks, in the order in which it was connected to them.
    pub(crate) endpoints: Vec<EndpointRecord>,
    /// Resolvers to ask for what is not of its networks; the host's when there are none.
    #[serde(default)]
    pub(crate) dns: Vec<IpAddr>,
    /// Domains that names are looked for in; the host's when there are none.
    #[serde(default)]
    pub(crate) dns_search: Vec<String>,
    /// Options of its resolver; the host's when there are none.
    #[serde(default)]
    pub(crate) dns_options: Vec<String>,
    /// Hosts that it was told of.
    #[serde(default)]
    pub(crate) extra_hosts: Vec<ExtraHost>,
    /// Its publishes.
    pub(crate) rules: Vec<RuleRecord>,
    /// The process that runs in it, or has run.
    pub(crate) process: Option<ProcessRecord>,
    /// Whether it is forgotten when its process ends.
    pub(crate) remove_on_exit: bool,
    /// Unix time of its creation, in seconds.
    pub(crate) created: u64,
}

impl ContainerRecord {
    /// Its end of a network.
    pub(crate) fn endpoint_of(&self, network: &str) -> Option<&EndpointRecord> {
        self.endpoints.iter().find(|endpoint| endpoint.network == network)
    }

    /// Whether it has no namespace: a virtual machine behind a tap.
    pub(crate) fn is_machine(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.is_tap)
    }

    /// Whether what it is made of is still there.
    pub(crate) fn exists(&self) -> bool {
        let is_there = |endpoint: &EndpointRecord| if_nametoindex(&*endpoint.device) == Ok(endpoint.ifindex);
        match self.endpoints.iter().find(|endpoint| endpoint.is_tap) {
            Some(tap) => is_there(tap),
            None => self.is_host || namespace::exists(&self.netns),
        }
    }

    /// Its network namespace, open or not.
    pub(crate) fn netns(&self) -> &Path {
        &self.netns
    }

    /// One for tests.
    #[cfg(test)]
    pub(crate) fn example(name: &str) -> Self {
        Self {
            name: name.into(),
            id: "0".repeat(64),
            hostname: name.into(),
            netns: format!("/run/netns/{name}").into(),
            owns_netns: true,
            is_taken_in: false,
            is_host: false,
            shared_with: None,
            endpoints: vec![EndpointRecord::example()],
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            extra_hosts: Vec::new(),
            rules: vec![RuleRecord {
                rule: 1,
                host_ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                host_port: 8080,
                container_port: 80,
                more: 0,
                transport: Transport::Udp,
                allowed: Audience::default(),
            }],
            process: None,
            remove_on_exit: false,
            created: 0,
        }
    }
}

/// A host that a container was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtraHost {
    /// Its name.
    pub(crate) name: String,
    /// Its address; the host's own when absent.
    pub(crate) address: Option<IpAddr>,
}

/// A container's end of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    /// The network.
    pub(crate) network: String,
    /// Name of the container's device.
    pub(crate) name: String,
    /// Other names that it has in this network.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// IPv4 address.
    pub(crate) address: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default)]
    pub(crate) address_v6: Option<Ipv6Addr>,
    /// MAC address of its end.
    pub(crate) mac: [u8; 6],
    /// MTU of its device, in bytes.
    pub(crate) mtu: u32,
    /// Endpoint slot; 0 where the datapath has no part in it.
    pub(crate) slot: u32,
    /// Generation of its endpoint; 0 where it has no slot.
    pub(crate) generation: u32,
    /// Number of the host-side device; 0 where there is none.
    pub(crate) ifindex: u32,
    /// Name of the host-side device; where there is none, of the container's own until it is complete.
    pub(crate) device: String,
    /// Whether that is a tap, which others make and delete.
    #[serde(default)]
    pub(crate) is_tap: bool,
    /// What else it is, with the container's own at its other end.
    #[serde(default)]
    pub(crate) kind: DeviceKind,
}

impl EndpointRecord {
    /// Its addresses, IPv4 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.map(IpAddr::from).into_iter().chain(self.address_v6.map(IpAddr::from))
    }

    /// Whether it has an address of a family.
    pub(crate) fn has(&self, is_ipv4: bool) -> bool {
        self.addresses().any(|address| address.is_ipv4() == is_ipv4)
    }

    /// MAC address of its end.
    pub(crate) fn mac(&self) -> Mac {
        Mac::new(self.mac)
    }

    /// Notes the addresses that it was given.
    pub(crate) fn set_addresses(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            match address {
                IpAddr::V4(address) => self.address = Some(*address),
                IpAddr::V6(address) => self.address_v6 = Some(*address),
            }
        }
    }

    /// One for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            network: "default".into(),
            name: "eth0".into(),
            aliases: Vec::new(),
            address: Some(Ipv4Addr::new(172, 30, 0, 2)),
            address_v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
            mac: [2, 0x42, 172, 30, 0, 2],
            mtu: 1500,
            slot: 1,
            generation: 1,
            ifindex: 65_537,
            device: "nb0123456789".into(),
            is_tap: false,
            kind: DeviceKind::Veth,
        }
    }
}

/// A process, told from a later one with the same number by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// Process id.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot (proc(5), starttime).
    pub(crate) start: u64,
    /// Whether it has ended.
    pub(crate) exited: bool,
}

/// A publish as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleRecord {
    /// Place in `RULES`.
    pub(crate) rule: u32,
    /// Address of the host; unspecified for all of its family.
    pub(crate) host_ip: IpAddr,
    /// First host port.
    pub(crate) host_port: u16,
    /// First container port.
    pub(crate) container_port: u16,
    /// Number of ports, minus one: a range may have all 65,535.
    pub(crate) more: u16,
    /// Transport.
    #[serde(with = "transport")]
    pub(crate) transport: Transport,
    /// Whom it is for.
    #[serde(flatten)]
    pub(crate) allowed: Audience,
}

/// Whom a publish is for. Most are for everybody, and there may be a hundred thousand: those keep no lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Allowed")]
pub(crate) struct Audience(Option<Box<Allowed>>);

impl From<Allowed> for Audience {
    fn from(allowed: Allowed) -> Self {
        Self(allowed.is_restricted().then(|| Box::new(allowed)))
    }
}

impl Serialize for Audience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            // Lists that are not there are read as empty ones.
            None => serializer.serialize_map(Some(0))?.end(),
            Some(allowed) => allowed.serialize(serializer),
        }
    }
}

impl Deref for Audience {
    type Target = Allowed;

    fn deref(&self) -> &Allowed {
        static EVERYBODY: Allowed = Allowed { allow: Vec::new(), interfaces: Vec::new() };
        self.0.as_deref().unwrap_or(&EVERYBODY)
    }
}

impl RuleRecord {
    /// Whether it is for every address of the host, of one family.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.host_ip.is_unspecified()
    }

    /// Last host port.
    pub(crate) fn last_port(&self) -> u16 {
        self.host_port + self.more
    }

    /// All its host ports.
    pub(crate) fn ports(&self) -> std::ops::RangeInclusive<u16> {
        self.host_port..=self.last_port()
    }
}

mod transport {
    use netbpf_common::abi::Transport;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::spec::{transport_name, transport_named};

    pub(super) fn serialize<S: Serializer>(transport: &Transport, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(transport_name(*transport))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Transport, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        transport_named(&name).ok_or_else(|| D::Error::custom(format!("unknown transport '{name}'")))
    }
}
