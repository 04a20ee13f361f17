//! The ends that a container has of its networks: which is for the world, and what the kernel is to have of each.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netbpf_common::abi::{Endpoint, EndpointFlags};
use netbpf_common::wire::{Address as _, V4Addr, V6Addr};

use super::network::{Network, Networks};
use super::plan::{Inside, LanEnd, Wanted, WantedEnd};
use crate::config::{GatewayMode, Part};
use crate::store::{ContainerRecord, EndpointRecord};

impl ContainerRecord {
    /// The end by which it sends to the world in a family: the first whose network has a way there.
    pub(super) fn way_out(&self, networks: &Networks, is_ipv4: bool) -> Option<&EndpointRecord> {
        self.endpoints.iter().find(|endpoint| networks.of(endpoint).leads_out(endpoint, is_ipv4))
    }

    /// The end that a publish on an address of the host leads to. What comes by IPv6 reaches a container without it by
    /// translation; the other way round there is none.
    pub(super) fn serving(&self, networks: &Networks, is_ipv4: bool) -> Option<&EndpointRecord> {
        let of_family = |is_ipv4| {
            let serves = |network: &Network, endpoint| network.is_ours() && network.leads_out(endpoint, is_ipv4);
            self.endpoints.iter().find(|endpoint| serves(networks.of(endpoint), endpoint))
        };
        of_family(is_ipv4).or_else(|| of_family(true))
    }

    /// Its network as the plan makes it.
    pub(super) fn wanted(&self, networks: &Networks) -> Wanted {
        Wanted {
            netns: self.netns.clone(),
            made_as: self.made_as(),
            taken_from: None,
            ends: self.ours(networks).map(|endpoint| self.wanted_end(networks, endpoint)).collect(),
            lans: self.lans(networks).collect(),
        }
    }

    /// Name of its namespace, if that goes with it.
    pub(super) fn made_as(&self) -> Option<String> {
        let name = self.netns.file_name().filter(|_| self.owns_netns)?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The ends that the datapath has a part in.
    pub(super) fn ours<'a>(&'a self, networks: &'a Networks) -> impl Iterator<Item = &'a EndpointRecord> {
        self.endpoints.iter().filter(|endpoint| networks.of(endpoint).is_ours())
    }

    /// The ends that lie on devices of the host.
    pub(super) fn lans<'a>(&'a self, networks: &'a Networks) -> impl Iterator<Item = LanEnd> {
        self.endpoints.iter().filter_map(move |endpoint| {
            let lan = networks.of(endpoint).record.driver.lan()?;
            Some(LanEnd {
                netns: self.netns.clone(),
                transit: endpoint.device.clone(),
                network: endpoint.network.clone(),
                parent: lan.parent.clone(),
                mode: lan.mode,
                mac: lan.mode.has_macs().then(|| endpoint.mac()),
                mtu: endpoint.mtu,
                inside: self.inside(networks, endpoint),
            })
        })
    }

    fn wanted_end(&self, networks: &Networks, endpoint: &EndpointRecord) -> WantedEnd {
        let network = networks.of(endpoint);
        WantedEnd {
            device: endpoint.device.clone(),
            slot: endpoint.slot,
            endpoint: endpoint.in_datapath(network),
            inside: self.inside(networks, endpoint),
            reached_by: endpoint.reached_by(network),
            mtu: endpoint.mtu,
            is_tap: endpoint.is_tap,
            kind: endpoint.kind,
        }
    }

    /// Its view of an end.
    pub(super) fn inside(&self, networks: &Networks, endpoint: &EndpointRecord) -> Inside {
        let network = &networks.of(endpoint).record;
        let parts = endpoint.addresses().filter_map(|address| Some((address, network.addressing.of_family(address)?)));
        let is_way_out = |is_ipv4| self.way_out(networks, is_ipv4).is_some_and(|way| way.network == endpoint.network);
        let (mut addresses, mut gateways) = (Vec::new(), Vec::new());
        for (address, part) in parts {
            addresses.push(IpNet::new_assert(address, part.subnet.prefix_len()));
            gateways.extend(network.way_out(part).filter(|_| is_way_out(address.is_ipv4())));
        }
        Inside { name: endpoint.name.clone(), addresses, gateways }
    }
}

impl EndpointRecord {
    /// As the datapath knows it.
    pub(super) fn in_datapath(&self, network: &Network) -> Endpoint {
        Endpoint {
            generation: self.generation,
            ifindex: self.ifindex,
            v4: self.address.map(V4Addr::from).unwrap_or_default(),
            v6: self.address_v6.map(V6Addr::from).unwrap_or_default(),
            mac: self.mac(),
            network: network.record.number,
            mtu: self.mtu as u16,
            flags: if self.is_tap { EndpointFlags::NO_PEER } else { 0 },
        }
    }

    /// The addresses by which the datapath finds it: its own, the one of its link (RFC 4291 appendix A), and the one
    /// that the world knows it by (RFC 6296).
    pub(super) fn reached_by(&self, network: &Network) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.addresses().collect();
        if self.address_v6.is_some() {
            addresses.push(V6Addr::link_local(self.mac()).into());
        }
        addresses.extend(self.outside(network));
        addresses
    }

    /// The address that the world knows it by, where that is another than its own.
    pub(super) fn outside(&self, network: &Network) -> Option<IpAddr> {
        outside(&network.record.addressing.v6?, self.address_v6?)
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
