//! Publishing and unpublishing, live.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::Transport;

use super::Engine;
use super::memory::SlimDown;
use super::reserve::release;
use super::rules::withdraw;
use crate::api::types::PortMapping;
use crate::error::{Error, Result};
use crate::spec::PublishSpec;
use crate::store::{Changes, RuleRecord};

impl Engine {
    /// Publishes ports of a container: all of the SPECs or none. Returns all that it publishes then.
    pub async fn publish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        let _slim = SlimDown::after(specs.len());
        let specs = super::check::specs(specs, &[])?;
        let mut state = self.change().await?;
        let mut record = state.container(name)?.clone();
        let rules = self.reserve(&mut state, &record, &specs).await?;
        record.rules.extend(rules.clone());
        let published =
            self.put_in_force(&state, &record, &rules).and_then(|()| self.store.save(&Changes::from(&record)));
        if let Err(error) = published {
            release(&mut state, &rules);
            self.withdraw_reserved(&state, &rules);
            return Err(error);
        }
        let ports = record.ports();
        state.containers.insert(name.into(), record);
        Ok(ports)
    }

    /// Takes publishes back, whomever they are for: all of the SPECs or none. Returns what remains.
    pub async fn unpublish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        let _slim = SlimDown::after(specs.len());
        let parsed = super::check::specs(specs, &[])?;
        let mut state = self.change().await?;
        let mut record = state.container(name)?.clone();
        let named = Named::new(&parsed);
        let (withdrawn, remaining): (Vec<RuleRecord>, Vec<RuleRecord>) =
            record.rules.iter().cloned().partition(|rule| named.has(rule));
        if let Some(missing) = named.unmatched(&withdrawn) {
            return Err(Error::NotFound(format!(
                "container {name} has no publish '{}': `netbpf port {name}` lists them",
                specs[missing]
            )));
        }
        record.rules = remaining;
        self.store.save(&Changes::from(&record))?;
        release(&mut state, &withdrawn);
        let ports = record.ports();
        state.containers.insert(name.into(), record);
        withdraw(&self.datapath, &state, &withdrawn)?;
        Ok(ports)
    }
}

/// What tells a publish from the others of a container: transport, address of the host, host ports, container ports.
type Identity = (Transport, IpAddr, (u16, u16), (u16, u16));

fn identity(rule: &RuleRecord) -> Identity {
    let container_ports = (rule.container_port, rule.container_port + rule.more);
    (rule.transport, rule.host_ip, (rule.host_port, rule.last_port()), container_ports)
}

/// The publishes that SPECs name. One with a host port names one publish, or without an address of the host that of each family;
/// one without a host port, every publish of its container ports.
struct Named<'a> {
    specs: &'a [PublishSpec],
    exact: HashSet<Identity>,
    loose: Vec<&'a PublishSpec>,
}

impl<'a> Named<'a> {
    fn new(specs: &'a [PublishSpec]) -> Self {
        let loose = specs.iter().filter(|spec| spec.host_port.is_none()).collect();
        Self { specs, exact: specs.iter().flat_map(Self::exact).collect(), loose }
    }

    /// None for a SPEC without a host port.
    fn exact(spec: &PublishSpec) -> impl Iterator<Item = Identity> + use<> {
        let &PublishSpec { host_ip, host_port, container_port, transport, .. } = spec;
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = host_ip.map_or(all.map(Some), |address| [Some(address), None]);
        let named = addresses.into_iter().flatten();
        named.filter_map(move |address| Some((transport, address, host_port?, container_port)))
    }

    fn is_loosely(spec: &PublishSpec, rule: &RuleRecord) -> bool {
        spec.host_port.is_none()
            && spec.transport == rule.transport
            && spec.container_port == identity(rule).3
            && spec.host_ip.is_none_or(|address| address == rule.host_ip)
    }

    fn has(&self, rule: &RuleRecord) -> bool {
        self.exact.contains(&identity(rule)) || self.loose.iter().any(|spec| Self::is_loosely(spec, rule))
    }

    /// The place of a SPEC that names none of these publishes.
    fn unmatched(&self, rules: &[RuleRecord]) -> Option<usize> {
        let found: HashSet<Identity> = rules.iter().map(identity).collect();
        self.specs.iter().position(|spec| match spec.host_port {
            Some(_) => !Self::exact(spec).any(|exact| found.contains(&exact)),
            None => !rules.iter().any(|rule| Self::is_loosely(spec, rule)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Audience;

    #[test]
    fn a_spec_without_host_port_names_every_publish_of_its_container_port() {
        let rule = RuleRecord {
            rule: 1,
            host_ip: Ipv4Addr::LOCALHOST.into(),
            host_port: 8080,
            container_port: 80,
            more: 0,
            transport: Transport::Tcp,
            allowed: Audience::default(),
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
            assert_eq!(found.unmatched(std::slice::from_ref(&rule)).is_none(), named, "{spec}");
        }
    }

    #[test]
    fn a_spec_without_an_address_names_the_publishes_of_both_families() {
        let rule = |host_ip: IpAddr| RuleRecord {
            rule: 1,
            host_ip,
            host_port: 8080,
            container_port: 80,
            more: 0,
            transport: Transport::Tcp,
            allowed: Audience::default(),
        };
        let both = [rule(Ipv4Addr::UNSPECIFIED.into()), rule(Ipv6Addr::UNSPECIFIED.into())];
        for (spec, named) in [
            ("8080:80", [true, true]),
            ("80", [true, true]),
            ("0.0.0.0:8080:80", [true, false]),
            ("[::]:8080:80", [false, true]),
            ("[::1]:8080:80", [false, false]),
        ] {
            let specs = [spec.parse().unwrap()];
            let found = Named::new(&specs);
            assert_eq!(both.each_ref().map(|rule| found.has(rule)), named, "{spec}");
            assert_eq!(found.unmatched(&both).is_none(), named != [false, false], "{spec}");
            // One that has been taken back in one family is still there in the other.
            assert_eq!(found.unmatched(&both[1..]).is_none(), named[1], "{spec}");
        }
    }
}
