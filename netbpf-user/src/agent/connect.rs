//! Connecting containers to networks, live.

use std::net::IpAddr;
use std::sync::Arc;

use netbpf_common::abi::{ENDPOINT_SLOTS, generation};
use netbpf_common::wire::Mac;

use super::containers::observed;
use super::lan::Ground;
use super::network::Network;
use super::plan::plan;
use super::start::random_mac;
use super::state::State;
use super::taps::Tap;
use super::{Engine, check};
use crate::api::types::{ConnectRequest, Container, CreateRequest};
use crate::config::DeviceKind;
use crate::config::subnet::check_mtu;
use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::namespace::Namespace;
use crate::net::route::MAIN_TABLE;
use crate::store::{Changes, ContainerRecord, EndpointRecord};

/// First multiple of [`ENDPOINT_SLOTS`] that devices get their numbers from: far above what the kernel counts up to.
const FIRST_MULTIPLE: u32 = 16;

/// Names of host-side devices: this, the first ten digits of the container's id, and from the second end on its number.
pub(super) const DEVICE_PREFIX: &str = "nb";

/// Most ends of one container: the longest name of a device has 15 bytes.
const MOST_ENDS: usize = 100;

/// What somebody asks for of an end of a network.
pub(super) struct Asked {
    addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    aliases: Vec<String>,
    /// The device that it is to have, instead of one of its own.
    pub(super) tap: Option<Tap>,
}

impl Asked {
    /// For the first network of a container.
    pub(super) fn of(request: &CreateRequest) -> Result<Self> {
        Self::new([request.ip.map(Into::into), request.ip6.map(Into::into)], &request.mac_address, &request.aliases)
    }

    /// For a further one.
    pub(super) fn further(request: &ConnectRequest) -> Result<Self> {
        Self::new([request.ip.map(Into::into), request.ip6.map(Into::into)], &request.mac_address, &request.aliases)
    }

    fn new(addresses: [Option<IpAddr>; 2], mac: &Option<String>, aliases: &[String]) -> Result<Self> {
        check::aliases(aliases)?;
        let mac = mac.as_deref().map(check::mac).transpose()?;
        Ok(Self { addresses: addresses.into_iter().flatten().collect(), mac, aliases: aliases.to_vec(), tap: None })
    }
}

impl Engine {
    /// Connects a container to a network.
    pub async fn connect(self: &Arc<Self>, network: &str, request: ConnectRequest) -> Result<Container> {
        let asked = Asked::further(&request)?;
        let mut state = self.change().await?;
        let name = state.networks.get(network)?.record.name.clone();
        let before = state.container(&request.container)?.clone();
        check_connectable(&before)?;
        if before.endpoint_of(&name).is_some() {
            return Err(Error::Conflict(format!(
                "container {} is in network {name} already: `netbpf inspect {}` shows its networks",
                before.name, before.name
            )));
        }
        let endpoint = self.new_endpoint(&mut state, &before, &name, &asked).await?;
        let mut after = before.clone();
        after.endpoints.push(endpoint.clone());
        let planned = plan(&[after.wanted(&state.networks)], &observed(&before, &state.networks));
        let made = async {
            self.apply(&planned).await?;
            let changes = Changes { networks: state.networks_of(&after), ..Changes::from(&after) };
            let saved = self
                .store
                .save(&changes)
                .and_then(|()| self.serve_from(&state, &before, &after))
                .and_then(|()| self.write_files(&state, &after));
            let saved = match saved {
                Ok(()) => self.answer_by_own_ends(&state, &after).await,
                refused => refused,
            };
            if saved.is_err() {
                self.undo(&planned).await;
                let as_before = self.store.save(&Changes::from(&before));
                let as_before = as_before.and(self.serve_from(&state, &after, &before));
                if let Err(error) = as_before.and(self.write_files(&state, &before)) {
                    tracing::warn!("while undoing: {error}");
                }
            }
            saved
        };
        if let Err(error) = made.await {
            state.networks.release(&endpoint);
            return Err(error);
        }
        let container = after.describe(&state.networks);
        state.containers.insert(after.name.clone(), after);
        self.tell_names(&state).await;
        Ok(container)
    }

