//! The networks of an instance: what is kept of them, their free addresses, and how the datapath knows them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netbpf_common::abi::{self, ConfigFlags, NETWORKS, NetworkFlags, Subnet};
use netbpf_common::wire::{V4Addr, V6Addr};

use super::host::flag;
use crate::config::{Addressing, DeviceKind, Part, Settings};
use crate::datapath::InFamily;
use crate::error::{Error, Result};
use crate::ipam::Pools;
use crate::store::{Driver, EndpointRecord, Lan, NetworkRecord};

/// Name of the network that the settings describe.
pub(crate) const DEFAULT_NETWORK: &str = "default";

/// Its number.
const DEFAULT_NUMBER: u16 = 1;

/// A network, and which of its addresses are free.
#[derive(Debug)]
pub(super) struct Network {
    /// What is kept of it.
    pub(super) record: NetworkRecord,
    /// Its addresses.
    pub(super) pools: Pools,
}

impl Network {
    /// A network with no address in use.
    pub(super) fn new(record: NetworkRecord) -> Self {
        let pools = Pools::new(&record.name, &record.addressing, &record.reserved, &record.last);
        Self { record, pools }
    }

    /// The network that the settings describe; of an earlier one of that kind it has the identity.
    pub(super) fn of_settings(settings: &Settings, addressing: Addressing, before: Option<NetworkRecord>) -> Self {
        let before = before.unwrap_or_else(|| NetworkRecord {
            name: DEFAULT_NETWORK.into(),
            id: random_id(),
            number: DEFAULT_NUMBER,
            driver: Driver::Bridge,
            addressing,
            reserved: BTreeMap::new(),
            mtu: settings.mtu,
            internal: false,
            isolated: true,
            full_cone: false,
            clamp_mss: false,
            device: DeviceKind::Veth,
            last: Vec::new(),
            created: now(),
        });
        let Settings { mtu, full_cone, clamp_mss, device, .. } = *settings;
        Self::new(NetworkRecord { addressing, mtu, full_cone, clamp_mss, device, ..before })
    }

    /// Gives out one address of each family: the one that was asked for, or the next. All or none, and none of those that
    /// others have.
    pub(super) fn give(&mut self, asked: &[IpAddr], others: &[IpAddr]) -> Result<Vec<IpAddr>> {
        let held: Vec<IpAddr> = others.iter().copied().filter(|other| self.pools.claim(*other).is_ok()).collect();
        let given = self.pools.give(asked);
        self.pools.release(held);
        let given = given?;
        self.record.last = self.pools.last().collect();
        Ok(given)
    }

    /// Whether the datapath has a part in it.
    pub(super) fn is_ours(&self) -> bool {
        self.record.driver == Driver::Bridge
    }

    /// Whether an end of it leads to the world, in a family.
    pub(super) fn leads_out(&self, endpoint: &EndpointRecord, is_ipv4: bool) -> bool {
        let mut parts = endpoint.addresses().filter_map(|address| self.record.addressing.of_family(address));
        parts.any(|part| part.gateway.is_ipv4() == is_ipv4 && self.record.way_out(part).is_some())
    }

    /// As the datapath knows it.
    pub(super) fn in_datapath(&self) -> Result<abi::Network> {
        let record = &self.record;
        Ok(abi::Network {
            v4: subnet::<V4Addr>(record.addressing.v4.as_ref())?,
            v6: subnet::<V6Addr>(record.addressing.v6.as_ref())?,
            flags: flag(record.full_cone, NetworkFlags::FULL_CONE)
                | flag(record.clamp_mss, NetworkFlags::CLAMP_MSS)
                | flag(record.internal, NetworkFlags::INTERNAL)
                | flag(!record.isolated && !record.internal, NetworkFlags::OPEN),
        })
    }
}

/// All networks, by name.
#[derive(Debug, Default)]
pub(super) struct Networks {
    by_name: BTreeMap<String, Network>,
    /// Whether the kernel has netkits; none as long as no network is to have any.
    pub(super) has_netkit: Option<bool>,
}

