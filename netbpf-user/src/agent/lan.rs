//! Ends of networks on devices of the host: macvlan and ipvlan in containers, past the datapath.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use netbpf_common::wire::Mac;

use super::Engine;
use super::network::Networks;
use super::parent::gone;
use super::plan::LanEnd;
use super::state::State;
use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::device::Device;
use crate::net::lan::NewLan;
use crate::net::namespace::{self, Namespace};
use crate::store::{ContainerRecord, Made, Mode};

/// What the aliases of such devices begin with: by it they are known as netbpf's, in namespaces that may have others.
const MARK: &str = "netbpf:";

/// The same of those that are not complete: an agent that is killed leaves one behind, which is made anew.
const UNFINISHED: &str = "netbpf?";

/// What an end takes from the device that it lies on.
#[derive(Debug)]
pub(super) struct Ground {
    /// The MAC address, where all have the device's.
    pub(super) shared: Option<Mac>,
    /// The largest MTU.
    pub(super) mtu: u32,
}

impl Engine {
    /// What another end of a network would take from the device that it lies on; nothing if it lies on none. Refuses an end
    /// that cannot be.
    pub(super) async fn ground(&self, state: &State, network: &str, mac: Option<Mac>) -> Result<Option<Ground>> {
        let record = &state.networks.get(network)?.record;
        let Some(lan) = record.driver.lan() else { return Ok(None) };
        let (parent, mode) = (&lan.parent, lan.mode);
        let device = self.netlink.device_named(parent).await?.ok_or_else(|| gone(parent))?;
        if let Some(mac) = mac.filter(|_| !mode.has_macs()) {
            return Err(Error::Invalid(format!(
                "MAC address {mac} is of no use in network {network} ({} {}), where containers have that of {parent}: leave it out",
                mode.driver(),
                mode.name()
            )));
        }
        if let Some(mac) = mac.filter(|mac| device.mac == Some(*mac)) {
            return Err(Error::Conflict(format!("MAC address {mac} is that of {parent}: choose another")));
        }
        let mut others = state.endpoints().filter(|(_, endpoint)| endpoint.network == network);
        if let Some((holder, _)) = others.next().filter(|_| mode == Mode::Passthru) {
            return Err(Error::Conflict(format!(
                "network {network} gives {parent} to one container alone (passthru), and container {} has it: disconnect that one \
                 first",
                holder.name
            )));
        }
        Ok(Some(Ground { shared: device.mac.filter(|_| !mode.has_macs()), mtu: device.mtu }))
    }

    /// Makes a device in a container, and nothing when that fails.
    pub(super) async fn make_lan(&self, end: &LanEnd) -> Result<()> {
        let namespace = Namespace::open(&end.netns)?;
        let parent = self.netlink.device_named(&end.parent).await?.ok_or_else(|| gone(&end.parent))?;
        let inside = namespace.run(Netlink::open).await?;
        // Left by an agent that was killed before it was complete.
        if let Some(left) = inside.device_named(&end.transit).await? {
            inside.delete_device(left.ifindex).await?;
        }
        remove_marked(&end.netns, |device| device.name == end.inside.name && !is_complete(device)).await?;
        let new = NewLan {
            name: &end.transit,
            parent: (parent.ifindex, &parent.name),
            mode: end.mode,
            mac: end.mac,
            mtu: Some(end.mtu.min(parent.mtu)),
            namespace: namespace.as_fd(),
        };
        self.netlink.make_lan(&new).await?;
        let device = inside.device_named(&end.transit).await?;
        let device = device.ok_or_else(|| Error::Internal(format!("{} has vanished", end.transit)))?;
        let complete = async {
            inside.rename(device.ifindex, &end.inside.name, &format!("{UNFINISHED}{}", end.network)).await?;
            let settled = self.settle(&namespace, &end.inside, None).await?;
            self.configure(&settled, &end.inside, None).await?;
            inside.set_alias(device.ifindex, &format!("{MARK}{}", end.network)).await
        };
        let complete = complete.await;
        if complete.is_err()
            && let Err(error) = inside.delete_device(device.ifindex).await
        {
            tracing::warn!("while undoing: {error}");
        }
        complete
    }

    /// Deletes a device in a container; one of that name which is not netbpf's stays.
    pub(super) async fn delete_lan(&self, netns: &Path, name: &str) -> Result<()> {
        remove_marked(netns, |device| device.name == name).await
    }

