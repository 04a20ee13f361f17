//! What the agent knows: desired state, and its own copy of what it has told the datapath.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netbpf_common::abi::ENDPOINT_SLOTS;
use netbpf_common::wire::{Mac, V4Addr, V6Addr};

use super::network::Networks;
use super::publishes::Publishes;
use crate::error::{Error, Result};
use crate::store::{ContainerRecord, EndpointRecord};

/// Everything that a request may change. One lock guards it: requests are served one after the other.
#[derive(Debug)]
pub(super) struct State {
    pub(super) networks: Networks,
    pub(super) containers: BTreeMap<String, ContainerRecord>,
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
    /// Devices that networks lie on and that are there, by name.
    pub(super) parents: BTreeMap<String, u32>,
    /// What could not be done, one line each.
    pub(super) problems: Vec<String>,
}

/// A device to the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UplinkState {
    pub(super) name: String,
    /// Whether its packets have no Ethernet header.
    pub(super) is_bare: bool,
    /// The addresses that packets leave with.
    pub(super) v4: Option<V4Addr>,
    pub(super) v6: Option<V6Addr>,
    pub(super) is_attached: bool,
    /// Its MAC address.
    pub(super) mac: Option<Mac>,
    /// Whether it is served ahead of the host's stack, or why not; nothing where that is not wanted or was not tried yet.
    pub(super) express: Option<std::result::Result<(), String>>,
}

impl State {
    /// A container by its name.
    pub(super) fn container(&self, name: &str) -> Result<&ContainerRecord> {
        self.containers
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("no container '{}': `netbpf ps` lists them", name.escape_debug())))
    }

    /// All ends of networks, with their containers.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&ContainerRecord, &EndpointRecord)> {
        self.containers.values().flat_map(|record| record.endpoints.iter().map(move |endpoint| (record, endpoint)))
    }

    /// An endpoint slot in no use.
    pub(super) fn free_slot(&self) -> Result<u32> {
        let used: BTreeSet<u32> = self.endpoints().map(|(_, endpoint)| endpoint.slot).collect();
        // From above: those of the low numbers that the kernel gives to devices are for taps.
        (1..ENDPOINT_SLOTS).rev().find(|slot| !used.contains(slot)).ok_or_else(|| {
            Error::Exhausted(format!("all {} endpoints are in use: remove containers", ENDPOINT_SLOTS - 1))
        })
    }
}