impl Networks {
    /// A network by its name.
    pub(super) fn get(&self, name: &str) -> Result<&Network> {
        self.by_name.get(name).ok_or_else(|| not_found(name))
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, name: &str) -> Result<&mut Network> {
        self.by_name.get_mut(name).ok_or_else(|| not_found(name))
    }

    /// The network of an end. A start has refused ends of networks that are not there, and no network goes before its ends.
    pub(super) fn of(&self, endpoint: &EndpointRecord) -> &Network {
        &self.by_name[&endpoint.network]
    }

    /// What the devices of a network's containers are made as here and now.
    pub(super) fn device_kind(&self, record: &NetworkRecord) -> DeviceKind {
        match record.device {
            DeviceKind::Netkit if self.has_netkit != Some(true) => DeviceKind::Veth,
            device => device,
        }
    }

    /// What of a network is not as it was asked for.
    pub(super) fn warnings(&self, record: &NetworkRecord) -> Vec<String> {
        let lacks_netkit = self.device_kind(record) != record.device;
        let line = || {
            format!(
                "the kernel has no netkit (Linux 6.7 or newer with CONFIG_NETKIT): new containers of network {} get veths",
                record.name
            )
        };
        lacks_netkit.then(line).into_iter().collect()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Network> {
        self.by_name.values()
    }

    /// Those that the datapath has a part in, the default network first.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Network> {
        let mut ours: Vec<&Network> = self.by_name.values().filter(|network| network.is_ours()).collect();
        ours.sort_by_key(|network| network.record.number);
        ours.into_iter()
    }

    /// Those that lie on devices of the host, and what is to know of that.
    pub(super) fn lans(&self) -> impl Iterator<Item = (&NetworkRecord, &Lan)> {
        self.by_name.values().filter_map(|network| Some((&network.record, network.record.driver.lan()?)))
    }

    /// Gives what was made for a network that is no more to another on it, if there is one; that one as it is then.
    pub(super) fn leave_to_another(&mut self, removed: &Lan) -> Option<NetworkRecord> {
        let lan_of = |network: &mut Network| match &mut network.record.driver {
            Driver::Lan(lan) if lan.parent == removed.parent => {
                lan.made.clone_from(&removed.made);
                true
            }
            _ => false,
        };
        let mut all = self.by_name.values_mut();
        all.find_map(|network| lan_of(network).then(|| network.record.clone()))
    }

    /// The parts of those that the datapath has a part in, in one family or the other.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.ours().flat_map(|network| network.record.addressing.parts())
    }

    /// The default network's part of a family.
    pub(super) fn default_part(&self, is_ipv4: bool) -> Option<&Part> {
        let addressing = &self.by_name.get(DEFAULT_NETWORK)?.record.addressing;
        addressing.parts().find(|part| part.gateway.is_ipv4() == is_ipv4)
    }

    /// Whether containers have addresses of a family.
    pub(super) fn have(&self, is_ipv4: bool) -> bool {
        self.parts().any(|part| part.gateway.is_ipv4() == is_ipv4)
    }

    /// Adds a network.
    pub(super) fn insert(&mut self, network: Network) {
        self.by_name.insert(network.record.name.clone(), network);
    }

    /// Forgets a network.
    pub(super) fn remove(&mut self, name: &str) -> Option<Network> {
        self.by_name.remove(name)
    }

    /// Takes the addresses of an end back.
    pub(super) fn release(&mut self, endpoint: &EndpointRecord) {
        if let Some(network) = self.by_name.get_mut(&endpoint.network) {
            network.pools.release(endpoint.addresses());
        }
    }

    /// A place in `NETWORKS` that nobody has.
    pub(super) fn free_number(&self) -> Result<u16> {
        let used = |number: &u16| self.by_name.values().any(|network| network.record.number == *number);
        (DEFAULT_NUMBER + 1..NETWORKS as u16).find(|number| !used(number)).ok_or_else(|| {
            Error::Exhausted(format!(
                "all {} networks are in use: remove some with `netbpf network prune`",
                NETWORKS - 1
            ))
        })
    }

    /// What the datapath has to know of all of them together.
    pub(super) fn config_flags(&self) -> u32 {
        flag(self.ours().any(|network| network.record.full_cone), ConfigFlags::MAPPINGS)
            | flag(self.parts().any(|part| part.mode.is_reachable()), ConfigFlags::REACHABLE)
    }
}

