//! After a reboot the store knows what the kernel has forgotten. docs/repair.md says who comes back.

use std::collections::BTreeSet;
use std::path::Path;

use super::Engine;
use super::containers::marked;
use super::state::State;
use crate::config::subnet::check_mtu;
use crate::error::{Context as _, Result};
use crate::net::namespace;
use crate::store::{Changes, ContainerRecord};

/// What tells one boot of the kernel from another.
pub(super) fn boot() -> Result<String> {
    procfs::sys::kernel::random::boot_id().context(|| "read the number of this boot".into())
}

impl Engine {
    /// Containers that a reboot has ended are gone, with their leases and publishes.
    pub(super) fn forget_the_ended(&self, state: &mut State) -> Result<()> {
        let marks = marked(&self.marks())?;
        let taken = |record: &ContainerRecord| {
            let name = record.made_as();
            name.is_some_and(|name| !marks.contains(&name) && namespace::exists(record.netns()))
        };
        let owners: BTreeSet<&String> =
            state.containers.values().filter(|record| taken(record)).map(|record| &record.name).collect();
        // With those who would find themselves in the stranger's.
        let strangers = state.containers.values().filter(|record| {
            owners.contains(&record.name) || record.shared_with.as_ref().is_some_and(|owner| owners.contains(owner))
        });
        let strangers: Vec<String> = strangers.map(|record| record.name.clone()).collect();
        for name in ended(state.containers.values(), namespace::exists) {
            tracing::info!(container = name, "ended by a reboot");
            self.forget(state, &name)?;
        }
        for name in strangers {
            tracing::warn!(
                container = name,
                "forgotten: since the reboot somebody else has made a namespace of its name"
            );
            self.forget(state, &name)?;
        }
        Ok(())
    }

    /// Lets ends have the devices that they would get if they were made now: of the kind that the network is to have and the kernel
    /// has, and with the MTU of the network, as far as a tap, or the device that they lie on, takes it.
    pub(super) async fn measure_again(&self, state: &mut State) -> Result<()> {
        let State { containers, networks, .. } = state;
        for record in containers.values_mut() {
            let before = record.clone();
            for endpoint in &mut record.endpoints {
                let network = &networks.of(endpoint).record;
                if !endpoint.is_tap {
                    endpoint.kind = networks.device_kind(network);
                }
                let under = match network.driver.lan() {
                    Some(lan) => self.netlink.device_named(&lan.parent).await?,
                    None if endpoint.is_tap => self.netlink.device(endpoint.ifindex).await?,
                    None => None,
                };
                let mtu = under.map_or(network.mtu, |device| device.mtu.min(network.mtu));
                match check_mtu(mtu, endpoint.address_v6.is_some()) {
                    Ok(()) => endpoint.mtu = mtu,
                    // As it was given before.
                    Err(error) => tracing::warn!(container = record.name, device = endpoint.device, "{error}"),
                }
            }
            if *record != before {
                self.store.save(&Changes::from(&*record))?;
            }
        }
        Ok(())
    }
}

/// Names of the containers that do not come back: those that were a process, or had a namespace that others made and have not made
/// again, and those who shared the namespace of one of these. Processes are not looked for: a number, and the time of a start since
/// boot, are another's now.
fn ended<'a>(records: impl Iterator<Item = &'a ContainerRecord>, exists: impl Fn(&Path) -> bool) -> BTreeSet<String> {
    let records: Vec<&ContainerRecord> = records.collect();
    let is_over = |record: &&&ContainerRecord| {
        let is_foreign = !record.owns_netns && !record.is_host && record.shared_with.is_none();
        record.process.is_some()
            || record.is_taken_in
            || is_foreign && if record.is_machine() { !record.exists() } else { !exists(record.netns()) }
    };
    let over: BTreeSet<&String> = records.iter().filter(is_over).map(|record| &record.name).collect();
    let with_them =
        records.iter().filter(|record| record.shared_with.as_ref().is_some_and(|owner| over.contains(owner)));
    with_them.map(|record| &record.name).chain(over.iter().copied()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ProcessRecord;

    #[test]
    fn what_was_made_without_a_process_comes_back() {
        let made = ContainerRecord::example("made");
        // This very process: the numbers of one before a reboot may be those of another after it.
        let own = procfs::process::Process::myself().unwrap().stat().unwrap();
        let process = ProcessRecord { pid: std::process::id(), start: own.starttime, exited: false };
        let ran = ContainerRecord { process: Some(process), ..ContainerRecord::example("ran") };
        let exited = ContainerRecord {
            process: Some(ProcessRecord { exited: true, ..process }),
            ..ContainerRecord::example("exited")
        };
        let taken_in = ContainerRecord { is_taken_in: true, ..ContainerRecord::example("taken-in") };
        let foreign = |name| ContainerRecord { owns_netns: false, ..ContainerRecord::example(name) };
        let shares = |name, owner: &str| ContainerRecord {
            owns_netns: false,
            endpoints: Vec::new(),
            shared_with: Some(owner.into()),
            ..ContainerRecord::example(name)
        };
        let host = ContainerRecord { owns_netns: false, is_host: true, ..ContainerRecord::example("host") };
        let all = [
            made,
            ran,
            exited,
            taken_in,
            foreign("made-again"),
            foreign("not-made"),
            shares("beside-made", "made"),
            shares("beside-ran", "ran"),
            host,
        ];
        let ended = ended(all.iter(), |path| path.ends_with("made-again"));
        assert_eq!(ended.into_iter().collect::<Vec<_>>(), ["beside-ran", "exited", "not-made", "ran", "taken-in"]);
    }
}
