//! From SPECs to rules: which host ports a container gets, and who stands in the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::Transport;

use super::network::Networks;
use super::sockets::{in_the_way, refuse};
use super::state::State;
use super::{Engine, allowed};
use crate::error::{Error, Result};
use crate::net::address::is_link_local;
use crate::net::sockets::{OpenSocket, open_sockets};
use crate::net::{self, sysctl};
use crate::spec::{Allowed, Host, PublishSpec, transport_name};
use crate::store::{ContainerRecord, RuleRecord};

impl Engine {
    /// Turns SPECs into rules and notes them as taken; on a refusal none is.
    pub(super) async fn reserve(
        &self,
        state: &mut State,
        container: &ContainerRecord,
        specs: &[PublishSpec],
    ) -> Result<Vec<RuleRecord>> {
        if let Some(owner) = container.shared_with.as_ref().filter(|_| !specs.is_empty()) {
            return Err(Error::Invalid(format!(
                "container {} has the network of container {owner}: publish on that one",
                container.name
            )));
        }
        let bound = if specs.is_empty() { Vec::new() } else { open_sockets()? };
        let has_ipv6 = net::has_ipv6();
        let mut rules = Vec::with_capacity(specs.len());
        for spec in specs {
            match self.reserve_one(state, container, spec, &bound, has_ipv6).await {
                Ok(reserved) => rules.extend(reserved),
                Err(error) => {
                    release(state, &rules);
                    return Err(error);
                }
            }
        }
        Ok(rules)
    }

    /// The rules of one SPEC: one for each family that it is published on, under the same host ports.
    async fn reserve_one(
        &self,
        state: &mut State,
        container: &ContainerRecord,
        spec: &PublishSpec,
        bound: &[OpenSocket],
        has_ipv6: bool,
    ) -> Result<Vec<RuleRecord>> {
        allowed::check(spec, &state.host)?;
        let addresses = host_addresses(spec, container, &state.networks, has_ipv6)?;
        for address in &addresses {
            self.check_address(state, *address).await?;
        }
        let (container_port, last) = spec.container_port;
        let transport = spec.transport;
        if transport == Transport::Sctp && spec.host_port.map(|(first, _)| first) != Some(container_port) {
            return Err(Error::Invalid(format!(
                "SCTP ports cannot be translated (its checksum covers them): publish {container_port}:{container_port}/sctp"
            )));
        }
        let wanted = |host_ip: IpAddr, host_port| RuleRecord {
            rule: 0,
            host_ip,
            host_port,
            container_port,
            more: last - container_port,
            transport,
            allowed: Allowed {
                allow: spec.allowed.prefixes(host_ip.is_ipv4()).collect(),
                interfaces: spec.allowed.interfaces.clone(),
            }
            .into(),
        };
        let first = match spec.host_port {
            Some((first, last)) => {
                let ports = (first, last);
                self.check_ports(spec, ports)?;
                for address in &addresses {
                    check_free(state, container, &wanted(*address, first), bound)?;
                }
                first
            }
            None => {
                let wanted: Vec<_> = addresses.iter().map(|address| wanted(*address, 0)).collect();
                self.free_ports(state, &wanted, bound)?
            }
        };
        let mut rules = Vec::with_capacity(addresses.len());
        for address in addresses {
            let number = state.publishes.free_rule().inspect_err(|_| release(state, &rules))?;
            let rule = RuleRecord { rule: number, ..wanted(address, first) };
            state.publishes.insert(&rule);
            rules.push(rule);
        }
        Ok(rules)
    }