    /// The devices that are there, by namespace and name.
    pub(super) async fn lans_there(&self, state: &State) -> BTreeSet<(PathBuf, String)> {
        let mut there = BTreeSet::new();
        if state.networks.lans().next().is_none() {
            return there;
        }
        for record in state.containers.values().filter(|record| has_own(record)) {
            match marked(&record.netns).await {
                Ok((_, devices)) => {
                    let devices = devices.into_iter().filter(is_complete);
                    there.extend(devices.map(|device| (record.netns.clone(), device.name)));
                }
                Err(error) => tracing::warn!("container {}: {error}", record.name),
            }
        }
        there
    }

    /// Notes which parents are there. A device that was away has taken along what lay on it: that is made again.
    pub(super) async fn follow_parents(&self, state: &mut State, devices: &[Device]) {
        let parents = parents(&state.networks, devices);
        let came = parents.iter().any(|(name, ifindex)| state.host.parents.get(name) != Some(ifindex));
        state.host.parents = parents;
        if came {
            self.make_parents(state).await;
            self.keep_lans(state).await;
        }
    }

    /// Makes the parents that are netbpf's own and not there.
    pub(super) async fn make_parents(&self, state: &State) {
        for (record, lan) in state.networks.lans() {
            if let Err(error) = self.make_parent(lan).await {
                tracing::warn!("network {}: {error}", record.name);
            }
        }
    }

    async fn keep_lans(&self, state: &State) {
        let there = self.lans_there(state).await;
        for record in state.containers.values().filter(|record| has_own(record)) {
            let is_missing = |end: &LanEnd| !there.contains(&end.key()) && state.host.parents.contains_key(&end.parent);
            let missing: Vec<LanEnd> = record.lans(&state.networks).filter(is_missing).collect();
            for end in &missing {
                tracing::info!(container = record.name, device = end.inside.name, parent = end.parent, "made again");
                if let Err(error) = self.make_lan(end).await {
                    tracing::warn!("container {}: {error}", record.name);
                }
            }
            if !missing.is_empty()
                && let Err(error) = self.answer_by_own_ends(state, record).await
            {
                tracing::warn!("container {}: {error}", record.name);
            }
        }
    }

    /// What of such networks is not as desired, one line each.
    pub(super) async fn lan_problems(&self, state: &State, devices: &BTreeMap<u32, String>) -> Vec<String> {
        let is_there = |parent: &String| devices.values().any(|device| device == parent);
        let lost = state.networks.lans().filter(|(_, lan)| !is_there(&lan.parent));
        let mut problems: Vec<String> =
            lost.map(|(record, lan)| format!("network {}: its parent {} is gone", record.name, lan.parent)).collect();
        let there = self.lans_there(state).await;
        for record in state.containers.values().filter(|record| has_own(record)) {
            let lost = record.lans(&state.networks).filter(|end| is_there(&end.parent) && !there.contains(&end.key()));
            problems.extend(lost.map(|end| {
                format!("container {}: its device {} on {} is gone", record.name, end.inside.name, end.parent)
            }));
        }
        problems
    }
}

/// Whether a container has a namespace that is there and not the host's or another's.
fn has_own(record: &ContainerRecord) -> bool {
    !record.is_host && record.shared_with.is_none() && namespace::exists(record.netns())
}

/// Devices that networks lie on, or that theirs are made on, and that are there.
fn parents(networks: &Networks, devices: &[Device]) -> BTreeMap<String, u32> {
    let names = networks.lans().flat_map(|(_, lan)| {
        let below = match &lan.made {
            Some(Made::Vlan { on, .. }) => Some(on),
            _ => None,
        };
        [Some(&lan.parent), below].into_iter().flatten()
    });
    let names: BTreeSet<&String> = names.collect();
    let there = devices.iter().filter(|device| names.contains(&device.name));
    there.map(|device| (device.name.clone(), device.ifindex)).collect()
}

/// Deletes devices of netbpf's in a namespace; there are none where that is gone.
pub(super) async fn remove_marked(netns: &Path, is_meant: impl Fn(&Device) -> bool) -> Result<()> {
    if !namespace::exists(netns) {
        return Ok(());
    }
    let (inside, devices) = marked(netns).await?;
    for device in devices.into_iter().filter(is_meant) {
        inside.delete_device(device.ifindex).await?;
    }
    Ok(())
}

fn is_complete(device: &Device) -> bool {
    device.alias.starts_with(MARK)
}

async fn marked(netns: &Path) -> Result<(Netlink, Vec<Device>)> {
    let inside = Namespace::open(netns)?.run(Netlink::open).await?;
    let mut devices = inside.devices().await?;
    devices.retain(|device| device.is_lan && (is_complete(device) || device.alias.starts_with(UNFINISHED)));
    Ok((inside, devices))
}
