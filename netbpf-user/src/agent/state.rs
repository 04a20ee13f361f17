//! What the agent knows: desired state, and its own copy of what it has told the datapath.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint};

use super::plan::Wanted;
use super::publishes::Publishes;
use crate::api::types::{Container, PortMapping};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::ipam::Pool;
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
    pub(super) pool: Pool,
    pub(super) publishes: Publishes,
    pub(super) host: HostState,
}

/// What was last seen of the host, and told the datapath.
#[derive(Debug, Default)]
pub(super) struct HostState {
    /// Devices to the world.
    pub(super) uplinks: BTreeMap<u32, UplinkState>,
    /// Addresses of the host and their virtual indexes.
    pub(super) locals: BTreeMap<Ipv4Addr, u32>,
    /// What could not be done, one line each.
    pub(super) problems: Vec<String>,
}

/// A device to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UplinkState {
    pub(super) name: String,
    /// Whether its packets have no Ethernet header.
    pub(super) is_bare: bool,
    pub(super) address: Option<Ipv4Addr>,
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
            v4: self.address.into(),
            mac: self.mac(),
            network: NETWORK_NUMBER,
            ..Endpoint::default()
        }
    }

    /// Its network end as the plan makes it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            netns: self.netns.clone(),
            made_as: self.owns_netns.then(|| self.name.clone()),
            taken_from: None,
            device: self.device.clone(),
            slot: self.slot,
            endpoint: self.endpoint(),
            address: self.address,
            mtu: self.mtu,
        }
    }

    /// Its publishes as the API has them.
    pub(super) fn ports(&self) -> Vec<PortMapping> {
        self.rules.iter().map(RuleRecord::mapping).collect()
    }

    /// As the API has it.
    pub(super) fn describe(&self, settings: &Settings) -> Container {
        let (status, pid) = match &self.process {
            None => ("created", 0),
            Some(process) if process.exited => ("exited", 0),
            Some(process) => ("running", process.pid),
        };
        Container {
            name: self.name.clone(),
            id: self.id.clone(),
            hostname: self.hostname.clone(),
            status: status.into(),
            pid,
            netns: self.netns.display().to_string(),
            network: NETWORK.into(),
            ip: self.address,
            prefix_len: settings.subnet.prefix_len(),
            ip6: None,
            mac: self.mac().to_string(),
            gateway: settings.gateway(),
            gateway6: None,
            device: self.device.clone(),
            mtu: self.mtu,
            ports: self.ports(),
            created: self.created,
        }
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
