//! Making, taking in and removing containers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::SlimDown;
use super::network::{Networks, now, random_id};
use super::place::Place;
use super::plan::{Observed, Step, Wanted, plan};
use super::reserve::release;
use super::rules::withdraw;
use super::state::State;
use super::wish::Wish;
use super::{Engine, process};
use crate::api::types::{Container, CreateRequest};
use crate::error::{Context as _, Error, Result};
use crate::net::namespace::{self, Namespace};
use crate::store::{Changes, ContainerRecord, EndpointRecord, NetworkRecord};

impl Engine {
    /// Makes a container, or takes in a namespace that exists.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<Container> {
        let _slim = SlimDown::after(request.publish.len());
        let id = random_id();
        let Wish { name, hostname, specs, place, mut asked, extra_hosts } = Wish::read(&request, &id)?;

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
        if let Some(device) = &request.tap {
            asked.tap = Some(self.find_tap(&state, device).await?);
        }
        // What is found by a process goes with it; under a name of ours it stays.
        let taken_from = request.netns.clone().filter(|path| path.starts_with("/proc"));
        let shared = match &place {
            Place::Container(other) => {
                let other = state.container(other)?;
                if other.is_machine() {
                    return Err(Error::Conflict(format!(
                        "container {} is a machine behind a tap, and has no namespace to share: choose a network",
                        other.name
                    )));
                }
                Some(other.clone())
            }
            _ => None,
        };
        let (netns, owns_netns) = match (&place, &shared) {
            (Place::Host, _) => (PathBuf::new(), false),
            _ if request.tap.is_some() => (PathBuf::new(), false),
            (_, Some(other)) => (other.netns.clone(), false),
            _ => {
                let own = request.netns.filter(|_| taken_from.is_none());
                (own.clone().unwrap_or_else(|| namespace::path(&name)), own.is_none())
            }
        };
        if owns_netns {
            check_free(&state, &netns, &name)?;
        }
        let mut record = ContainerRecord {
            hostname,
            owns_netns,
            is_taken_in: taken_from.is_some(),
            netns,
            is_host: place == Place::Host || shared.as_ref().is_some_and(|other| other.is_host),
            shared_with: shared.map(|other| other.shared_with.unwrap_or(other.name)),
            endpoints: Vec::new(),
            dns: request.dns,
            dns_search: request.dns_search,
            dns_options: request.dns_options,
            extra_hosts,
            rules: Vec::new(),
            process: None,
            remove_on_exit: request.remove_on_exit,
            created: now(),
            name,
            id,
        };
        if let Place::Network(network) = &place {
            let endpoint = self.new_endpoint(&mut state, &record, network, &asked).await?;
            record.endpoints.push(endpoint);
        }
        let taken = asked.tap.as_ref().map_or(Ok(()), |tap| self.take_from_uplinks(&mut state, tap));
        let made = match taken {
            Ok(()) => self.make(&mut state, &mut record, taken_from, &specs).await,
            refused => refused,
        };
        match made {
            Ok(()) => {
                let container = record.describe(&state.networks);
                state.containers.insert(record.name.clone(), record);
                self.tell_names(&state).await;
                Ok(container)
            }
            Err(error) => {
                for endpoint in &record.endpoints {
                    state.networks.release(endpoint);
                }
                if asked.tap.is_some()
                    && let Err(error) = self.follow_given_back(&mut state).await
                {
                    tracing::warn!("while undoing: {error}");
                }
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
            let wanted = Wanted { taken_from, ..record.wanted(&state.networks) };
            let planned = plan(&[wanted], &Observed::default());
            // Both wait, for the disk and for the kernel's lock of devices, so they do it at the same time. After a
            // crash in between, a later start makes the rest, or forgets a container without a namespace.
            let changes = Changes { networks: state.networks_of(record), ..Changes::from(&*record) };
            let save = {
                let store = self.store.clone();
                tokio::task::spawn_blocking(move || store.save(&changes))
            };
            let (applied, saved) = tokio::join!(self.apply(&planned), save);
            if applied.is_ok() {
                steps = planned;
            }
            applied?;
            saved.context(|| "write the database".into())??;
            self.write_files(state, record)?;
            self.put_in_force(state, record, &record.rules)
        }
        .await;
        if let Err(error) = made {
            release(state, &record.rules);
            self.withdraw_reserved(state, &record.rules);
            self.undo(&steps).await;
            if let Err(error) = self.remove_files(record) {
                tracing::warn!("while undoing: {error}");
            }
            let removed_containers = vec![record.name.clone()];
            if let Err(error) = self.store.save(&Changes { removed_containers, ..Changes::default() }) {
                tracing::warn!("while undoing: {error}");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Removes a container; a running one only with `force`, which also makes a name that nobody has no error.
    pub async fn remove(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let mut state = self.change().await?;
        let record = match state.container(name) {
            Ok(record) => record.clone(),
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        let _slim = SlimDown::after(record.rules.len());
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

    /// Forgets a container and takes it out of the kernel, to the end whatever fails. What it has of a network that others share
    /// with it goes to one of those.
    pub(super) async fn take_down(self: &Arc<Self>, state: &mut State, record: &ContainerRecord) -> Result<()> {
        if let Some(changes) = state.inherited(record) {
            self.store.save(&changes)?;
            let heir = changes.containers.first().map(|heir| heir.name.clone());
            state.hand_over(record, changes);
            self.tell_names(state).await;
            let written = heir.and_then(|heir| state.containers.get(&heir)).map(|heir| self.write_files(state, heir));
            return written.unwrap_or(Ok(())).and(self.remove_files(record));
        }
        // Forgotten first: after a crash in what follows, a later start removes what nobody knows.
        self.store.save(&Changes { removed_containers: vec![record.name.clone()], ..Changes::default() })?;
        state.containers.remove(&record.name);
        self.tell_names(state).await;
        release(state, &record.rules);
        let mut errors: Vec<Error> = withdraw(&self.datapath, state, &record.rules).err().into_iter().collect();
        let mut observed = observed(record, &state.networks);
        if record.owns_netns {
            // Deleted later: nobody looks for it in a namespace that has lost its name.
            observed.devices.clear();
        }
        errors.extend(self.apply_all(&plan(&[], &observed)).await);
        for endpoint in record.ours(&state.networks).filter(|_| record.owns_netns) {
            self.doom(endpoint.ifindex, &endpoint.device);
        }
        errors.extend(self.remove_files(record).err());
        for endpoint in &record.endpoints {
            state.networks.release(endpoint);
        }
        if record.is_machine() {
            errors.extend(self.follow_given_back(state).await.err());
        }
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
        state.containers.values().map(|record| record.describe(&state.networks)).collect()
    }

    /// One container.
    pub async fn inspect(&self, name: &str) -> Result<Container> {
        let state = self.state.lock().await;
        state.container(name).map(|record| record.describe(&state.networks))
    }
}

impl State {
    /// The networks of a container as they are kept.
    pub(super) fn networks_of(&self, record: &ContainerRecord) -> Vec<NetworkRecord> {
        record.endpoints.iter().map(|endpoint| self.networks.of(endpoint).record.clone()).collect()
    }

    /// What is kept when a container goes whose namespace others share: the first of them has what it had.
    pub(super) fn inherited(&self, record: &ContainerRecord) -> Option<Changes> {
        let sharers = self.containers.values().filter(|other| other.shared_with.as_ref() == Some(&record.name));
        let mut sharers: Vec<ContainerRecord> = sharers.cloned().collect();
        sharers.sort_by_key(|sharer| sharer.created);
        let (heir, others) = sharers.split_first_mut()?;
        heir.shared_with = None;
        heir.owns_netns = record.owns_netns;
        heir.is_taken_in = record.is_taken_in;
        heir.endpoints.clone_from(&record.endpoints);
        heir.rules.clone_from(&record.rules);
        for other in others {
            other.shared_with = Some(heir.name.clone());
        }
        Some(Changes { containers: sharers, removed_containers: vec![record.name.clone()], ..Changes::default() })
    }

    pub(super) fn hand_over(&mut self, record: &ContainerRecord, changes: Changes) {
        self.containers.remove(&record.name);
        self.containers.extend(changes.containers.into_iter().map(|sharer| (sharer.name.clone(), sharer)));
    }
}

/// What a container is in the kernel when all is as it should be.
pub(super) fn observed(record: &ContainerRecord, networks: &Networks) -> Observed {
    let ends = || record.ours(networks);
    let devices = |is_tap: bool| {
        let such = ends().filter(|endpoint| endpoint.is_tap == is_tap);
        such.map(|endpoint| (endpoint.ifindex, endpoint.device.clone())).collect()
    };
    let reached = |endpoint: &EndpointRecord| endpoint.reached_by(networks.of(endpoint));
    Observed {
        namespaces: record.made_as().into_iter().collect(),
        devices: devices(false),
        taps: devices(true),
        attached: ends().flat_map(EndpointRecord::hooks).map(|hook| (hook.program, hook.ifindex)).collect(),
        endpoints: ends().map(|endpoint| (endpoint.slot, endpoint.in_datapath(networks.of(endpoint)))).collect(),
        addresses: ends()
            .flat_map(|endpoint| reached(endpoint).into_iter().map(|address| (address, endpoint.slot)))
            .collect(),
        lans: record.lans(networks).map(|end| end.key()).collect(),
    }
}

/// Refuses the name of a namespace that is there already.
fn check_free(state: &State, netns: &Path, name: &str) -> Result<()> {
    match state.containers.values().find(|record| record.netns == netns) {
        Some(holder) => Err(Error::Conflict(format!(
            "the network namespace {} is that of container {} now: choose another name, or remove that container first",
            netns.display(),
            holder.name
        ))),
        None if namespace::exists(netns) => Err(namespace::in_use(name)),
        None => Ok(()),
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
    networks: &Networks,
    observed: &Observed,
) -> Vec<Step> {
    // Who shares a namespace has nothing of its own there.
    let desired = desired.filter(|record| !record.is_host && record.shared_with.is_none());
    let desired: Vec<_> = desired.map(|record| record.wanted(networks)).collect();
    plan(&desired, observed)
}

/// Marks of namespaces that an instance has made.
pub(super) fn marked(marks: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(marks).context(|| format!("read {}", marks.display()))?;
    Ok(entries.flatten().map(|entry| PathBuf::from(entry.file_name()).display().to_string()).collect())
}
