//! Making, taking in and removing containers.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use netbpf_common::abi::{ENDPOINT_SLOTS, generation};
use netbpf_common::wire::Mac;

use super::plan::{Observed, Step, Wanted, plan};
use super::reserve::release;
use super::rules::withdraw;
use super::start::random_mac;
use super::state::State;
use super::{Engine, check, process};
use crate::api::types::{Container, CreateRequest};
use crate::config::Addressing;
use crate::error::{Context as _, Error, Result};
use crate::net::namespace::{self, Namespace};
use crate::process::Files;
use crate::store::ContainerRecord;

/// First multiple of [`ENDPOINT_SLOTS`] that devices get their numbers from: far above what the kernel counts up to.
const FIRST_MULTIPLE: u32 = 16;

/// Names of host-side devices: this and the first ten digits of the container's id.
pub(super) const DEVICE_PREFIX: &str = "nb";

impl Engine {
    /// Makes a container, or takes in a namespace that exists.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<Container> {
        let id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let name = request.name.unwrap_or_else(|| id[..12].to_owned());
        check::name(&name)?;
        let hostname = request.hostname.unwrap_or_else(|| name.clone());
        check::hostname(&hostname)?;
        let mac = request.mac_address.as_deref().map(check::mac).transpose()?;
        let specs = check::specs(&request.publish, &request.publish_exposed)?;

        let mut state = self.change().await?;
        if state.containers.contains_key(&name) {
            return Err(Error::Conflict(format!(
                "a container named {name} exists already: choose another name, or remove it with `netbpf rm {name}`"
            )));
        }
        if let Some(path) = &request.netns {
            // A container that had it before may have left its device there.
            self.bury().await?;
            check_foreign(&state, path)?;
        }
        // What is found by a process goes with it; under a name of ours it stays.
        let taken_from = request.netns.clone().filter(|path| path.starts_with("/proc"));
        let slot = state.free_slot()?;
        let ifindex = self.free_ifindex(slot).await?;
        let asked = [request.ip.map(IpAddr::from), request.ip6.map(IpAddr::from)];
        let asked: Vec<IpAddr> = asked.into_iter().flatten().collect();
        let addresses = state.pools.give(&asked)?;
        // Whoever gets an address that somebody had before gets the MAC address too, which the neighbours still know.
        let leading = asked.first().unwrap_or(&addresses[0]);
        let mac = match self.choose_mac(&state, mac, *leading) {
            Ok(mac) => mac,
            Err(error) => {
                state.pools.release(addresses);
                return Err(error);
            }
        };
        let mut record = ContainerRecord {
            hostname,
            owns_netns: request.netns.is_none() || taken_from.is_some(),
            netns: request.netns.filter(|_| taken_from.is_none()).unwrap_or_else(|| namespace::path(&name)),
            address: None,
            address_v6: None,
            mac: mac.octets(),
            mtu: self.settings.mtu,
            slot,
            generation: 0,
            ifindex,
            device: format!("{DEVICE_PREFIX}{}", &id[..10]),
            rules: Vec::new(),
            process: None,
            remove_on_exit: request.remove_on_exit,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            name,
            id,
        };
        record.set_addresses(&addresses);
        match self.make(&mut state, &mut record, taken_from, &specs).await {
            Ok(()) => {
                let container = record.describe(&self.addressing);
                state.containers.insert(record.name.clone(), record);
                Ok(container)
            }
            Err(error) => {
                state.pools.release(addresses);
                Err(error)
            }
        }
    }

    async fn make(
        &self,
        state: &mut State,
        record: &mut ContainerRecord,
        taken_from: Option<PathBuf>,
        specs: &[crate::spec::PublishSpec],
    ) -> Result<()> {
        record.rules = self.reserve(state, record, specs).await?;
        let mut steps = Vec::new();
        let made = async {
            record.generation = self.datapath.bump(generation::LAST_ENDPOINT)?;
            let mut instance = state.instance.clone();
            instance.set_last_addresses(state.pools.last());
            let wanted = Wanted { taken_from, ..record.wanted(&self.addressing) };
            let planned = plan(&[wanted], &Observed::default());
            // Both wait, for the disk and for a grace period of the kernel, so they do it at the same time. After a
            // crash in between, a later start makes the rest, or forgets a container without a namespace.
            let save = {
                let (store, instance, record) = (self.store.clone(), instance.clone(), record.clone());
                tokio::task::spawn_blocking(move || store.save(&instance, Some(&record)))
            };
            let (applied, saved) = tokio::join!(self.apply(&planned), save);
            if applied.is_ok() {
                steps = planned;
            }
            applied?;
            saved.context(|| "write the database".into())??;
            self.put_in_force(state, record, &record.rules)?;
            Ok(instance)
        }
        .await;
        match made {
            Ok(instance) => {
                state.instance = instance;
                Ok(())
            }
            Err(error) => {
                release(state, &record.rules);
                self.withdraw_reserved(state, &record.rules);
                self.undo(&steps).await;
                if let Err(error) = self.store.forget(&record.name) {
                    tracing::warn!("while undoing: {error}");
                }
                Err(error)
            }
        }
    }

    fn choose_mac(&self, state: &State, asked: Option<Mac>, address: IpAddr) -> Result<Mac> {
        let refusal = |mac: Mac| {
            let holder = state.containers.values().find(|record| record.mac() == mac);
            let holder = holder.map(|record| format!("container {}", record.name));
            let holder = holder.or_else(|| (mac == self.gateway_mac).then(|| "the gateway".into()))?;
            Some(Error::Conflict(format!("MAC address {mac} is that of {holder}: choose another")))
        };
        if let Some(mac) = asked {
            return refusal(mac).map_or(Ok(mac), Err);
        }
        let mac = derived_mac(address);
        // Two IPv6 addresses may end alike, and somebody may have asked for the one that is another's by right.
        let others = || std::iter::repeat_with(|| Mac::new(random_mac()));
        std::iter::once(mac)
            .chain(others().take(16))
            .find(|mac| refusal(*mac).is_none())
            .ok_or_else(|| Error::Exhausted(format!("MAC address {mac} is in use: choose another")))
    }

    /// A number for a device that leads to this slot.
    async fn free_ifindex(&self, slot: u32) -> Result<u32> {
        for multiple in FIRST_MULTIPLE..FIRST_MULTIPLE + 4096 {
            let ifindex = slot + multiple * ENDPOINT_SLOTS;
            let is_doomed = self.doomed().iter().any(|(doomed, _)| *doomed == ifindex);
            if !is_doomed && self.netlink.device(ifindex).await?.is_none() {
                return Ok(ifindex);
            }
        }
        Err(Error::Exhausted("no free device number for another endpoint: remove devices".into()))
    }

    /// Removes a container; a running one only with `force`, which also makes a name that nobody has no error.
    pub async fn remove(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let mut state = self.change().await?;
        let record = match state.container(name) {
            Ok(record) => record.clone(),
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(running) = record.process.filter(process::is_running) {
            if !force {
                return Err(Error::Conflict(format!(
                    "container {name} runs process {}: stop it first, or remove both with `netbpf rm -f {name}`",
                    running.pid
                )));
            }
            process::kill(&running)?;
        }
        self.take_down(&mut state, &record).await
    }

    /// Forgets a container and takes it out of the kernel, to the end whatever fails.
    pub(super) async fn take_down(self: &Arc<Self>, state: &mut State, record: &ContainerRecord) -> Result<()> {
        // Forgotten first: after a crash in what follows, a later start removes what nobody knows.
        self.store.forget(&record.name)?;
        state.containers.remove(&record.name);
        release(state, &record.rules);
        let mut errors: Vec<Error> = withdraw(&self.datapath, state, &record.rules).err().into_iter().collect();
        let mut observed = observed(record, &self.addressing);
        if record.owns_netns {
            // Deleted later: nobody looks for it in a namespace that has lost its name.
            observed.devices.clear();
        }
        errors.extend(self.apply_all(&plan(&[], &observed)).await);
        if record.owns_netns {
            self.doom(record.ifindex, &record.device);
        }
        let files = Files::of(&self.settings.run_dir, &record.name);
        errors.extend(files.remove().context(|| format!("remove the files of container {}", record.name)).err());
        state.pools.release(record.addresses());
        // What it had counts against the limit of the next in its slot as long as it is there.
        self.uncollected.notify_one();
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// All containers, by name.
    pub async fn list(&self) -> Vec<Container> {
        let state = self.state.lock().await;
        state.containers.values().map(|record| record.describe(&self.addressing)).collect()
    }

    /// One container.
    pub async fn inspect(&self, name: &str) -> Result<Container> {
        let state = self.state.lock().await;
        state.container(name).map(|record| record.describe(&self.addressing))
    }
}

/// The MAC address of whom an address is given to: as Docker derives it, from the last four bytes.
fn derived_mac(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (address.to_bits() as u32).to_be_bytes(),
    };
    Mac::new([0x02, 0x42, a, b, c, d])
}

