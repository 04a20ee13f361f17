//! Publishing and unpublishing: from SPECs to rules, and rules into the datapath.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use netbpf_common::abi::{PublishKey, PublishedPort, Rule, Transport, generation};
use netbpf_common::wire::V4Addr;

use super::Engine;
use super::sockets::{in_the_way, refuse};
use super::state::State;
use crate::api::types::PortMapping;
use crate::datapath::Datapath;
use crate::error::{Error, Result};
use crate::net::sockets::{OpenSocket, open_sockets};
use crate::net::sysctl;
use crate::spec::{PublishSpec, transport_name};
use crate::store::{ContainerRecord, RuleRecord};

impl Engine {
    /// Publishes ports of a container: all of the SPECs or none. Returns all that it publishes then.
    pub async fn publish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        let specs = super::check::specs(specs, &[])?;
        let mut state = self.change().await?;
        let mut record = state.container(name)?.clone();
        let rules = self.reserve(&mut state, name, &specs).await?;
        record.rules.extend(&rules);
        let published =
            self.put_in_force(&state, &record, &rules).and_then(|()| self.store.save(&state.instance, Some(&record)));
        if let Err(error) = published {
            release(&mut state, &rules);
            self.withdraw_reserved(&state, &rules);
            return Err(error);
        }
        let ports = record.ports();
        state.containers.insert(name.into(), record);
        Ok(ports)
    }

    /// Takes publishes back: all of the SPECs or none. Returns what remains.
    pub async fn unpublish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        let parsed = super::check::specs(specs, &[])?;
        let mut state = self.change().await?;
        let mut record = state.container(name)?.clone();
        let named = Named::new(&parsed);
        let (withdrawn, remaining): (Vec<RuleRecord>, Vec<RuleRecord>) =
            record.rules.iter().partition(|rule| named.has(rule));
        if let Some(missing) = named.unmatched(&withdrawn) {
            return Err(Error::NotFound(format!(
                "container {name} has no publish '{}': `netbpf port {name}` lists them",
                specs[missing]
            )));
        }
        record.rules = remaining;
        self.store.save(&state.instance, Some(&record))?;
        release(&mut state, &withdrawn);
        let ports = record.ports();
        state.containers.insert(name.into(), record);
        withdraw(&self.datapath, &state, &withdrawn)?;
        Ok(ports)
    }

    /// Turns SPECs into rules and notes them as taken; on a refusal none is.
    pub(super) async fn reserve(
        &self,
        state: &mut State,
        container: &str,
        specs: &[PublishSpec],
    ) -> Result<Vec<RuleRecord>> {
        let bound = if specs.is_empty() { Vec::new() } else { open_sockets()? };
        let mut rules = Vec::with_capacity(specs.len());
        for spec in specs {
            match self.reserve_one(state, container, spec, &bound).await {
                Ok(rule) => rules.push(rule),
                Err(error) => {
                    release(state, &rules);
                    return Err(error);
                }
            }
        }
        Ok(rules)
    }

    async fn reserve_one(
        &self,
        state: &mut State,
        container: &str,
        spec: &PublishSpec,
        bound: &[OpenSocket],
    ) -> Result<RuleRecord> {
        let host_ip = spec.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if host_ip.is_loopback() && host_ip != Ipv4Addr::LOCALHOST {
            return Err(Error::Invalid(format!(
                "address {host_ip} cannot be published on: of 127.0.0.0/8 only 127.0.0.1 can"
            )));
        }
        if !host_ip.is_unspecified() && !self.is_local(state, host_ip).await? {
            return Err(Error::Invalid(format!(
                "address {host_ip} is none of this host's: publish on one that `ip -4 address` shows, or leave it out"
            )));
        }
        let (container_port, last) = spec.container_port;
        let more = last - container_port;
        if spec.transport == Transport::Sctp && spec.host_port.map(|(first, _)| first) != Some(container_port) {
            return Err(Error::Invalid(format!(
                "SCTP ports cannot be translated (its checksum covers them): publish {container_port}:{container_port}/sctp"
            )));
        }
        let mut rule = RuleRecord {
            rule: state.publishes.free_rule()?,
            host_ip,
            host_port: 0,
            container_port,
            more,
            transport: spec.transport,
        };
        rule.host_port = match spec.host_port {
            Some((first, last)) => {
                if last - first != more {
                    return Err(Error::Invalid(format!(
                        "host ports {first}-{last} are not as many as container ports {}-{}: give ranges of equal length",
                        spec.container_port.0, spec.container_port.1
                    )));
                }
                let nat = self.settings.nat_ports;
                if nat.overlaps(first, last) {
                    return Err(Error::Conflict(format!(
                        "host port {} is in the range that masquerading uses ({nat}): choose another, \
                         or move the range with nat_ports in the agent's settings",
                        first.max(nat.first)
                    )));
                }
                if let Some(holder) = state.publishes.holder(spec.transport, host_ip, first, last) {
                    return Err(holder.refuse(spec.transport));
                }
                // What holds the port now is refused before its packets are touched.
                if let Some(held) = in_the_way(bound, &RuleRecord { host_port: first, ..rule }) {
                    return Err(refuse(held));
                }
                first
            }
            None => self.free_ports(state, rule, bound)?,
        };
        state.publishes.insert(container, &rule);
        Ok(rule)
    }

    /// Whether an address is one of the host's; asks the kernel when it is not known to be.
    async fn is_local(&self, state: &State, address: Ipv4Addr) -> Result<bool> {
        Ok(address.is_loopback()
            || state.host.locals.contains_key(&address)
            || self.netlink.addresses().await?.iter().any(|local| local.address == address))
    }

    /// The first of as many free host ports in a row as a publish needs, from the host's ephemeral range.
    fn free_ports(&self, state: &State, rule: RuleRecord, bound: &[OpenSocket]) -> Result<u16> {
        let (first, last) = sysctl::ephemeral_ports()?;
        let size = u32::from(last - first) + 1;
        // Anywhere in the range, so that a port just given up is not given to the next at once.
        let start = rand::random_range(0..size);
        let free = |port: u16| {
            let Some(end) = port.checked_add(rule.more).filter(|end| *end <= last) else { return false };
            !self.settings.nat_ports.overlaps(port, end)
                && state.publishes.holder(rule.transport, rule.host_ip, port, end).is_none()
                && in_the_way(bound, &RuleRecord { host_port: port, ..rule }).is_none()
        };
        (0..size).map(|step| first + ((start + step) % size) as u16).find(|port| free(*port)).ok_or_else(|| {
            Error::Exhausted(format!(
                "no {} free {} host ports in a row in {first}-{last} (net.ipv4.ip_local_port_range) outside of {}: \
                 name the host port",
                u32::from(rule.more) + 1,
                transport_name(rule.transport),
                self.settings.nat_ports
            ))
        })
    }

    /// Tells the datapath about reserved rules, and then looks again whether a process of the host holds one of the ports:
    /// in this order, because from then on the bind hooks keep new ones away.
    pub(super) fn put_in_force(&self, state: &State, record: &ContainerRecord, rules: &[RuleRecord]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        write_rules(&self.datapath, record, rules)?;
        write_ports(&self.datapath, state, rules)?;
        self.datapath.bump(generation::PUBLISH_EPOCH)?;
        let bound = open_sockets()?;
        match rules.iter().find_map(|rule| in_the_way(&bound, rule)) {
            Some(held) => Err(refuse(held)),
            None => Ok(()),
        }
    }

    /// Takes rules out of the datapath again, on the way to reporting another error.
    pub(super) fn withdraw_reserved(&self, state: &State, rules: &[RuleRecord]) {
        if let Err(error) = withdraw(&self.datapath, state, rules) {
            tracing::warn!("while undoing: {error}");
        }
    }
}

