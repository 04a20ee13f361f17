//! Rules in the datapath: put in force, withdrawn, and brought to what the store says.

use std::collections::{BTreeMap, HashMap};

use netbpf_common::abi::{PublishKey, PublishedPort, Rule, generation};
use netbpf_common::wire::{V4Addr, V6Addr};

use super::network::Networks;
use super::sockets::{in_the_way, refuse};
use super::state::State;
use super::{Engine, allowed};
use crate::datapath::{Datapath, InFamily};
use crate::error::Result;
use crate::net::sockets::open_sockets;
use crate::store::{ContainerRecord, RuleRecord};

impl Engine {
    /// Tells the datapath about reserved rules, and then looks again whether a process of the host holds one of the ports:
    /// in this order, because from then on the bind hooks keep new ones away.
    pub(super) fn put_in_force(&self, state: &State, record: &ContainerRecord, rules: &[RuleRecord]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        allowed::let_in::<V4Addr>(&self.datapath, &state.host, rules)?;
        allowed::let_in::<V6Addr>(&self.datapath, &state.host, rules)?;
        write_rules(&self.datapath, state, record, rules)?;
        write_ports::<V4Addr>(&self.datapath, state, rules)?;
        write_ports::<V6Addr>(&self.datapath, state, rules)?;
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

    /// Writes what of the publishes differs from the store; what agrees is not touched, and its flows live on.
    pub(super) fn reconcile_publishes(&self, state: &State) -> Result<()> {
        let maps = &self.datapath.maps;
        let mut changed = false;

        let wanted: BTreeMap<u32, (Rule, &RuleRecord)> = state
            .containers
            .values()
            .flat_map(|record| {
                record.rules.iter().map(move |each| (each.rule, (rule(&state.networks, record, each), each)))
            })
            .collect();
        for (number, (rule, _)) in &wanted {
            if maps.rules.get(*number)? != Some(*rule) {
                maps.rules.set(*number, *rule)?;
                self.datapath.bump(generation::FIRST_RULE + number)?;
                changed = true;
            }
        }

        let rules = || wanted.values().map(|(_, record)| *record);
        changed |= reconcile_ports::<V4Addr>(&self.datapath, rules())?;
        changed |= reconcile_ports::<V6Addr>(&self.datapath, rules())?;
        // Left by an agent that was killed while it withdrew them.
        let ended: Vec<u32> = maps
            .rules
            .entries()?
            .into_iter()
            .filter(|(number, rule)| *rule != Rule::default() && !wanted.contains_key(number))
            .map(|(number, _)| number)
            .collect();
        if !ended.is_empty() {
            end_rules(&self.datapath, &ended)?;
            changed = true;
        }
        if changed {
            self.datapath.bump(generation::PUBLISH_EPOCH)?;
        }
        Ok(())
    }
}

/// Takes rules that have been released out of the datapath, to the end whatever fails.
pub(super) fn withdraw(datapath: &Datapath, state: &State, rules: &[RuleRecord]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let numbers: Vec<u32> = rules.iter().map(|rule| rule.rule).collect();
    let withdrawn = [
        withdraw_ports::<V4Addr>(datapath, state, rules),
        withdraw_ports::<V6Addr>(datapath, state, rules),
        end_rules(datapath, &numbers),
        allowed::forget::<V4Addr>(datapath, rules),
        allowed::forget::<V6Addr>(datapath, rules),
        datapath.bump(generation::PUBLISH_EPOCH).map(drop),
    ];
    withdrawn.into_iter().collect()
}

fn withdraw_ports<A: InFamily>(datapath: &Datapath, state: &State, rules: &[RuleRecord]) -> Result<()> {
    write_ports::<A>(datapath, state, rules)?;
    let published = &A::maps(&datapath.maps).published;
    for (address, rule) in of_family::<A>(rules).filter(|(_, rule)| !rule.is_wildcard()) {
        for port in rule.ports() {
            published.remove(PublishKey::new(address, rule.transport, port))?;
        }
    }
    Ok(())
}

/// Those on addresses of one family.
fn of_family<'a, A: InFamily>(
    rules: impl IntoIterator<Item = &'a RuleRecord>,
) -> impl Iterator<Item = (A, &'a RuleRecord)> {
    rules.into_iter().filter_map(|rule| Some((A::of(rule.host_ip)?, rule)))
}

