//! What the agent knows: desired state, and its own copy of what it has told the datapath.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint};
use netbpf_common::wire::{Address as _, V4Addr, V6Addr};

use super::plan::Wanted;
use super::publishes::Publishes;
use crate::api::types::{Container, PortMapping};
use crate::config::{Addressing, GatewayMode, Part};
use crate::error::{Error, Result};
use crate::ipam::Pools;
use crate::spec::transport_name;
use crate::store::{ContainerRecord, InstanceRecord, RuleRecord};

/// Name of the one network there is.
pub(super) const NETWORK: &str = "default";

/// Its number in `NETWORKS`.
pub(super) const NETWORK_NUMBER: u16 = 1;

/// Everything that a request may change. One lock guards it: requests are served one after the other.
#[derive(Debug)]
pub(super) struct State {
    pub(super) instance: InstanceRecord,
    pub(super) containers: BTreeMap<String, ContainerRecord>,
    pub(super) pools: Pools,
    pub(super) publishes: Publishes,
    pub(super) host: HostState,
}

/// What was last seen of the host, and told the datapath.
#[derive(Debug, Default)]
pub(super) struct HostState {
    /// Devices to the world.
    pub(super) uplinks: BTreeMap<u32, UplinkState>,
    /// Addresses of the host and their virtual indexes.
    pub(super) locals: BTreeMap<IpAddr, u32>,
    /// What could not be done, one line each.
    pub(super) problems: Vec<String>,
}

/// A device to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UplinkState {
    pub(super) name: String,
    /// Whether its packets have no Ethernet header.
    pub(super) is_bare: bool,
    /// The addresses that packets leave with.
    pub(super) v4: Option<V4Addr>,
    pub(super) v6: Option<V6Addr>,
    pub(super) is_attached: bool,
}

impl State {
    /// A container by its name.
    pub(super) fn container(&self, name: &str) -> Result<&ContainerRecord> {
        self.containers
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("no container '{}': `netbpf ps` lists them", name.escape_debug())))
    }

    /// An endpoint slot in no use.
    pub(super) fn free_slot(&self) -> Result<u32> {
        let used: std::collections::BTreeSet<u32> = self.containers.values().map(|record| record.slot).collect();
        (1..ENDPOINT_SLOTS).find(|slot| !used.contains(slot)).ok_or_else(|| {
            Error::Exhausted(format!("all {} endpoints are in use: remove containers", ENDPOINT_SLOTS - 1))
        })
    }
}

impl ContainerRecord {
    /// Its endpoint as the datapath knows it.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            generation: self.generation,
            ifindex: self.ifindex,
            v4: self.address.map(V4Addr::from).unwrap_or_default(),
            v6: self.address_v6.map(V6Addr::from).unwrap_or_default(),
            mac: self.mac(),
            network: NETWORK_NUMBER,
            ..Endpoint::default()
        }
    }

    /// The addresses by which the datapath finds its endpoint: its own, the one of its link (RFC 4291 appendix A), and the one
    /// that the world knows it by (RFC 6296).
    pub(super) fn reached_by(&self, addressing: &Addressing) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.addresses().collect();
        if let Some(own) = self.address_v6 {
            addresses.push(V6Addr::link_local(self.mac()).into());
            addresses.extend(addressing.v6.and_then(|part| outside(&part, own)));
        }
        addresses
    }

    /// Notes the addresses that it was given.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            match address {
                IpAddr::V4(address) => self.address = Some(*address),
                IpAddr::V6(address) => self.address_v6 = Some(*address),
            }
        }
    }

    /// Its network end as the plan makes it.
    pub(super) fn wanted(&self, addressing: &Addressing) -> Wanted {
        Wanted {
            netns: self.netns.clone(),
            made_as: self.owns_netns.then(|| self.name.clone()),
            taken_from: None,
            device: self.device.clone(),
            slot: self.slot,
            endpoint: self.endpoint(),
            addresses: self.addresses().collect(),
            reached_by: self.reached_by(addressing),
            mtu: self.mtu,
        }
    }

    /// Its publishes as the API has them.
    pub(super) fn ports(&self) -> Vec<PortMapping> {
        self.rules.iter().map(RuleRecord::mapping).collect()
    }

    /// As the API has it.
    pub(super) fn describe(&self, addressing: &Addressing) -> Container {
        let (status, pid) = match &self.process {
            None => ("created", 0),
            Some(process) if process.exited => ("exited", 0),
            Some(process) => ("running", process.pid),
        };
        let v4 = addressing.v4.filter(|_| self.address.is_some());
        let v6 = addressing.v6.filter(|_| self.address_v6.is_some());
        Container {
            name: self.name.clone(),
            id: self.id.clone(),
            hostname: self.hostname.clone(),
            status: status.into(),
            pid,
            netns: self.netns.display().to_string(),
            network: NETWORK.into(),
            ip: self.address,
            prefix_len: v4.map(|part| part.subnet.prefix_len()),
            ip6: self.address_v6,
            prefix_len6: v6.map(|part| part.subnet.prefix_len()),
            mac: self.mac().to_string(),
            gateway: v4.and_then(|part| ipv4(part.gateway)),
            gateway6: v6.and_then(|part| ipv6(part.gateway)),
            device: self.device.clone(),
            mtu: self.mtu,
            ports: self.ports(),
            created: self.created,
        }
    }
}

/// The address that the world knows a container by, where that is another than its own.
fn outside(part: &Part, own: Ipv6Addr) -> Option<IpAddr> {
    match (part.mode, part.subnet, part.external?) {
        (GatewayMode::Prefix, IpNet::V6(subnet), IpNet::V6(external)) => {
            let mut outside = V6Addr::from(own);
            outside.move_into(&subnet.netmask().into(), &external.network().into());
            Some(outside.into())
        }
        _ => None,
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

impl RuleRecord {
    /// As the API has it.
    pub(super) fn mapping(&self) -> PortMapping {
        PortMapping {
            host_ip: self.host_ip,
            host_port: self.host_port,
            container_port: self.container_port,
            count: u32::from(self.more) + 1,
            protocol: transport_name(self.transport).into(),
        }
    }
}
