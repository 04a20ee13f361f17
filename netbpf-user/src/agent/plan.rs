//! From what is desired and what the kernel has to the steps between them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netbpf_common::abi::{Endpoint, program};
use netbpf_common::wire::Mac;

use crate::config::DeviceKind;
use crate::datapath::Hook;
use crate::store::Mode;

/// The network of a container as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The namespace.
    pub(super) netns: PathBuf,
    /// Name of the namespace when netbpf makes it.
    pub(super) made_as: Option<String>,
    /// Where it is found first, when the name is given to a namespace that exists.
    pub(super) taken_from: Option<PathBuf>,
    /// Its ends of networks.
    pub(super) ends: Vec<WantedEnd>,
    /// Those that lie on devices of the host.
    pub(super) lans: Vec<LanEnd>,
}

/// An end of a network as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedEnd {
    /// Name of the host-side device.
    pub(super) device: String,
    /// Endpoint slot.
    pub(super) slot: u32,
    /// The endpoint as the datapath knows it.
    pub(super) endpoint: Endpoint,
    /// The container's device.
    pub(super) inside: Inside,
    /// The addresses by which the datapath finds its endpoint.
    pub(super) reached_by: Vec<IpAddr>,
    /// MTU of both its devices.
    pub(super) mtu: u32,
    /// Whether its device is a tap, which others make and delete.
    pub(super) is_tap: bool,
    /// What else it is.
    pub(super) kind: DeviceKind,
}

/// A container's view of its device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// Its name.
    pub(super) name: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpNet>,
    /// The gateways of its default routes; the unspecified address where the device itself leads everywhere.
    pub(super) gateways: Vec<IpAddr>,
}

/// A macvlan or ipvlan in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LanEnd {
    /// The container's namespace.
    pub(super) netns: PathBuf,
    /// Name of the device until it is known as ours.
    pub(super) transit: String,
    /// The network.
    pub(super) network: String,
    /// Name of the device of the host that it lies on.
    pub(super) parent: String,
    /// What it is, and how it sees others.
    pub(super) mode: Mode,
    /// Its MAC address, where it has one of its own.
    pub(super) mac: Option<Mac>,
    /// Its MTU.
    pub(super) mtu: u32,
    /// The container's view of it.
    pub(super) inside: Inside,
}

impl LanEnd {
    /// What tells it from others.
    pub(super) fn key(&self) -> (PathBuf, String) {
        (self.netns.clone(), self.inside.name.clone())
    }
}

/// The part of the kernel's state that is this instance's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// Named namespaces that this instance has made.
    pub(super) namespaces: BTreeSet<String>,
    /// Host-side devices of endpoints.
    pub(super) devices: BTreeMap<u32, String>,
    /// Taps with a program for endpoints.
    pub(super) taps: BTreeMap<u32, String>,
    /// What of the agent's own hangs on them, by name and device.
    pub(super) attached: BTreeSet<(&'static str, u32)>,
    /// Slots in use.
    pub(super) endpoints: BTreeMap<u32, Endpoint>,
    /// Addresses and the slots they lead to.
    pub(super) addresses: BTreeMap<IpAddr, u32>,
    /// Devices in containers that lie on devices of the host, by namespace and name.
    pub(super) lans: BTreeSet<(PathBuf, String)>,
}

/// A pair of devices to be made, with its far end in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// What it is.
    pub(super) kind: DeviceKind,
    /// The container's namespace.
    pub(super) netns: PathBuf,
    /// Name of the host-side device.
    pub(super) device: String,
    /// Number of the host-side device.
    pub(super) ifindex: u32,
    /// MAC address of the container's end.
    pub(super) mac: Mac,
    /// The container's view of its end.
    pub(super) inside: Inside,
    /// MTU of both ends.
    pub(super) mtu: u32,
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Packets for the address find no endpoint any more.
    DeleteAddress(IpAddr),
    /// The endpoint is no more; flows to it are stale.
    ClearEndpoint(u32),
    /// Both ends go, and what is left of the program on them.
    DeleteDevice(u32, String),
    /// A macvlan or ipvlan goes from the container at this path.
    DeleteLan(PathBuf, String),
    /// The name goes, and the namespace with its last user.
    DeleteNamespace(String),
    /// A namespace under a name: a new one, or the one at a path, which then outlives its processes.
    MakeNamespace(String, Option<PathBuf>),
    /// A pair of devices, the container's view of it, and the program on the host's end before that is up.
    MakePair(Box<Pair>),
    /// A macvlan or ipvlan, and the container's view of it.
    MakeLan(Box<LanEnd>),
    /// This agent's program on a device that is there.
    Attach(Hook),
    /// A tap becomes the device of an endpoint, with this MTU.
    TakeIn(u32, String, u32),
    /// A tap is the host's again.
    GiveBack(u32, String),
    /// The endpoint.
    WriteEndpoint(u32, Endpoint),
    /// Packets for the address find the endpoint.
    WriteAddress(IpAddr, u32),
}