    fn check_ports(&self, spec: &PublishSpec, (first, last): (u16, u16)) -> Result<()> {
        let (container_first, container_last) = spec.container_port;
        if last - first != container_last - container_first {
            return Err(Error::Invalid(format!(
                "host ports {first}-{last} are not as many as container ports {container_first}-{container_last}: give \
                 ranges of equal length"
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
        Ok(())
    }

    async fn check_address(&self, state: &State, address: IpAddr) -> Result<()> {
        if address.is_unspecified() || is_own_loopback(address) {
            return Ok(());
        }
        if address.is_loopback() {
            return Err(Error::Invalid(format!(
                "address {address} cannot be published on: of 127.0.0.0/8 only 127.0.0.1 can"
            )));
        }
        if is_link_local(address) {
            return Err(Error::Invalid(format!(
                "address {address} cannot be published on: it is of one link alone; publish on a global or unique local \
                 one, or on [::] for all of them"
            )));
        }
        // Asks the kernel when it is not known to be.
        let is_local = state.host.locals.contains_key(&address)
            || self.netlink.addresses().await?.iter().any(|local| local.address == address);
        if is_local {
            return Ok(());
        }
        let family = if address.is_ipv4() { 4 } else { 6 };
        Err(Error::Invalid(format!(
            "address {address} is none of this host's: publish on one that `ip -{family} address` shows, or leave it out"
        )))
    }

    /// The first of as many free host ports in a row as a publish needs, in all its families, from the host's ephemeral range.
    fn free_ports(&self, state: &State, wanted: &[RuleRecord], bound: &[OpenSocket]) -> Result<u16> {
        let (first, last) = sysctl::ephemeral_ports()?;
        let size = u32::from(last - first) + 1;
        // Anywhere in the range, so that a port just given up is not given to the next at once.
        let start = rand::random_range(0..size);
        let free = |port: u16| {
            wanted.iter().all(|rule| {
                let Some(end) = port.checked_add(rule.more).filter(|end| *end <= last) else { return false };
                !self.settings.nat_ports.overlaps(port, end)
                    && state.publishes.holder(rule.transport, rule.host_ip, port, end).is_none()
                    && in_the_way(bound, &RuleRecord { host_port: port, ..rule.clone() }).is_none()
            })
        };
        (0..size).map(|step| first + ((start + step) % size) as u16).find(|port| free(*port)).ok_or_else(|| {
            let (more, transport) = wanted.first().map_or((0, Transport::Tcp), |rule| (rule.more, rule.transport));
            Error::Exhausted(format!(
                "no {} free {} host ports in a row in {first}-{last} (net.ipv4.ip_local_port_range) outside of {}: \
                 name the host port",
                u32::from(more) + 1,
                transport_name(transport),
                self.settings.nat_ports
            ))
        })
    }
}

/// Forgets rules.
pub(super) fn release(state: &mut State, rules: &[RuleRecord]) {
    for rule in rules {
        state.publishes.remove(rule);
    }
}

/// Refuses host ports that another container or a process of the host has. What holds a port now is refused before its
/// packets are touched.
fn check_free(state: &State, asking: &ContainerRecord, rule: &RuleRecord, bound: &[OpenSocket]) -> Result<()> {
    if let Some(holder) = state.publishes.holder(rule.transport, rule.host_ip, rule.host_port, rule.last_port()) {
        let has_it = |record: &&ContainerRecord| record.rules.iter().any(|it| it.rule == holder.rule);
        // What nobody has yet was asked for a moment ago, by the same request.
        let record = state.containers.values().find(has_it).unwrap_or(asking);
        return Err(holder.refuse(rule.transport, &record.name));
    }
    match in_the_way(bound, rule) {
        Some(held) => Err(refuse(held)),
        None => Ok(()),
    }
}

/// The loopback addresses that can be published on.
fn is_own_loopback(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// The addresses of the host that a SPEC means, one for each family. What comes by IPv6 reaches a container without it by
/// translation; the other way round there is none.
fn host_addresses(
    spec: &PublishSpec,
    container: &ContainerRecord,
    networks: &Networks,
    has_ipv6: bool,
) -> Result<Vec<IpAddr>> {
    let served = |is_ipv4| container.serving(networks, is_ipv4);
    let mut lans = container.endpoints.iter().filter(|endpoint| !networks.of(endpoint).is_ours());
    if served(true).or(served(false)).is_none()
        && let Some(endpoint) = lans.next()
    {
        let driver = networks.of(endpoint).record.driver.name();
        return Err(Error::Invalid(format!(
            "nothing of container {} can be published: what {driver} connects bypasses the host and is reached at its own \
             address; connect it to a network of the driver bridge that is not internal",
            container.name
        )));
    }
    if served(true).or(served(false)).is_none() {
        return Err(Error::Invalid(format!(
            "nothing of container {} can be published: it is in no network with a way out; connect it to one that is \
             not internal",
            container.name
        )));
    }
    let has_v4 = served(true).is_some_and(|endpoint| endpoint.has(true));
    match spec.host_ip {
        None => {
            let v4 = has_v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let all = v4.into_iter().chain(has_ipv6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
            let addresses: Vec<IpAddr> = all.filter(|all| spec.allowed.has_family(all.is_ipv4())).collect();
            if addresses.is_empty() {
                return Err(Error::Invalid(format!(
                    "publish {spec}: nobody that it allows can come to container {}: allow a prefix of the other family",
                    container.name
                )));
            }
            Ok(addresses)
        }
        Some(address) if address.is_ipv4() && !has_v4 => Err(Error::Invalid(format!(
            "{} cannot be published on for container {}, which has no IPv4 address: publish on an IPv6 address, or on [::] \
             for all of them",
            Host(address),
            container.name
        ))),
        Some(address) if address.is_ipv6() && !has_ipv6 => Err(Error::Unsupported(format!(
            "{} cannot be published on: the kernel has no IPv6; publish on an IPv4 address",
            Host(address)
        ))),
        Some(address) => Ok(vec![address]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::network::Network;
    use crate::config::{Addressing, Settings};

    fn addresses(spec: &str, addresses: &[&str], has_ipv6: bool) -> std::result::Result<Vec<String>, String> {
        let spec: PublishSpec = spec.parse().unwrap();
        let mut container = ContainerRecord::example("web");
        let endpoint = &mut container.endpoints[0];
        (endpoint.address, endpoint.address_v6) = (None, None);
        endpoint.set_addresses(&addresses.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        let settings = Settings { ipv6: true, ..Settings::default() };
        let mut networks = Networks::default();
        let addressing = Addressing::new(&settings, [1; 5]).unwrap();
        networks.insert(Network::of_settings(&settings, addressing, None));
        let meant = host_addresses(&spec, &container, &networks, has_ipv6);
        let meant = meant.map_err(|error| error.to_string())?;
        Ok(meant.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn without_an_address_of_the_host_both_families_are_meant() {
        let both = ["172.30.0.2", "fd00::2"];
        assert_eq!(addresses("8080:80", &both, true).unwrap(), ["0.0.0.0", "::"]);
        assert_eq!(addresses("8080:80", &both[..1], true).unwrap(), ["0.0.0.0", "::"], "translated");
        assert_eq!(addresses("8080:80", &both[1..], true).unwrap(), ["::"]);
        assert_eq!(addresses("8080:80", &both[..1], false).unwrap(), ["0.0.0.0"]);
    }

    #[test]
    fn an_address_of_the_host_means_its_family_alone() {
        let both = ["172.30.0.2", "fd00::2"];
        assert_eq!(addresses("0.0.0.0:8080:80", &both, true).unwrap(), ["0.0.0.0"]);
        assert_eq!(addresses("[::]:8080:80", &both[..1], true).unwrap(), ["::"]);
        let refused = addresses("0.0.0.0:8080:80", &both[1..], true).unwrap_err();
        assert!(refused.contains("web") && refused.contains("[::]"), "{refused}");
        assert!(addresses("[::1]:8080:80", &both[..1], false).unwrap_err().contains("no IPv6"));
    }
}