/// The rule as the datapath knows it; without an endpoint as long as none of the container's networks can serve it.
pub(super) fn rule(networks: &Networks, record: &ContainerRecord, rule: &RuleRecord) -> Rule {
    let endpoint = record.serving(networks, rule.host_ip.is_ipv4());
    let (endpoint, generation) = endpoint.map_or((0, 0), |endpoint| (endpoint.slot, endpoint.generation));
    let flags = allowed::flags(&rule.allowed);
    Rule { endpoint, generation, host_port: rule.host_port, container_port: rule.container_port, flags }
}

fn write_rules(datapath: &Datapath, state: &State, record: &ContainerRecord, rules: &[RuleRecord]) -> Result<()> {
    let numbers: Vec<u32> = rules.iter().map(|rule| rule.rule).collect();
    let values: Vec<Rule> = rules.iter().map(|each| rule(&state.networks, record, each)).collect();
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
    let next: Vec<u32> = generations.get_all(&indexes)?.into_iter().map(|now| now.wrapping_add(1)).collect();
    generations.set_all(&indexes, &next)
}

/// Writes what `state` says of every port of the rules on addresses of one family.
fn write_ports<A: InFamily>(datapath: &Datapath, state: &State, rules: &[RuleRecord]) -> Result<()> {
    let ports = of_family::<A>(rules).flat_map(|(_, rule)| rule.ports().map(|port| (rule.transport, port)));
    let (indexes, values): (Vec<u32>, Vec<PublishedPort>) =
        ports.map(|(transport, port)| (transport.port_index(port), state.publishes.port::<A>(transport, port))).unzip();
    let (keys, numbers): (Vec<PublishKey<A>>, Vec<u32>) = of_family::<A>(rules)
        .filter(|(_, rule)| !rule.is_wildcard() && state.publishes.has_rule(rule.rule))
        .flat_map(|(address, rule)| {
            rule.ports().map(move |port| (PublishKey::new(address, rule.transport, port), rule.rule))
        })
        .unzip();
    // The hash before the array that sends lookups to it.
    let maps = A::maps(&datapath.maps);
    maps.published.set_all(&keys, &numbers)?;
    maps.ports.set_all(&indexes, &values)
}

/// Brings the ports of one family to what the rules say; whether anything differed.
fn reconcile_ports<'a, A: InFamily>(datapath: &Datapath, rules: impl Iterator<Item = &'a RuleRecord>) -> Result<bool> {
    let maps = A::maps(&datapath.maps);
    let mut changed = false;
    let mut published: HashMap<PublishKey<A>, u32> = HashMap::new();
    let mut ports: BTreeMap<u32, PublishedPort> = BTreeMap::new();
    for (address, record) in of_family::<A>(rules) {
        for port in record.ports() {
            let place = ports.entry(record.transport.port_index(port)).or_default();
            if record.is_wildcard() {
                place.wildcard = record.rule;
            } else {
                place.specific += 1;
                published.insert(PublishKey::new(address, record.transport, port), record.rule);
            }
        }
    }
    for (key, number) in maps.published.entries()? {
        match published.remove(&key) {
            Some(wanted) if wanted == number => {}
            Some(wanted) => {
                maps.published.set(key, wanted)?;
                changed = true;
            }
            None => {
                maps.published.remove(key)?;
                changed = true;
            }
        }
    }
    for (key, number) in published {
        maps.published.set(key, number)?;
        changed = true;
    }
    let differing: Vec<(u32, PublishedPort)> = maps
        .ports
        .entries()?
        .into_iter()
        .filter_map(|(index, now)| {
            let wanted = ports.get(&index).copied().unwrap_or_default();
            (wanted != now).then_some((index, wanted))
        })
        .collect();
    if !differing.is_empty() {
        let (indexes, values): (Vec<u32>, Vec<PublishedPort>) = differing.into_iter().unzip();
        maps.ports.set_all(&indexes, &values)?;
        changed = true;
    }
    Ok(changed)
}