fn not_found(name: &str) -> Error {
    // What Docker calls so.
    let hint = if name == "bridge" { "; the one of the agent's settings is called default" } else { "" };
    Error::NotFound(format!("no network '{}': `netbpf network ls` lists them{hint}", name.escape_debug()))
}

/// One family's part of a network as the datapath knows it; all zero for none.
fn subnet<A: InFamily>(part: Option<&Part>) -> Result<Subnet<A>> {
    let Some(part) = part else { return Ok(Subnet::default()) };
    let of = |address: IpAddr| {
        A::of(address).ok_or_else(|| Error::Internal(format!("{address} is not of the family of {}", part.subnet)))
    };
    let external = part.external.map(|external| external.network()).or(part.snat);
    Ok(Subnet {
        address: of(part.subnet.network())?,
        mask: of(part.subnet.netmask())?,
        gateway: of(part.gateway)?,
        external: external.map_or_else(|| Ok(A::default()), of)?,
        mode: abi::GatewayMode::from(part.mode) as u32,
    })
}

/// The id of a new network or container.
pub(super) fn random_id() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

/// Unix time, in seconds.
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use netbpf_common::abi::GatewayMode;
    use netbpf_common::wire::Address as _;

    use super::*;

    #[test]
    fn a_kernel_without_netkit_gives_veths_and_a_line() {
        let settings = Settings { device: DeviceKind::Netkit, ..Settings::default() };
        let addressing = Addressing::new(&settings, [1; 5]).unwrap();
        let netkit = Network::of_settings(&settings, addressing, None).record;
        let veth = NetworkRecord { device: DeviceKind::Veth, ..netkit.clone() };
        for (has_netkit, device) in
            [(None, DeviceKind::Veth), (Some(false), DeviceKind::Veth), (Some(true), DeviceKind::Netkit)]
        {
            let networks = Networks { has_netkit, ..Networks::default() };
            assert_eq!(networks.device_kind(&netkit), device);
            assert_eq!(networks.warnings(&netkit).len(), usize::from(device == DeviceKind::Veth));
            assert_eq!((networks.device_kind(&veth), networks.warnings(&veth).len()), (DeviceKind::Veth, 0));
        }
    }

    #[test]
    fn the_datapath_knows_the_families_that_the_network_has() {
        let known = |settings: &Settings| {
            let addressing = Addressing::new(settings, [1; 5]).unwrap();
            Network::of_settings(settings, addressing, None).in_datapath().unwrap()
        };
        let v4_only = known(&Settings::default());
        assert_eq!((v4_only.v4.mode, v4_only.v6.mask), (GatewayMode::Masquerade as u32, V6Addr::default()));
        let translated = Settings {
            ipv4: false,
            ipv6: true,
            subnet_v6: "fd00::/56".parse().ok(),
            mode_v6: crate::config::GatewayMode::Prefix,
            external_prefix_v6: "2001:db8:0:100::/56".parse().ok(),
            ..Settings::default()
        };
        let v6_only = known(&translated);
        assert_eq!(v6_only.v4.mask, V4Addr::default());
        assert_eq!(v6_only.v6.mode, GatewayMode::Prefix as u32);
        assert_eq!(format!("{:?} {:?}", v6_only.v6.gateway, v6_only.v6.external), "fd00::1 2001:db8:0:100::");
        assert_eq!(v6_only.v6.address.and(v6_only.v6.mask), v6_only.v6.address);
    }
}
