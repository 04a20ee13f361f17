//! At a start: what the store wants, what the kernel has, and the difference. Nothing is flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netbpf_common::abi::{Endpoint, generation, program};

use super::containers::{marked, steps};
use super::network::Networks;
use super::plan::Observed;
use super::reserve::release;
use super::rules::withdraw;
use super::state::State;
use super::{Engine, files, host, process};
use crate::datapath::{Attachment, Hook, NETKIT};
use crate::error::Result;
use crate::net::device::Device;
use crate::net::namespace;
use crate::store::{Changes, ContainerRecord, NetworkRecord, ProcessRecord};

impl Engine {
    /// Brings the kernel to what the store says, and the store to what is still there.
    pub(super) async fn reconcile(self: &Arc<Self>, is_new_boot: bool) -> Result<()> {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        if is_new_boot {
            self.forget_the_ended(state)?;
        } else {
            self.forget_the_gone(state)?;
            self.mark_again(state)?;
        }
        self.never_go_back(state)?;
        self.datapath.drop_dead_links()?;
        self.make_parents(state).await;
        self.look_for_netkits(&mut state.networks).await?;
        if is_new_boot {
            self.measure_again(state).await?;
        }
        self.delete_unfinished().await?;
        // An agent may have been killed between two of its writes, and the steps go by what is known of the rings.
        self.follow_members()?;
        let observed = self.observe(state).await?;
        let planned = steps(state.containers.values(), &state.networks, &observed);
        if !planned.is_empty() {
            tracing::info!(steps = planned.len(), "bringing the kernel to the desired state");
        }
        for error in self.apply_all(&planned).await {
            tracing::error!("{error}");
        }
        self.reconcile_publishes(state)?;
        files::sweep(&self.settings.run_dir, |name| state.containers.contains_key(name));
        for record in state.containers.values() {
            let ends = self.answer_by_own_ends(state, record).await;
            for error in [self.write_files(state, record), ends].into_iter().filter_map(Result::err) {
                tracing::error!("{error}");
            }
            if let Some(process) = record.process.filter(|process| !process.exited) {
                self.watch(record.name.clone(), process);
            }
        }
        Ok(())
    }

    /// Containers whose namespace is gone (`ip netns del`) are gone, and so are those to be forgotten with
    /// their process; what these had goes to those who share their namespace.
    fn forget_the_gone(&self, state: &mut State) -> Result<()> {
        let has_namespace = ContainerRecord::exists;
        let is_over = |record: &ContainerRecord| {
            record.remove_on_exit && record.process.is_some_and(|process| !process::is_running(&process))
        };
        let gone = state.containers.values().filter(|record| !has_namespace(record) || is_over(record));
        let gone: Vec<String> = gone.map(|record| record.name.clone()).collect();
        for name in gone {
            tracing::info!(container = name, "gone while no agent ran");
            // As it is now: another may have left it what it had.
            let Some(record) = state.containers.get(&name).cloned() else { continue };
            if has_namespace(&record)
                && let Some(changes) = state.inherited(&record)
            {
                self.store.save(&changes)?;
                state.hand_over(&record, changes);
                continue;
            }
            self.forget(state, &name)?;
        }
        for record in state.containers.values_mut() {
            if let Some(process) = record.process.filter(|process| !process.exited && !process::is_running(process)) {
                record.process = Some(ProcessRecord { exited: true, ..process });
                self.store.save(&Changes::from(&*record))?;
            }
        }
        Ok(())
    }

    /// Forgets a container, of which the kernel has nothing but what follows from the store.
    pub(super) fn forget(&self, state: &mut State, name: &str) -> Result<()> {
        let Some(record) = state.containers.get(name).cloned() else { return Ok(()) };
        self.store.save(&Changes { removed_containers: vec![name.to_owned()], ..Changes::default() })?;
        state.containers.remove(name);
        release(state, &record.rules);
        for endpoint in &record.endpoints {
            state.networks.release(endpoint);
        }
        // Rules of a datapath that has outlived the container.
        withdraw(&self.datapath, state, &record.rules)
    }

