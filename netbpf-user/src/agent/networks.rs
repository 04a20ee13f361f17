//! Making and removing networks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use netbpf_common::abi::NETWORKS;

use super::network::{DEFAULT_NETWORK, Network, Networks};
use super::requested::{Requested, free_subnet};
use super::state::State;
use super::{Engine, host};
use crate::api::types::{self, NetworkRequest};
use crate::config::{DeviceKind, overlap, unique_local};
use crate::error::{Error, Result};
use crate::store::{Changes, Driver};

/// How long a new gateway's address may take to be known as the host's.
const KNOWN: Duration = Duration::from_secs(5);

impl Engine {
    /// Makes a network.
    pub async fn create_network(self: &Arc<Self>, request: NetworkRequest) -> Result<types::Network> {
        let requested = Requested::read(&request)?;
        let mut state = self.change().await?;
        if state.networks.get(&requested.name).is_ok() {
            return Err(Error::Conflict(format!(
                "a network named {0} exists already: choose another name, or remove it with `netbpf network rm {0}`",
                requested.name
            )));
        }
        let number = state.networks.free_number()?;
        let parent = match requested.lan() {
            Some(lan) => Some(self.find_parent(&state, lan).await?),
            None => None,
        };
        let taken = self.taken(&state, parent.is_none()).await?;
        let own = || state.networks.parts().map(|part| part.gateway);
        let is_usable = |address: &IpAddr| {
            state.host.locals.contains_key(address) && !address.is_loopback() && !own().any(|own| own == *address)
        };
        if let Some(address) = requested.snat().find(|address| !is_usable(address)) {
            return Err(Error::Invalid(format!(
                "{address} is no address by which the world knows this host: packets that answer would not come back"
            )));
        }
        let mut chosen: Vec<IpNet> = Vec::new();
        if requested.lacks_subnet(true) {
            chosen.push(self.choose_subnet(&taken).await?);
        }
        if requested.lacks_subnet(false) {
            let numbers = std::iter::once(number).chain((NETWORKS as u16)..u16::MAX);
            let subnets = numbers.map(|number| IpNet::from(unique_local(self.global_id, number, 64)));
            let is_free = |subnet: &IpNet| !taken.iter().any(|(_, other)| overlap(*subnet, *other));
            chosen.extend(subnets.into_iter().find(is_free));
        }
        let most = parent.as_ref().map(|parent| (parent.name.clone(), parent.mtu));
        let record = requested.record(number, &chosen, &state.networks.get(DEFAULT_NETWORK)?.record, parent);
        record.check()?;
        if let Some((name, most)) = most.filter(|(_, most)| record.mtu > *most) {
            return Err(Error::Invalid(format!(
                "mtu {} is more than device {name} carries ({most}): choose a smaller one, or leave it out",
                record.mtu
            )));
        }
        record.addressing.check_apart(&self.virtuals)?;
        self.look_for_netkit(&mut state.networks, record.device).await?;
        let routed = self.netlink.route_subnets().await?;
        // As the kernel has them now: what the datapath knows of the host may lag behind a network that has just gone.
        let mut addresses = self.netlink.addresses().await?;
        addresses.retain(|address| address.ifindex != self.devices.0);
        for (what, net) in record.addressing.claims() {
            // A network on a device of the host is a part of what lies there already.
            let is_apart = record.driver == Driver::Bridge;
            let locals = addresses.iter().filter(|_| is_apart);
            let locals = locals.map(|local| ("an address of the host".to_owned(), IpNet::from(local.address)));
            let mut others = taken.iter().cloned().chain(locals);
            if let Some((whose, other)) = others.find(|(_, other)| overlap(net, *other)) {
                return Err(Error::Conflict(format!(
                    "{what} {net} overlaps {other}, which is {whose}: choose another"
                )));
            }
            // Part of what the host routes elsewhere may be somebody's to use here; all of it is not.
            if let Some(route) = routed.iter().find(|route| is_apart && net.contains(*route)) {
                return Err(Error::Conflict(format!(
                    "{what} {net} would take {route} from the host, which has a route there: choose another, or remove that \
                     route"
                )));
            }
        }
        let (name, gateways) = (record.name.clone(), record.addressing.parts().map(|part| part.gateway));
        let gateways: Vec<IpAddr> = gateways.filter(|_| record.driver == Driver::Bridge).collect();
        let lan = record.driver.lan().cloned();

        // Kept first: a parent that was made for it goes with it, also after a crash.
        self.store.save(&Changes { networks: vec![record.clone()], ..Changes::default() })?;
        for line in state.networks.warnings(&record) {
            tracing::warn!("{line}");
        }
        state.networks.insert(Network::new(record));
        let made = async {
            if let Some(lan) = &lan {
                self.prepare_parent(lan).await?;
            }
            self.write_networks(&state)?;
            host::set_right(&self.netlink, &state.networks, &self.virtuals, self.devices).await
        };
        if let Err(error) = made.await {
            for failure in self.take_away(&mut state, &name).await {
                tracing::warn!("while undoing: {failure}");
            }
            return Err(error);
        }
        let network = state.networks.get(&name)?.describe(&state);
        self.tell_names(&state).await;
        drop(state);
        self.until_known(&gateways).await;
        Ok(network)
    }

    /// Learns whether the kernel has netkits, if that matters to who is to have such a device.
    pub(super) async fn look_for_netkit(&self, networks: &mut Networks, device: DeviceKind) -> Result<()> {
        if device == DeviceKind::Netkit && networks.has_netkit.is_none() {
            networks.has_netkit = Some(self.netlink.has_netkit().await?);
        }
        Ok(())
    }

