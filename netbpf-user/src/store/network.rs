//! What is kept of a network over restarts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::config::{Addressing, DeviceKind, Part};

/// A network as it is desired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Its name.
    pub(crate) name: String,
    /// 64 hex digits.
    pub(crate) id: String,
    /// Its place in `NETWORKS`.
    pub(crate) number: u16,
    /// What its containers are connected by.
    pub(crate) driver: Driver,
    /// Its addresses.
    pub(crate) addressing: Addressing,
    /// Addresses that no container gets, by what they are for.
    pub(crate) reserved: BTreeMap<String, IpAddr>,
    /// MTU of its containers' devices, in bytes.
    pub(crate) mtu: u32,
    /// Whether nothing goes out or comes in, not even to the host.
    pub(crate) internal: bool,
    /// Whether containers of other networks are kept out.
    pub(crate) isolated: bool,
    /// See [`Settings::full_cone`](crate::Settings::full_cone).
    pub(crate) full_cone: bool,
    /// See [`Settings::clamp_mss`](crate::Settings::clamp_mss).
    pub(crate) clamp_mss: bool,
    /// What its containers' devices are made as, where the kernel can.
    #[serde(default)]
    pub(crate) device: DeviceKind,
    /// The addresses given out last, one of each family.
    pub(crate) last: Vec<IpAddr>,
    /// Unix time of its creation, in seconds.
    pub(crate) created: u64,
}

/// What the containers of a network are connected by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "driver")]
pub(crate) enum Driver {
    /// The datapath.
    Bridge,
    /// The kernel's macvlan or ipvlan, on a device of the host.
    Lan(Lan),
}

/// A network on a device of the host, past the datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lan {
    /// Name of that device.
    pub(crate) parent: String,
    /// What kind of device it is, if it was made for the network and goes with it.
    pub(crate) made: Option<Made>,
    /// How its containers see each other and the rest; it tells macvlan from ipvlan.
    pub(crate) mode: Mode,
    /// The gateways that were named: the first addresses of the other subnets are kept for one, and nobody is sent there.
    pub(crate) gateways: Vec<IpAddr>,
}

/// A parent that netbpf has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Made {
    /// A VLAN of another device.
    Vlan {
        /// Name of that device.
        on: String,
        /// Its number.
        id: u16,
    },
    /// A device that leads nowhere.
    Dummy,
}

/// The modes of macvlan and of ipvlan, which have no name in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// macvlan: containers of a parent reach each other.
    Bridge,
    /// macvlan: they do not.
    Private,
    /// macvlan: they do by way of the switch, if that sends frames back.
    Vepa,
    /// macvlan: one container has the parent for itself.
    Passthru,
    /// ipvlan: one MAC address for all, and ARP as on any link.
    L2,
    /// ipvlan: the host's routing sends for them, and nobody asks by ARP or multicast.
    L3,
    /// ipvlan: the same, through the host's netfilter.
    L3s,
}

impl Mode {
    /// Those of macvlan, and those of ipvlan; the first is the default.
    pub(crate) const ALL: [&[Self]; 2] =
        [&[Self::Bridge, Self::Private, Self::Vepa, Self::Passthru], &[Self::L2, Self::L3, Self::L3s]];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }

    /// Whether it is one of macvlan.
    pub(crate) fn is_macvlan(self) -> bool {
        Self::ALL[0].contains(&self)
    }

    /// The driver that it belongs to.
    pub(crate) fn driver(self) -> &'static str {
        if self.is_macvlan() { "macvlan" } else { "ipvlan" }
    }

    /// The option that says it.
    pub(crate) fn option(self) -> &'static str {
        if self.is_macvlan() { "macvlan_mode" } else { "ipvlan_mode" }
    }

    /// Whether containers have MAC addresses of their own; else all have the parent's.
    pub(crate) fn has_macs(self) -> bool {
        self.is_macvlan() && self != Self::Passthru
    }

    /// Whether the device itself leads everywhere: there is no link on which a gateway could be asked for.
    pub(crate) fn is_routed(self) -> bool {
        matches!(self, Self::L3 | Self::L3s)
    }
}

impl Driver {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Lan(lan) => lan.mode.driver(),
        }
    }

    /// What there is to know of a network on a device of the host.
    pub(crate) fn lan(&self) -> Option<&Lan> {
        match self {
            Self::Bridge => None,
            Self::Lan(lan) => Some(lan),
        }
    }
}

impl NetworkRecord {
    /// Whether a part has a gateway: without the datapath only one that was named is there.
    pub(crate) fn has_gateway(&self, part: &Part) -> bool {
        self.driver.lan().is_none_or(|lan| lan.gateways.contains(&part.gateway))
    }

    /// Where containers send what is for the world, in the family of a part: nowhere from an internal network. The unspecified
    /// address stands for the device itself.
    pub(crate) fn way_out(&self, part: &Part) -> Option<IpAddr> {
        let is_routed = self.driver.lan().is_some_and(|lan| lan.mode.is_routed());
        let gateway = self.has_gateway(part).then_some(part.gateway);
        let way = if is_routed { Some(unspecified(part.gateway)) } else { gateway };
        way.filter(|_| !self.internal)
    }
}

fn unspecified(of_family: IpAddr) -> IpAddr {
    if of_family.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
