//! At a start: what the store wants, what the kernel has, and the difference. Nothing is flushed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use netbpf_common::abi::{Endpoint, PublishKey, PublishedPort, Rule, generation};
use netbpf_common::wire::V4Addr;

use super::containers::{marked, steps};
use super::plan::Observed;
use super::publish::{end_rules, rule, withdraw};
use super::state::State;
use super::{Engine, host, process};
use crate::error::Result;
use crate::net::namespace;
use crate::store::{ProcessRecord, RuleRecord};

impl Engine {
    /// Brings the kernel to what the store says, and the store to what is still there.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        self.forget_the_gone(state)?;
        self.never_go_back(state)?;
        self.datapath.drop_dead_links()?;
        let observed = self.observe().await?;
        let planned = steps(state.containers.values(), &observed);
        if !planned.is_empty() {
            tracing::info!(steps = planned.len(), "bringing the kernel to the desired state");
        }
        for error in self.apply_all(&planned).await {
            tracing::error!("{error}");
        }
        // Also when nothing was planned: an agent may have been killed between two of its writes.
        self.follow_members()?;
        self.reconcile_publishes(state)?;
        for record in state.containers.values() {
            if let Some(process) = record.process.filter(|process| !process.exited) {
                self.watch(record.name.clone(), process);
            }
        }
        Ok(())
    }

    /// Containers whose namespace is gone (a reboot, `ip netns del`) are gone, and so are those to be forgotten with
    /// their process.
    fn forget_the_gone(&self, state: &mut State) -> Result<()> {
        let is_gone = |record: &crate::store::ContainerRecord| {
            !namespace::exists(record.netns())
                || record.remove_on_exit && record.process.is_some_and(|process| !process::is_running(&process))
        };
        let gone: Vec<String> =
            state.containers.values().filter(|record| is_gone(record)).map(|record| record.name.clone()).collect();
        for name in gone {
            tracing::info!(container = name, "gone while no agent ran");
            self.store.forget(&name)?;
            if let Some(record) = state.containers.remove(&name) {
                super::publish::release(state, &record.rules);
                state.pool.release(record.address);
                // Rules of a datapath that has outlived the container.
                withdraw(&self.datapath, state, &record.rules)?;
            }
        }
        for record in state.containers.values_mut() {
            if let Some(process) = record.process.filter(|process| !process.exited && !process::is_running(process)) {
                record.process = Some(ProcessRecord { exited: true, ..process });
                self.store.save(&state.instance, Some(record))?;
            }
        }
        Ok(())
    }

    /// Generations that the store knows must not be given out again, even on maps that are new.
    fn never_go_back(&self, state: &State) -> Result<()> {
        let generations = &self.datapath.maps.generations;
        let newest = state.containers.values().map(|record| record.generation).max().unwrap_or(0);
        if generations.get(generation::LAST_ENDPOINT)?.unwrap_or(0) < newest {
            generations.set(generation::LAST_ENDPOINT, newest)?;
        }
        Ok(())
    }

    async fn observe(&self) -> Result<Observed> {
        let maps = &self.datapath.maps;
        let devices = self.netlink.devices().await?;
        let current: BTreeSet<u64> = self
            .datapath
            .attachments()?
            .into_iter()
            .filter(|attachment| attachment.is_current)
            .map(|attachment| attachment.target)
            .collect();
        let own: BTreeMap<u32, String> = devices
            .into_iter()
            .filter(|device| host::is_own(device, self.gateway_mac))
            .filter(|device| device.ifindex != self.devices.0 && device.ifindex != self.devices.1)
            .map(|device| (device.ifindex, device.name))
            .collect();
        Ok(Observed {
            namespaces: marked(&self.marks())?,
            attached: own.keys().copied().filter(|ifindex| current.contains(&u64::from(*ifindex))).collect(),
            devices: own,
            endpoints: maps.endpoints.entries()?.into_iter().filter(|(_, end)| *end != Endpoint::default()).collect(),
            addresses: maps.addresses.entries()?.into_iter().map(|(address, slot)| (address.into(), slot)).collect(),
        })
    }

    /// Writes what of the publishes differs from the store; what agrees is not touched, and its flows live on.
    fn reconcile_publishes(&self, state: &State) -> Result<()> {
        let maps = &self.datapath.maps;
        let mut changed = false;

        let wanted: BTreeMap<u32, (Rule, &RuleRecord)> = state
            .containers
            .values()
            .flat_map(|record| record.rules.iter().map(move |each| (each.rule, (rule(record, each), each))))
            .collect();
        for (number, (rule, _)) in &wanted {
            if maps.rules.get(*number)? != Some(*rule) {
                maps.rules.set(*number, *rule)?;
                self.datapath.bump(generation::FIRST_RULE + number)?;
                changed = true;
            }
        }

        let mut published: HashMap<PublishKey<V4Addr>, u32> = HashMap::new();
        let mut ports: BTreeMap<u32, PublishedPort> = BTreeMap::new();
        for (number, (_, record)) in &wanted {
            for port in record.ports() {
                let place = ports.entry(record.transport.port_index(port)).or_default();
                if record.is_wildcard() {
                    place.wildcard = *number;
                } else {
                    place.specific += 1;
                    published.insert(PublishKey::new(record.host_ip.into(), record.transport, port), *number);
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
