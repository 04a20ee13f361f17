//! What is attached, how full it is, and what is not as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use bytemuck::Pod;
use netbpf_common::abi::{DropReason, Endpoint, Event, PublishedPort, program};

use super::Engine;
use super::hooks::Owner;
use super::state::State;
use crate::api::types::{MapStatus, ProgramStatus, Status, UplinkStatus};
use crate::datapath::{Attachment, FamilyMaps, Hook, InFamily, NETKIT, Table};
use crate::error::{Context as _, Result};
use crate::net::device::Device;
use crate::store::ContainerRecord;

impl Engine {
    /// What is attached, how full it is, and what is not as desired.
    pub async fn status(&self) -> Result<Status> {
        // Of a table of millions this takes long; nobody waits for it with the lock.
        let datapath = self.datapath.clone();
        let count = move || Ok([datapath.maps.v4.flows.count()?, datapath.maps.v6.flows.count()?]);
        let flows = tokio::task::spawn_blocking(count);
        let flows = flows.await.context(|| "count flows".into())??;
        let state = self.state.lock().await;
        let inside = self.problems_inside(&state);
        drop(state);
        let inside = inside.await?;
        let state = self.state.lock().await;
        self.forget_lost_filters(None).await?;
        let attachments = self.datapath.attachments()?;
        let devices: Vec<Device> = self.netlink.devices().await?;
        let names: BTreeMap<u32, String> = devices.iter().map(|device| (device.ifindex, device.name.clone())).collect();
        let programs = attachments.iter().map(|attachment| self.program(attachment, &names)).collect();
        let mut problems = self.problems(&state, &attachments, &devices)?;
        problems.extend(self.device_problems(&state.networks).await?);
        problems.extend(self.lan_problems(&state, &names).await);
        // Those of who has gone meanwhile are nobody's.
        let inside =
            inside.into_iter().filter(|(name, _)| state.containers.get(name).is_some_and(ContainerRecord::exists));
        problems.extend(inside.map(|(_, problem)| problem));
        problems.extend(self.unrepaired());
        let counters = self.datapath.maps.counters.get_per_cpu(0)?;
        let sum = |place: u32| counters.iter().map(|cpu| cpu[place as usize]).sum::<u64>();
        let occurred = |(place, name): (u32, &str)| match sum(place) {
            0 => None,
            count => Some((name.to_owned(), count)),
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            since: self.since,
            uplinks: state
                .host
                .uplinks
                .iter()
                .map(|(ifindex, uplink)| UplinkStatus {
                    name: uplink.name.clone(),
                    ifindex: *ifindex,
                    address: uplink.v4.map(Ipv4Addr::from),
                    address6: uplink.v6.map(Ipv6Addr::from),
                })
                .collect(),
            programs,
            maps: self.maps(&state, flows)?,
            drops: DropReason::ALL.iter().map(|reason| (*reason as u32, reason.name())).filter_map(occurred).collect(),
            events: Event::ALL.iter().map(|event| (*event as u32, event.name())).filter_map(occurred).collect(),
            problems,
        })
    }

    fn program(&self, attachment: &Attachment, devices: &BTreeMap<u32, String>) -> ProgramStatus {
        let direction = match &*attachment.program {
            program::HOST => "egress",
            program::EXPRESS => "xdp",
            NETKIT => "netkit peer",
            _ => "ingress",
        };
        let attach_point = if program::SOCKET.contains(&&*attachment.program) {
            format!("cgroup {}", self.cgroup.display())
        } else {
            match u32::try_from(attachment.target).ok().and_then(|ifindex| devices.get(&ifindex)) {
                Some(device) => format!("{device} {direction}"),
                None => format!("a device that is gone, {direction}"),
            }
        };
        ProgramStatus {
            name: attachment.program.clone(),
            attach_point,
            link_id: attachment.link_id,
            program_id: attachment.program_id,
        }
    }

    fn maps(&self, state: &State, flows: [usize; 2]) -> Result<Vec<MapStatus>> {
        let maps = &self.datapath.maps;
        let endpoints = maps.endpoints.entries()?.iter().filter(|(_, end)| *end != Endpoint::default()).count();
        let rules = state.containers.values().map(|record| record.rules.len()).sum();
        let mut all = vec![
            full(&maps.endpoints, endpoints),
            full(&maps.uplinks, maps.uplinks.entries()?.len()),
            full(&maps.rules, rules),
        ];
        all.extend(maps_of_family(&maps.v4, flows[0])?);
        all.extend(maps_of_family(&maps.v6, flows[1])?);
        Ok(all)
    }

    /// Compares what is desired with what the kernel has, not with what the agent once did.
    fn problems(&self, state: &State, attachments: &[Attachment], devices: &[Device]) -> Result<Vec<String>> {
        let mut problems = state.host.problems.clone();
        problems.extend(self.problems_with_names());
        let attached: BTreeSet<(&str, u64)> = attachments
            .iter()
            .filter(|attachment| attachment.is_current)
            .map(|attachment| (&*attachment.program, attachment.target))
            .collect();
        for attachment in attachments.iter().filter(|attachment| !attachment.is_current) {
            problems.push(format!("{} runs another program than this agent's", attachment.program));
        }
        let devices: BTreeMap<u32, &Device> = devices.iter().map(|device| (device.ifindex, device)).collect();
        for (owner, hook) in self.hooks(state) {
            let Hook { program, ifindex, .. } = hook;
            match devices.get(&ifindex) {
                // That of netbpf0 is told of with all else that it has.
                None if owner == Owner::Host => {}
                None => problems.push(format!("{owner}: its device {ifindex} is gone")),
                Some(_) if !attached.contains(&(program, u64::from(ifindex))) => {
                    problems.push(format!("{owner}: {program} is not attached"));
                }
                Some(device) if matches!(owner, Owner::Container(_)) && !device.is_up => {
                    problems.push(format!("{owner}: its device {} is down", device.name));
                }
                Some(_) => {}
            }
        }
        let lost = self.datapath.lost_pins();
        if let Some(first) = lost.first() {
            let directory = self.settings.bpffs.display();
            problems.push(format!("{} of its pins are missing in {directory}, {first} first", lost.len()));
        }
        for record in state.containers.values().filter(|record| !record.is_host) {
            if !record.exists() && !record.is_machine() {
                problems.push(format!("container {}: its namespace {} is gone", record.name, record.netns().display()));
            }
        }
        for (record, endpoint) in state.endpoints().filter(|(_, endpoint)| state.networks.of(endpoint).is_ours()) {
            let network = state.networks.of(endpoint);
            if self.datapath.maps.endpoints.get(endpoint.slot)? != Some(endpoint.in_datapath(network)) {
                problems.push(format!("container {}: the datapath does not know its endpoint", record.name));
            }
            for address in endpoint.reached_by(network) {
                if self.datapath.maps.slot_of(address)? != Some(endpoint.slot) {
                    problems.push(format!("container {}: the datapath does not find it by {address}", record.name));
                }
            }
        }
        let cgroup = self.cgroup.display();
        match self.lost_sockets(attachments) {
            Ok(lost) => {
                problems.extend(lost.iter().map(|name| format!("{name} is not attached to the cgroup {cgroup}")));
            }
            Err(error) => problems.push(error.to_string()),
        }
        Ok(problems)
    }
}

fn full<K: Pod, V: Pod>(map: &Table<K, V>, entries: usize) -> MapStatus {
    MapStatus { name: map.name().into(), entries: entries as u64, max: u64::from(map.max_entries()) }
}

fn maps_of_family<A: InFamily>(maps: &FamilyMaps<A>, flows: usize) -> Result<[MapStatus; 6]> {
    let ports = maps.ports.entries()?.iter().filter(|(_, port)| *port != PublishedPort::default()).count();
    Ok([
        full(&maps.flows, flows),
        full(&maps.addresses, maps.addresses.entries()?.len()),
        full(&maps.locals, maps.locals.entries()?.len()),
        full(&maps.ports, ports),
        full(&maps.published, maps.published.entries()?.len()),
        full(&maps.allowed, maps.allowed.entries()?.len()),
    ])
}