/// Forgets rules.
pub(super) fn release(state: &mut State, rules: &[RuleRecord]) {
    for rule in rules {
        state.publishes.remove(rule);
    }
}

/// Takes rules that have been released out of the datapath.
pub(super) fn withdraw(datapath: &Datapath, state: &State, rules: &[RuleRecord]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    write_ports(datapath, state, rules)?;
    for rule in rules.iter().filter(|rule| !rule.is_wildcard()) {
        for port in rule.ports() {
            datapath.maps.published.remove(PublishKey::new(rule.host_ip.into(), rule.transport, port))?;
        }
    }
    end_rules(datapath, &rules.iter().map(|rule| rule.rule).collect::<Vec<_>>())?;
    datapath.bump(generation::PUBLISH_EPOCH).map(drop)
}

/// The rule as the datapath knows it.
pub(super) fn rule(record: &ContainerRecord, rule: &RuleRecord) -> Rule {
    Rule {
        endpoint: record.slot,
        generation: record.generation,
        host_port: rule.host_port,
        container_port: rule.container_port,
    }
}

fn write_rules(datapath: &Datapath, record: &ContainerRecord, rules: &[RuleRecord]) -> Result<()> {
    let numbers: Vec<u32> = rules.iter().map(|rule| rule.rule).collect();
    let values: Vec<Rule> = rules.iter().map(|each| rule(record, each)).collect();
    datapath.maps.rules.set_all(&numbers, &values)?;
    bump_rules(datapath, &numbers)
}