    /// Takes a container out of a network.
    pub async fn disconnect(self: &Arc<Self>, network: &str, container: &str) -> Result<Container> {
        let mut state = self.change().await?;
        let name = state.networks.get(network)?.record.name.clone();
        let before = state.container(container)?.clone();
        check_connectable(&before)?;
        let Some(endpoint) = before.endpoint_of(&name).cloned() else {
            return Err(Error::NotFound(format!(
                "container {container} is not in network {name}: `netbpf inspect {container}` shows its networks"
            )));
        };
        let mut after = before.clone();
        after.endpoints.retain(|endpoint| endpoint.network != name);
        // First: an agent that is killed in between leaves a container that has its way out.
        self.lead_elsewhere(&state, &before, &after).await?;
        self.store.save(&Changes::from(&after))?;
        state.containers.insert(after.name.clone(), after.clone());
        self.tell_names(&state).await;
        let planned = plan(&[after.wanted(&state.networks)], &observed(&before, &state.networks));
        let mut errors = self.apply_all(&planned).await;
        state.networks.release(&endpoint);
        errors.extend(self.serve_from(&state, &before, &after).err());
        errors.extend(self.write_files(&state, &after).err());
        errors.extend(forget_end(&after, &endpoint).await.err());
        self.uncollected.notify_one();
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(after.describe(&state.networks)),
        }
    }

    /// Lets publishes lead to the end that serves them now.
    fn serve_from(&self, state: &State, before: &ContainerRecord, after: &ContainerRecord) -> Result<()> {
        let serving = |record: &ContainerRecord, is_ipv4| {
            record.serving(&state.networks, is_ipv4).map(|endpoint| (endpoint.slot, endpoint.generation))
        };
        let moved = after.rules.iter().filter(|rule| {
            let is_ipv4 = rule.host_ip.is_ipv4();
            serving(before, is_ipv4) != serving(after, is_ipv4)
        });
        self.put_in_force(state, after, &moved.cloned().collect::<Vec<_>>())
    }

    /// Gives a container that has lost its way to the world another, if it has one.
    async fn lead_elsewhere(&self, state: &State, before: &ContainerRecord, after: &ContainerRecord) -> Result<()> {
        for is_ipv4 in [true, false] {
            let way = |record: &ContainerRecord| record.way_out(&state.networks, is_ipv4).cloned();
            let Some(endpoint) = way(after).filter(|endpoint| way(before).as_ref() != Some(endpoint)) else { continue };
            let inside = Namespace::open(&after.netns)?.run(Netlink::open).await?;
            let Some(device) = inside.device_named(&endpoint.name).await? else { continue };
            let gateways = after.inside(&state.networks, &endpoint).gateways;
            let of_family: Vec<IpAddr> = gateways.into_iter().filter(|it| it.is_ipv4() == is_ipv4).collect();
            let ours = state.networks.of(&endpoint).is_ours().then_some(endpoint.mtu);
            self.lead_out(&inside, device.ifindex, &of_family, ours, MAIN_TABLE).await?;
        }
        Ok(())
    }

    /// Lets a container of several networks answer by the end whose address was asked, also whom it finds on the link of another: by
    /// a table for each end.
    pub(super) async fn answer_by_own_ends(&self, state: &State, record: &ContainerRecord) -> Result<()> {
        if record.endpoints.len() < 2 {
            return Ok(());
        }
        let inside = Namespace::open(&record.netns)?.run(Netlink::open).await?;
        for endpoint in &record.endpoints {
            let Some(device) = inside.device_named(&endpoint.name).await? else { continue };
            let (network, table) = (state.networks.of(endpoint), table_of(endpoint));
            let ours = network.is_ours().then_some(endpoint.mtu);
            for address in endpoint.addresses() {
                let Some(part) = network.record.addressing.of_family(address) else { continue };
                inside.add_link_route(device.ifindex, part.subnet, address, table).await?;
                if let Some(gateway) = network.record.way_out(part) {
                    self.lead_out(&inside, device.ifindex, &[gateway], ours, table).await?;
                }
                inside.add_rule(address, table).await?;
            }
        }
        Ok(())
    }

    /// An end for a container, with addresses of its own; nobody else knows it yet.
    pub(super) async fn new_endpoint(
        &self,
        state: &mut State,
        container: &ContainerRecord,
        network: &str,
        asked: &Asked,
    ) -> Result<EndpointRecord> {
        let ground = self.ground(state, network, asked.mac).await?;
        let (slot, ifindex) = match (&asked.tap, &ground) {
            (Some(tap), Some(_)) => {
                return Err(Error::Invalid(format!(
                    "{} cannot be in network {network}, which is on a device of the host: give the machine a macvtap there, or choose \
                     another network",
                    tap.name
                )));
            }
            (Some(tap), None) => (tap.slot(), tap.ifindex),
            (None, Some(_)) => (0, 0),
            (None, None) => {
                let slot = state.free_slot()?;
                (slot, self.free_ifindex(slot).await?)
            }
        };
        if let Some(tap) = &asked.tap {
            let Network { record, .. } = state.networks.get(network)?;
            let fits = check_mtu(tap.mtu.min(record.mtu), record.addressing.v6.is_some());
            fits.map_err(|error| Error::Invalid(format!("tap {} cannot be in network {network}: {error}", tap.name)))?;
        }
        let kind = match asked.tap {
            Some(_) => DeviceKind::Veth,
            None => state.networks.device_kind(&state.networks.get(network)?.record),
        };
        let taken = |name: &String| container.endpoints.iter().any(|endpoint| endpoint.name == *name);
        let number = (0..MOST_ENDS).find(|number| !taken(&format!("eth{number}"))).ok_or_else(|| {
            Error::Exhausted(format!(
                "container {} is in {MOST_ENDS} networks: disconnect it from some",
                container.name
            ))
        })?;
        let own = if ground.is_some() { state.host.locals.keys().copied().collect() } else { Vec::new() };
        let addresses = state.networks.get_mut(network)?.give(&asked.addresses, &own)?;
        // Whoever gets an address that somebody had before gets the MAC address too, which the neighbours still know.
        let leading = asked.addresses.first().or(addresses.first()).copied();
        let (mac, generation, mtu) = match &ground {
            Some(Ground { shared: Some(mac), mtu }) => (Ok(*mac), Ok(0), *mtu),
            Some(Ground { shared: None, mtu }) => (self.choose_mac(state, asked.mac, leading), Ok(0), *mtu),
            None => {
                let mtu = asked.tap.as_ref().map_or(u32::MAX, |tap| tap.mtu);
                (self.choose_mac(state, asked.mac, leading), self.datapath.bump(generation::LAST_ENDPOINT), mtu)
            }
        };
        let network = state.networks.get_mut(network)?;
        let (mac, generation) = match mac.and_then(|mac| Ok((mac, generation?))) {
            Ok(chosen) => chosen,
            Err(error) => {
                network.pools.release(addresses);
                return Err(error);
            }
        };
        let further = if number == 0 { String::new() } else { format!(".{number}") };
        let mut endpoint = EndpointRecord {
            network: network.record.name.clone(),
            name: format!("eth{number}"),
            aliases: asked.aliases.clone(),
            address: None,
            address_v6: None,
            mac: mac.octets(),
            mtu: network.record.mtu.min(mtu),
            slot,
            generation,
            ifindex,
            device: match &asked.tap {
                Some(tap) => tap.name.clone(),
                None => format!("{DEVICE_PREFIX}{}{further}", &container.id[..10]),
            },
            is_tap: asked.tap.is_some(),
            kind,
        };
        endpoint.set_addresses(&addresses);
        Ok(endpoint)
    }

    fn choose_mac(&self, state: &State, asked: Option<Mac>, address: Option<IpAddr>) -> Result<Mac> {
        let refusal = |mac: Mac| {
            let holder = state.endpoints().find(|(_, endpoint)| endpoint.mac() == mac);
            let holder = holder.map(|(record, _)| format!("container {}", record.name));
            let holder = holder.or_else(|| (mac == self.gateway_mac).then(|| "the gateway".into()))?;
            Some(Error::Conflict(format!("MAC address {mac} is that of {holder}: choose another")))
        };
        if let Some(mac) = asked {
            return refusal(mac).map_or(Ok(mac), Err);
        }
        let mac = address.map_or_else(|| Mac::new(random_mac()), derived_mac);
        // Two IPv6 addresses may end alike, and somebody may have asked for the one that is another's by right.
        let others = || std::iter::repeat_with(|| Mac::new(random_mac()));
        std::iter::once(mac)
            .chain(others().take(16))
            .find(|mac| refusal(*mac).is_none())
            .ok_or_else(|| Error::Exhausted(format!("MAC address {mac} is in use: choose another")))
    }

    /// A number for a device that leads to this slot.
    async fn free_ifindex(&self, slot: u32) -> Result<u32> {
        for multiple in FIRST_MULTIPLE..FIRST_MULTIPLE + 4096 {
            let ifindex = slot + multiple * ENDPOINT_SLOTS;
            let is_doomed = self.doomed().iter().any(|(doomed, _)| *doomed == ifindex);
            if !is_doomed && self.netlink.device(ifindex).await?.is_none() {
                return Ok(ifindex);
            }
        }
        Err(Error::Exhausted("no free device number for another endpoint: remove devices".into()))
    }
}

