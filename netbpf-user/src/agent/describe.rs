//! What the agent knows, in the words of the API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::files::HOST_GATEWAY;
use super::network::{Network, Networks};
use super::state::State;
use crate::api::types::{self, Container, End, PortMapping};
use crate::config::{Addressing, GatewayMode, Part};
use crate::spec::{Allowed, transport_name};
use crate::store::{ContainerRecord, Driver, EndpointRecord, ExtraHost, Made, Mode, NetworkRecord, RuleRecord};

impl ContainerRecord {
    /// Its publishes as the API has them.
    pub(super) fn ports(&self) -> Vec<PortMapping> {
        self.rules.iter().map(RuleRecord::mapping).collect()
    }

    /// As the API has it.
    pub(super) fn describe(&self, networks: &Networks) -> Container {
        let (status, pid) = match &self.process {
            None => ("created", 0),
            Some(process) if process.exited => ("exited", 0),
            Some(process) => ("running", process.pid),
        };
        let ends: Vec<End> = self.endpoints.iter().map(|endpoint| self.describe_end(networks, endpoint)).collect();
        // The one for the world stands for the container, where it has one.
        let way_out = self.way_out(networks, true).or(self.way_out(networks, false));
        let name = way_out.or(self.endpoints.first()).map(|endpoint| &endpoint.network);
        let first = ends.iter().find(|end| Some(&end.network) == name).cloned().unwrap_or_default();
        let netns = if self.is_host {
            format!("/proc/{}/ns/net", std::process::id())
        } else {
            self.netns.display().to_string()
        };
        let network = match (&self.shared_with, name) {
            _ if self.is_host => HOST.into(),
            (Some(other), _) => format!("{CONTAINER}{other}"),
            (None, Some(name)) => name.clone(),
            (None, None) => NONE.into(),
        };
        Container {
            name: self.name.clone(),
            id: self.id.clone(),
            hostname: self.hostname.clone(),
            status: status.into(),
            pid,
            netns,
            network,
            ip: first.ip,
            prefix_len: first.prefix_len,
            ip6: first.ip6,
            prefix_len6: first.prefix_len6,
            mac: first.mac,
            gateway: first.gateway,
            gateway6: first.gateway6,
            device: first.device,
            mtu: first.mtu,
            networks: ends,
            ports: self.ports(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_options.clone(),
            extra_hosts: self.extra_hosts.iter().map(ToString::to_string).collect(),
            attached: !self.owns_netns && !self.is_host && self.shared_with.is_none(),
            remove_on_exit: self.remove_on_exit,
            created: self.created,
        }
    }

    fn describe_end(&self, networks: &Networks, endpoint: &EndpointRecord) -> End {
        let network = &networks.of(endpoint).record;
        let Addressing { v4, v6 } = network.addressing;
        let (v4, v6) = (v4.filter(|_| endpoint.has(true)), v6.filter(|_| endpoint.has(false)));
        let is_way_out = |is_ipv4| self.way_out(networks, is_ipv4).is_some_and(|way| way.network == endpoint.network);
        let has_own = network.driver == Driver::Bridge && !endpoint.is_tap;
        End {
            network: endpoint.network.clone(),
            name: endpoint.name.clone(),
            aliases: endpoint.aliases.clone(),
            ip: endpoint.address,
            prefix_len: v4.map(|part| part.subnet.prefix_len()),
            ip6: endpoint.address_v6,
            prefix_len6: v6.map(|part| part.subnet.prefix_len()),
            mac: endpoint.mac().to_string(),
            gateway: v4.filter(|part| network.has_gateway(part)).and_then(|part| ipv4(part.gateway)),
            gateway6: v6.filter(|part| network.has_gateway(part)).and_then(|part| ipv6(part.gateway)),
            default_route: is_way_out(true),
            default_route6: is_way_out(false),
            device: host_device(network, endpoint),
            driver: network.driver.name().into(),
            parent: network.driver.lan().map(|lan| lan.parent.clone()),
            mode: network.driver.lan().map(|lan| lan.mode.name().into()),
            mtu: endpoint.mtu,
            device_kind: has_own.then(|| endpoint.kind.to_string()),
        }
    }
}

/// Name of the host-side device of an end that has one.
fn host_device(network: &NetworkRecord, endpoint: &EndpointRecord) -> String {
    if network.driver == Driver::Bridge { endpoint.device.clone() } else { String::new() }
}

/// What `--network` says instead of a network's name: the host's namespace.
pub(super) const HOST: &str = "host";

/// The same: a namespace without a network.
pub(super) const NONE: &str = "none";

/// The same: this and a container's name, for its namespace.
pub(super) const CONTAINER: &str = "container:";

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

impl std::fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:{HOST_GATEWAY}", self.name),
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
            allowed: Allowed::clone(&self.allowed),
        }
    }
}