impl Step {
    /// Whether it takes nothing away.
    pub(super) fn is_making(&self) -> bool {
        match self {
            Self::DeleteAddress(_)
            | Self::ClearEndpoint(_)
            | Self::DeleteDevice(..)
            | Self::DeleteLan(..)
            | Self::DeleteNamespace(_)
            | Self::GiveBack(..) => false,
            Self::MakeNamespace(..)
            | Self::MakePair(_)
            | Self::MakeLan(_)
            | Self::Attach(_)
            | Self::TakeIn(..)
            | Self::WriteEndpoint(..)
            | Self::WriteAddress(..) => true,
        }
    }

    /// The step that takes this one back. Removals are not taken back: a removal goes on to its end.
    pub(super) fn undo(&self) -> Option<Self> {
        Some(match self {
            Self::MakeNamespace(name, _) => Self::DeleteNamespace(name.clone()),
            Self::MakePair(pair) => Self::DeleteDevice(pair.ifindex, pair.device.clone()),
            Self::TakeIn(ifindex, device, _) => Self::GiveBack(*ifindex, device.clone()),
            Self::MakeLan(end) => Self::DeleteLan(end.netns.clone(), end.inside.name.clone()),
            Self::WriteEndpoint(slot, _) => Self::ClearEndpoint(*slot),
            Self::WriteAddress(address, _) => Self::DeleteAddress(*address),
            _ => return None,
        })
    }
}

/// The steps from `observed` to `desired`: removals first, so that what they free can be used again. Within each, packets
/// lose their way to an endpoint before it goes, and find it only when it is complete.
pub(super) fn plan(desired: &[Wanted], observed: &Observed) -> Vec<Step> {
    let ends = || desired.iter().flat_map(|wanted| &wanted.ends);
    let by_slot: BTreeMap<u32, &WantedEnd> = ends().map(|end| (end.slot, end)).collect();
    let by_address: BTreeMap<IpAddr, &WantedEnd> =
        ends().flat_map(|end| end.reached_by.iter().map(move |address| (*address, end))).collect();
    let by_device: BTreeMap<u32, &WantedEnd> = ends().map(|end| (end.endpoint.ifindex, end)).collect();
    let names: BTreeSet<&String> = desired.iter().filter_map(|wanted| wanted.made_as.as_ref()).collect();

    let mut steps = Vec::new();
    for (address, slot) in &observed.addresses {
        if by_address.get(address).is_none_or(|end| end.slot != *slot) {
            steps.push(Step::DeleteAddress(*address));
        }
    }
    for (slot, endpoint) in &observed.endpoints {
        if by_slot.get(slot).is_none_or(|end| end.endpoint.generation != endpoint.generation) {
            steps.push(Step::ClearEndpoint(*slot));
        }
    }
    for (ifindex, device) in &observed.devices {
        if !by_device.contains_key(ifindex) {
            steps.push(Step::DeleteDevice(*ifindex, device.clone()));
        }
    }
    for (ifindex, device) in &observed.taps {
        if !by_device.contains_key(ifindex) {
            steps.push(Step::GiveBack(*ifindex, device.clone()));
        }
    }
    // Before their namespaces: the kernel empties those later, and a parent may have room for no other until then.
    let lans: BTreeSet<_> = desired.iter().flat_map(|wanted| &wanted.lans).map(LanEnd::key).collect();
    let gone = observed.lans.difference(&lans).cloned();
    steps.extend(gone.map(|(netns, name)| Step::DeleteLan(netns, name)));
    for name in &observed.namespaces {
        if !names.contains(name) {
            steps.push(Step::DeleteNamespace(name.clone()));
        }
    }

    for wanted in desired {
        if let Some(name) = wanted.made_as.as_ref().filter(|name| !observed.namespaces.contains(*name)) {
            steps.push(Step::MakeNamespace(name.clone(), wanted.taken_from.clone()));
        }
        for end in &wanted.ends {
            plan_end(&wanted.netns, end, observed, &mut steps);
        }
        let missing = wanted.lans.iter().filter(|end| !observed.lans.contains(&end.key()));
        steps.extend(missing.map(|end| Step::MakeLan(Box::new(end.clone()))));
    }
    steps
}

/// The steps that make an end of a network.
fn plan_end(netns: &Path, end: &WantedEnd, observed: &Observed, steps: &mut Vec<Step>) {
    let ifindex = end.endpoint.ifindex;
    if end.is_tap {
        if !observed.attached.contains(&(program::EGRESS, ifindex)) {
            steps.push(Step::TakeIn(ifindex, end.device.clone(), end.mtu));
        }
    } else if !observed.devices.contains_key(&ifindex) {
        steps.push(Step::MakePair(Box::new(Pair {
            kind: end.kind,
            netns: netns.into(),
            device: end.device.clone(),
            ifindex,
            mac: end.endpoint.mac,
            inside: end.inside.clone(),
            mtu: end.mtu,
        })));
    } else {
        let hooks = Hook::of_container(end.kind, ifindex, &end.device).into_iter();
        let lost = hooks.filter(|hook| !observed.attached.contains(&(hook.program, ifindex)));
        steps.extend(lost.map(Step::Attach));
    }
    if observed.endpoints.get(&end.slot) != Some(&end.endpoint) {
        steps.push(Step::WriteEndpoint(end.slot, end.endpoint));
    }
    for address in &end.reached_by {
        if observed.addresses.get(address) != Some(&end.slot) {
            steps.push(Step::WriteAddress(*address, end.slot));
        }
    }
}

#[cfg(test)]
mod tests;