/// The table of a container's routes for what leaves with the addresses of an end.
fn table_of(endpoint: &EndpointRecord) -> u32 {
    const FIRST: u32 = 1000;
    FIRST + endpoint.name.trim_start_matches("eth").parse().unwrap_or(0)
}

/// Takes away what led to the table of an end that is gone; its routes have gone with its device.
async fn forget_end(record: &ContainerRecord, endpoint: &EndpointRecord) -> Result<()> {
    let inside = Namespace::open(&record.netns)?.run(Netlink::open).await?;
    for address in endpoint.addresses() {
        inside.delete_rule(address, table_of(endpoint)).await?;
    }
    Ok(())
}

/// Refuses containers that have no networks of their own.
fn check_connectable(record: &ContainerRecord) -> Result<()> {
    let other = match &record.shared_with {
        Some(other) => format!("container {other}: connect that one"),
        None if record.is_host => "the host: make it with a network".into(),
        None if record.is_machine() => {
            return Err(Error::Conflict(format!(
                "container {} is behind a tap, which is in one network: attach another tap for another network",
                record.name
            )));
        }
        None => return Ok(()),
    };
    Err(Error::Conflict(format!("container {} has the network namespace of {other}", record.name)))
}

/// The MAC address of whom an address is given to: as Docker derives it, from the last four bytes.
fn derived_mac(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (address.to_bits() as u32).to_be_bytes(),
    };
    Mac::new([0x02, 0x42, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_derived_from_either_family() {
        for (address, mac) in [("172.30.0.2", "02:42:ac:1e:00:02"), ("fd00::1:2", "02:42:00:01:00:02")] {
            assert_eq!(derived_mac(address.parse().unwrap()).to_string(), mac);
        }
    }
}