/// What a container is in the kernel when all is as it should be.
fn observed(record: &ContainerRecord, addressing: &Addressing) -> Observed {
    Observed {
        namespaces: record.owns_netns.then(|| record.name.clone()).into_iter().collect(),
        devices: [(record.ifindex, record.device.clone())].into(),
        attached: BTreeSet::from([record.ifindex]),
        endpoints: [(record.slot, record.endpoint())].into(),
        addresses: record.reached_by(addressing).into_iter().map(|address| (address, record.slot)).collect(),
    }
}

/// Refuses namespaces that cannot be taken in: none, the host's own, or that of another container.
fn check_foreign(state: &State, path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "'{}' is not an absolute path: give one as /run/netns/NAME",
            path.display()
        )));
    }
    Namespace::open(path)?;
    let number = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino()));
    let it = number(path).context(|| format!("look at {}", path.display()))?;
    if number(Path::new("/proc/self/ns/net")).ok() == Some(it) {
        return Err(Error::Invalid(format!(
            "{} is the host's own network namespace: give a container's",
            path.display()
        )));
    }
    let holder = state.containers.values().find(|record| number(record.netns()).ok() == Some(it));
    match holder {
        Some(record) => Err(Error::Conflict(format!(
            "the network namespace {} is that of container {} already: remove that one first",
            path.display(),
            record.name
        ))),
        None => Ok(()),
    }
}

/// Steps that bring the kernel from what it has to what is desired.
pub(super) fn steps<'a>(
    desired: impl Iterator<Item = &'a ContainerRecord>,
    addressing: &Addressing,
    observed: &Observed,
) -> Vec<Step> {
    let desired: Vec<_> = desired.map(|record| record.wanted(addressing)).collect();
    plan(&desired, observed)
}

/// Marks of namespaces that an instance has made.
pub(super) fn marked(marks: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(marks).context(|| format!("read {}", marks.display()))?;
    Ok(entries.flatten().map(|entry| PathBuf::from(entry.file_name()).display().to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_derived_from_either_family() {
        for (address, mac) in [("172.30.0.2", "02:42:ac:1e:00:02"), ("fd00::1:2", "02:42:00:01:00:02")] {
            assert_eq!(derived_mac(address.parse().unwrap()).to_string(), mac);
        }
    }
}