/// Ends the flows of rules that no port leads to any more. The rule itself goes last: one that is still there after a
/// crash is ended by the next start.
pub(super) fn end_rules(datapath: &Datapath, numbers: &[u32]) -> Result<()> {
    bump_rules(datapath, numbers)?;
    // Last, so that rules that are there tell the next agent what this one has not ended.
    datapath.maps.rules.set_all(numbers, &vec![Rule::default(); numbers.len()])?;
    // Who read a rule between the two has stamped a flow with the generation of the first.
    bump_rules(datapath, numbers)
}

fn bump_rules(datapath: &Datapath, numbers: &[u32]) -> Result<()> {
    let generations = &datapath.maps.generations;
    let indexes: Vec<u32> = numbers.iter().map(|number| generation::FIRST_RULE + number).collect();
    let next: Result<Vec<u32>> =
        indexes.iter().map(|index| Ok(generations.get(*index)?.unwrap_or(0).wrapping_add(1))).collect();
    generations.set_all(&indexes, &next?)
}

/// Writes what `state` says of every port of the rules.
fn write_ports(datapath: &Datapath, state: &State, rules: &[RuleRecord]) -> Result<()> {
    let ports = rules.iter().flat_map(|rule| rule.ports().map(|port| (rule.transport, port)));
    let (indexes, values): (Vec<u32>, Vec<PublishedPort>) =
        ports.map(|(transport, port)| (transport.port_index(port), state.publishes.port(transport, port))).unzip();
    let (keys, numbers): (Vec<PublishKey<V4Addr>>, Vec<u32>) = rules
        .iter()
        .filter(|rule| !rule.is_wildcard() && state.publishes.has_rule(rule.rule))
        .flat_map(|rule| {
            rule.ports().map(|port| (PublishKey::new(rule.host_ip.into(), rule.transport, port), rule.rule))
        })
        .unzip();
    // The hash before the array that sends lookups to it.
    datapath.maps.published.set_all(&keys, &numbers)?;
    datapath.maps.ports.set_all(&indexes, &values)
}

/// What tells a publish from the others of a container: transport, address of the host, host ports, container ports.
type Identity = (Transport, Ipv4Addr, (u16, u16), (u16, u16));

fn identity(rule: &RuleRecord) -> Identity {
    let container_ports = (rule.container_port, rule.container_port + rule.more);
    (rule.transport, rule.host_ip, (rule.host_port, rule.last_port()), container_ports)
}

/// The publishes that SPECs name. One with a host port names one publish; one without, every publish of its container
/// ports.
struct Named<'a> {
    specs: &'a [PublishSpec],
    exact: HashSet<Identity>,
}

impl<'a> Named<'a> {
    fn new(specs: &'a [PublishSpec]) -> Self {
        Self { specs, exact: specs.iter().filter_map(Self::exact).collect() }
    }

    fn exact(spec: &PublishSpec) -> Option<Identity> {
        let host_ip = spec.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Some((spec.transport, host_ip, spec.host_port?, spec.container_port))
    }

    fn is_loosely(spec: &PublishSpec, rule: &RuleRecord) -> bool {
        spec.host_port.is_none()
            && spec.transport == rule.transport
            && spec.container_port == identity(rule).3
            && spec.host_ip.is_none_or(|address| address == rule.host_ip)
    }

    fn has(&self, rule: &RuleRecord) -> bool {
        self.exact.contains(&identity(rule))
            || self.exact.len() < self.specs.len() && self.specs.iter().any(|spec| Self::is_loosely(spec, rule))
    }

    /// The place of a SPEC that names none of these publishes.
    fn unmatched(&self, rules: &[RuleRecord]) -> Option<usize> {
        let found: HashSet<Identity> = rules.iter().map(identity).collect();
        self.specs.iter().position(|spec| match Self::exact(spec) {
            Some(exact) => !found.contains(&exact),
            None => !rules.iter().any(|rule| Self::is_loosely(spec, rule)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_host_port_names_every_publish_of_its_container_port() {
        let rule = RuleRecord {
            rule: 1,
            host_ip: Ipv4Addr::LOCALHOST,
            host_port: 8080,
            container_port: 80,
            more: 0,
            transport: Transport::Tcp,
        };
        for (spec, named) in [
            ("80", true),
            ("127.0.0.1:8080:80", true),
            ("127.0.0.1::80", true),
            ("8080:80", false),
            ("80/udp", false),
            ("127.0.0.1:8081:80", false),
        ] {
            let specs = [spec.parse().unwrap()];
            let found = Named::new(&specs);
            assert_eq!(found.has(&rule), named, "{spec}");
            assert_eq!(found.unmatched(&[rule]).is_none(), named, "{spec}");
        }
    }
}