impl Network {
    /// As the API has it, with those who are in it.
    pub(super) fn describe(&self, state: &State) -> types::Network {
        let record = &self.record;
        let parts = || record.addressing.parts();
        let members = state.endpoints().filter(|(_, endpoint)| endpoint.network == record.name);
        types::Network {
            name: record.name.clone(),
            id: record.id.clone(),
            driver: record.driver.name().into(),
            subnets: parts().map(|part| part.subnet.to_string()).collect(),
            gateways: parts().filter(|part| record.has_gateway(part)).map(|part| part.gateway.to_string()).collect(),
            ip_ranges: parts().filter(|part| part.range != part.subnet).map(|part| part.range.to_string()).collect(),
            aux_addresses: record.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
            ipv6: record.addressing.v6.is_some(),
            internal: record.internal,
            options: self.options(),
            warnings: state.networks.warnings(record),
            containers: members
                .map(|(container, endpoint)| types::Member {
                    name: container.name.clone(),
                    id: container.id.clone(),
                    ip: endpoint.address,
                    ip6: endpoint.address_v6,
                    mac: endpoint.mac().to_string(),
                    device: host_device(record, endpoint),
                })
                .collect(),
            created: record.created,
        }
    }

    /// The options that would make it as it is.
    fn options(&self) -> std::collections::BTreeMap<String, String> {
        let record = &self.record;
        let Addressing { v4, v6 } = &record.addressing;
        let mode = |part: &Option<Part>| part.map(|part| part.mode).filter(|mode| *mode != GatewayMode::default());
        let snat = |part: &Option<Part>| part.and_then(|part| part.snat).map(|address| address.to_string());
        let set = |is_set: bool, value: &str| is_set.then(|| value.to_owned());
        let switch = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
        let lan = record.driver.lan();
        // What was made of itself would be again.
        let parent = lan.filter(|lan| lan.made != Some(Made::Dummy)).map(|lan| lan.parent.clone());
        let lan_mode = lan.map_or(Mode::Bridge, |lan| lan.mode);
        let options = [
            ("mtu", Some(record.mtu.to_string())),
            ("mode", mode(v4).filter(|_| !record.internal).map(|mode| mode.to_string())),
            ("mode_v6", mode(v6).filter(|_| !record.internal).map(|mode| mode.to_string())),
            ("external_prefix_v6", v6.and_then(|part| part.external).map(|external| external.to_string())),
            ("snat", snat(v4)),
            ("snat_v6", snat(v6)),
            ("isolation", set(!record.isolated, "off")),
            // As the MTU always: what holds without them is for the settings to say, not for the network.
            ("full_cone", Some(switch(record.full_cone)).filter(|_| lan.is_none() && !record.internal)),
            ("clamp_mss", Some(switch(record.clamp_mss)).filter(|_| lan.is_none())),
            ("device", Some(record.device.to_string()).filter(|_| lan.is_none())),
            ("parent", parent),
            (lan_mode.option(), lan.map(|lan| lan.mode.name().to_owned())),
        ];
        options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