    /// Removes a network that nobody is in.
    pub async fn remove_network(self: &Arc<Self>, name: &str) -> Result<()> {
        let mut state = self.change().await?;
        state.networks.get(name)?;
        if name == DEFAULT_NETWORK {
            return Err(Error::Invalid(format!(
                "the network {name} cannot be removed: it is the one of the agent's settings"
            )));
        }
        let members = members(&state, name);
        if !members.is_empty() {
            return Err(Error::Conflict(format!(
                "network {name} is in use by {}: disconnect or remove them first",
                members.join(", ")
            )));
        }
        match self.take_away(&mut state, name).await.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Removes all networks that nobody is in. Their names.
    pub async fn prune_networks(self: &Arc<Self>) -> Result<Vec<String>> {
        let mut state = self.change().await?;
        let names: Vec<String> = state.networks.iter().map(|network| network.record.name.clone()).collect();
        let unused = names.into_iter().filter(|name| name != DEFAULT_NETWORK && members(&state, name).is_empty());
        let unused: Vec<String> = unused.collect();
        for name in &unused {
            if let Some(error) = self.take_away(&mut state, name).await.into_iter().next() {
                return Err(error);
            }
        }
        Ok(unused)
    }

    /// All networks, by name.
    pub async fn networks(&self) -> Vec<types::Network> {
        let state = self.state.lock().await;
        state.networks.iter().map(|network| network.describe(&state)).collect()
    }

    /// One network.
    pub async fn network(&self, name: &str) -> Result<types::Network> {
        let state = self.state.lock().await;
        state.networks.get(name).map(|network| network.describe(&state))
    }

    /// Forgets a network and takes it out of the kernel, to the end whatever fails. Returns what failed.
    async fn take_away(&self, state: &mut State, name: &str) -> Vec<Error> {
        let Some(removed) = state.networks.remove(name) else { return Vec::new() };
        // Before it is forgotten: nobody would take away later what nobody knows.
        let mut errors: Vec<Error> = self.leave_parent(state, &removed.record).await.err().into_iter().collect();
        let forgotten = self.store.save(&Changes { removed_networks: vec![name.into()], ..Changes::default() });
        if let Err(error) = forgotten {
            // It would be back at the next start: it stays.
            if let Some(lan) = removed.record.driver.lan() {
                errors.extend(self.prepare_parent(lan).await.err());
            }
            state.networks.insert(removed);
            errors.insert(0, error);
            return errors;
        }
        errors.extend(host::set_right(&self.netlink, &state.networks, &self.virtuals, self.devices).await.err());
        errors.extend(self.write_networks(state).err());
        self.tell_names(state).await;
        errors
    }

    /// Subnets that a new one must keep out of, and whose they are. Those on devices of the host only matter to one that the
    /// host's routes lead to.
    async fn taken(&self, state: &State, is_routed: bool) -> Result<Vec<(String, IpNet)>> {
        let mut taken: Vec<(String, IpNet)> = Vec::new();
        for network in state.networks.iter() {
            let whose = |what: &str| format!("the {what} of network {}", network.record.name);
            taken.extend(network.record.addressing.claims().map(|(what, net)| (whose(what), net)));
        }
        let virtuals = [IpNet::from(self.virtuals.v4), self.virtuals.v6.into()];
        taken.extend(virtuals.map(|net| ("for the host's virtual addresses".into(), net)));
        let own = self.devices.0;
        for (subnet, device) in self.netlink.link_subnets().await? {
            if device != own && is_routed {
                let name = self.netlink.device(device).await?.map_or_else(|| device.to_string(), |device| device.name);
                taken.push((format!("on the host's device {name}"), subnet));
            }
        }
        Ok(taken)
    }

    /// The first subnet of the pools that nobody has and no route of the host leads to.
    async fn choose_subnet(&self, taken: &[(String, IpNet)]) -> Result<IpNet> {
        let routed = self.netlink.route_subnets().await?;
        let is_free =
            |subnet: IpNet| !taken.iter().map(|(_, net)| net).chain(&routed).any(|other| overlap(subnet, *other));
        let pools = &self.settings.default_address_pools;
        pools.iter().find_map(|pool| free_subnet(pool.base, pool.size, is_free)).ok_or_else(|| {
            let pools: Vec<String> = pools.iter().map(|pool| format!("{} in /{}", pool.base, pool.size)).collect();
            Error::Exhausted(format!(
                "no free subnet in the pools ({}): name one with --subnet, or set default_address_pools in the agent's \
                 settings",
                pools.join(", ")
            ))
        })
    }

    /// Waits until the host's new addresses are known to the datapath as such.
    async fn until_known(&self, addresses: &[IpAddr]) {
        let known = async {
            loop {
                let followed = self.followed.notified();
                let state = self.state.lock().await;
                if addresses.iter().all(|address| state.host.locals.contains_key(address)) {
                    return;
                }
                drop(state);
                followed.await;
            }
        };
        if tokio::time::timeout(KNOWN, known).await.is_err() {
            tracing::warn!(?addresses, "the kernel has not announced the new addresses");
        }
    }
}

fn members(state: &State, network: &str) -> Vec<String> {
    let of = state.endpoints().filter(|(_, endpoint)| endpoint.network == network);
    of.map(|(container, _)| container.name.clone()).collect()
}
