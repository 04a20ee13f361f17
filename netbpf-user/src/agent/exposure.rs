//! Which port of which container is reached from where.

use std::net::IpAddr;
use std::path::Path;

use netbpf_common::abi::Transport;

use super::Engine;
use super::network::{Network, Networks};
use super::state::State;
use crate::api::types::{Exposure, Origin};
use crate::error::{Error, Result};
use crate::net::namespace::Namespace;
use crate::net::sockets::{OpenSocket, open_sockets};
use crate::spec::{Allowed, transport_name};
use crate::store::{ContainerRecord, EndpointRecord, RuleRecord};

impl Engine {
    /// The ways to the ports of all containers, or of one: to those that are published, and to those that a process listens on.
    pub async fn exposure(&self, container: Option<&str>) -> Result<Vec<Exposure>> {
        let records: Vec<ContainerRecord> = {
            let state = self.state.lock().await;
            match container {
                Some(name) => vec![whose(&state, name)?.clone()],
                None => state.containers.values().filter(|record| record.shared_with.is_none()).cloned().collect(),
            }
        };
        let mut exposed = Vec::new();
        for record in records.iter().filter(|record| !record.is_host) {
            // Of one whose namespace somebody has taken away it is not known, as of a machine of its own; `status` names it.
            let sockets = if record.is_machine() { None } else { listeners_in(record.netns()).await.ok() };
            let state = self.state.lock().await;
            // One that has just gone is exposed to nobody.
            if state.containers.get(&record.name).is_some_and(|now| now.id == record.id) {
                exposed.extend(of_container(&state, record, sockets.as_deref()));
            }
        }
        Ok(exposed)
    }
}

/// Whose network a container has.
fn whose<'a>(state: &'a State, name: &str) -> Result<&'a ContainerRecord> {
    let record = state.container(name)?;
    if record.is_host {
        return Err(Error::Invalid(format!(
            "container {name} has the host's own network: `ss -lntu` on the host shows what is reached there"
        )));
    }
    record.shared_with.as_ref().map_or(Ok(record), |owner| state.container(owner))
}

async fn listeners_in(netns: &Path) -> Result<Vec<OpenSocket>> {
    Namespace::open(netns)?.run(open_sockets).await
}

/// Ports in a row.
#[derive(Clone, Copy)]
struct Ports {
    transport: Transport,
    first: u16,
    last: u16,
}

impl Ports {
    fn of(rule: &RuleRecord) -> Self {
        Self { transport: rule.transport, first: rule.container_port, last: rule.container_port + rule.more }
    }

    /// Those that somebody listens on at an address; unknown for SCTP, whose sockets the kernel does not list here, and in a machine
    /// of its own.
    fn listeners(self, sockets: Option<&[OpenSocket]>, address: IpAddr) -> Option<u32> {
        let open = open_at(sockets?, address);
        let mine =
            open.iter().filter(|it| it.transport == self.transport && (self.first..=self.last).contains(&it.first));
        (self.transport != Transport::Sctp).then_some(mine.count() as u32)
    }
}

/// The ways to a container in whose namespace there are these sockets; none are known of a machine of its own.
fn of_container(state: &State, record: &ContainerRecord, sockets: Option<&[OpenSocket]>) -> Vec<Exposure> {
    let way = |ports: Ports, listeners, from, address, at_port, allowed: &Allowed| Exposure {
        container: record.name.clone(),
        port: ports.first,
        count: u32::from(ports.last - ports.first) + 1,
        protocol: transport_name(ports.transport).into(),
        listeners,
        from,
        address,
        at_port,
        allowed: allowed.clone(),
    };
    let mut exposed = Vec::new();
    for rule in &record.rules {
        let Some(endpoint) = record.serving(&state.networks, rule.host_ip.is_ipv4()) else { continue };
        let (ports, own) = (Ports::of(rule), served_at(endpoint, rule.host_ip));
        let listeners = own.and_then(|own| ports.listeners(sockets, own));
        exposed.push(way(ports, listeners, comers(rule), rule.host_ip, rule.host_port, &rule.allowed));
    }
    for endpoint in &record.endpoints {
        for (address, from) in ways_to(&state.networks, endpoint) {
            let own = served_at(endpoint, address).unwrap_or(address);
            for ports in open_at(sockets.unwrap_or_default(), own) {
                let listeners = Some(1);
                exposed.push(way(ports, listeners, from.clone(), address, ports.first, &Allowed::default()));
            }
        }
    }
    exposed.sort_by(|one, other| (one.port, &one.protocol).cmp(&(other.port, &other.protocol)));
    exposed
}

/// The address of an end that a publish leads to: IPv6 clients reach one without IPv6 by translation.
fn served_at(endpoint: &EndpointRecord, host_ip: IpAddr) -> Option<IpAddr> {
    let of_family = endpoint.addresses().find(|own| own.is_ipv4() == host_ip.is_ipv4());
    of_family.or_else(|| endpoint.addresses().next())
}

/// Who can come by a publish, lists apart.
fn comers(rule: &RuleRecord) -> Vec<Origin> {
    let mut from = vec![Origin::Host];
    if !rule.host_ip.is_loopback() {
        from.push(Origin::World);
        if rule.allowed.interfaces.is_empty() {
            from.push(Origin::Containers);
        }
    }
    from
}

/// The addresses by which an end is reached without a publish, and from where.
fn ways_to(networks: &Networks, endpoint: &EndpointRecord) -> Vec<(IpAddr, Vec<Origin>)> {
    let network = networks.of(endpoint);
    if !network.is_ours() {
        return endpoint.addresses().map(|own| (own, vec![Origin::Link])).collect();
    }
    let mut near = vec![Origin::Host, Origin::Network(network.record.name.clone())];
    let is_open = |network: &Network| !network.record.isolated && !network.record.internal;
    if is_open(network) {
        let others = networks.ours().filter(|other| is_open(other) && other.record.name != network.record.name);
        near.extend(others.map(|other| Origin::Network(other.record.name.clone())));
    }
    let is_reachable = |address: IpAddr| {
        let part = network.record.addressing.of_family(address);
        part.is_some_and(|part| part.mode.is_reachable() && part.external.is_none())
    };
    let own = endpoint.addresses();
    let mut ways: Vec<(IpAddr, Vec<Origin>)> = own
        .map(|own| {
            let world = is_reachable(own).then_some(Origin::World);
            (own, near.iter().cloned().chain(world).collect())
        })
        .collect();
    near.push(Origin::World);
    ways.extend(endpoint.outside(network).map(|outside| (outside, near)));
    ways
}

/// The ports that somebody listens on at an address of the container's own, each by itself.
fn open_at(sockets: &[OpenSocket], own: IpAddr) -> Vec<Ports> {
    let takes = |socket: &&OpenSocket| {
        socket.address == own || socket.address.is_unspecified() && socket.address.is_ipv4() == own.is_ipv4()
    };
    let mut ports: Vec<(Transport, u16)> =
        sockets.iter().filter(takes).map(|socket| (socket.transport, socket.port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|(transport, port)| Ports { transport, first: port, last: port }).collect()
}