    /// Marks namespaces that have lost their marks to somebody who emptied the run directory.
    fn mark_again(&self, state: &State) -> Result<()> {
        let marks = marked(&self.marks())?;
        let names = state.containers.values().filter_map(ContainerRecord::made_as);
        names.filter(|name| !marks.contains(name)).try_for_each(|name| self.mark(&name))
    }

    /// Learns whether the kernel has netkits, if a network is to have them, and tells which ones get none.
    async fn look_for_netkits(&self, networks: &mut Networks) -> Result<()> {
        let wanted: Vec<NetworkRecord> = networks.ours().map(|network| network.record.clone()).collect();
        for record in wanted {
            self.look_for_netkit(networks, record.device).await?;
            for line in networks.warnings(&record) {
                tracing::warn!("{line}");
            }
        }
        Ok(())
    }

    /// Generations that the store knows must not be given out again, even on maps that are new.
    fn never_go_back(&self, state: &State) -> Result<()> {
        let generations = &self.datapath.maps.generations;
        let newest = state.endpoints().map(|(_, endpoint)| endpoint.generation).max().unwrap_or(0);
        if generations.get(generation::LAST_ENDPOINT)?.unwrap_or(0) < newest {
            generations.set(generation::LAST_ENDPOINT, newest)?;
        }
        Ok(())
    }

    /// Deletes devices that an agent was killed over before they were complete: those are set up last.
    async fn delete_unfinished(&self) -> Result<()> {
        let devices = self.netlink.devices().await?.into_iter();
        let unfinished = devices.filter(|device| !device.is_up && host::is_own(device, self.gateway_mac));
        let unfinished: Vec<(u32, String)> = unfinished.map(|device| (device.ifindex, device.name)).collect();
        self.delete_devices(&unfinished).await
    }

    pub(super) async fn observe(&self, state: &State) -> Result<Observed> {
        let maps = &self.datapath.maps;
        let devices = self.netlink.devices().await?;
        let (attachments, queues) = (self.datapath.attachments()?, self.datapath.left_queues());
        let has = |program: &str, ifindex: u32| {
            attachments.iter().any(|it| it.is_current && it.program == program && it.target == u64::from(ifindex))
        };
        let own: BTreeMap<u32, String> = devices
            .iter()
            .filter(|device| host::is_own(device, self.gateway_mac))
            .filter(|device| device.ifindex != self.devices.0 && device.ifindex != self.devices.1)
            .map(|device| (device.ifindex, device.name.clone()))
            .collect();
        // Also of an agent that was killed while it took one in, or gave it back.
        let has_egress = |device: &&Device| {
            let at = |it: &&Attachment| it.program == program::EGRESS && it.target == u64::from(device.ifindex);
            let left = |hook: &Hook| hook.program == program::EGRESS && hook.ifindex == device.ifindex;
            !own.contains_key(&device.ifindex) && (attachments.iter().any(|it| at(&it)) || queues.iter().any(left))
        };
        let taps: BTreeMap<u32, String> =
            devices.iter().filter(has_egress).map(|device| (device.ifindex, device.name.clone())).collect();
        let wanted: BTreeSet<String> = state.containers.values().filter_map(ContainerRecord::made_as).collect();
        let mut namespaces = marked(&self.marks())?;
        // A run directory that outlives a reboot has marks of what is gone.
        namespaces.retain(|name| !wanted.contains(name) || namespace::exists(&namespace::path(name)));
        Ok(Observed {
            namespaces,
            attached: own
                .keys()
                .chain(taps.keys())
                .flat_map(|ifindex| [(program::EGRESS, *ifindex), (NETKIT, *ifindex)])
                .filter(|(program, ifindex)| has(program, *ifindex))
                .collect(),
            devices: own,
            taps,
            endpoints: maps.endpoints.entries()?.into_iter().filter(|(_, end)| *end != Endpoint::default()).collect(),
            addresses: maps.addresses()?.collect(),
            lans: self.lans_there(state).await,
        })
    }
}
