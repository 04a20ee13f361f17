//! Putting back what somebody has taken away. docs/repair.md says what is put back, and what is told alone.
//!
//! The kernel announces what happens to devices, addresses, routes and filters. Of links and pins it tells nobody: those are looked at
//! once per second. What is found missing is put back by the steps that a start would take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::containers::steps;
use super::hooks::Owner;
use super::plan::Step;
use super::state::State;
use super::{Engine, host};
use crate::datapath::{Attachment, Hook};
use crate::error::{Context as _, Error, Result};
use crate::net::watch::Changes;

/// How often is looked at what nobody announces.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the same damage is left alone when it could not be repaired.
const PAUSE: Duration = Duration::from_secs(2);

/// Every so many looks the settings of the host's devices are looked at.
const SETTINGS_EVERY: u32 = 5;

/// What the repair knows from look to look.
#[derive(Debug, Default)]
pub(super) struct Repair {
    told: Arc<Notify>,
    suspects: Mutex<Suspects>,
    failure: Mutex<Failure>,
}

/// What the kernel's announcements make one look at.
#[derive(Debug, Default)]
struct Suspects {
    /// Devices that are down or gone, or have lost an address or a route.
    devices: BTreeSet<u32>,
    /// Devices that have lost a filter, where filters stay.
    filters: BTreeSet<u32>,
    /// Announcements were lost.
    everything: bool,
}

/// What could not be repaired.
#[derive(Debug, Default)]
struct Failure {
    damage: Damage,
    at: Option<Instant>,
    /// What is in the log already, and goes on.
    told: BTreeSet<String>,
    problems: Vec<String>,
}

/// What is not as it should be, and can be put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Damage {
    /// netbpf0 or netbpf1.
    devices: bool,
    sockets: bool,
    uplinks: BTreeSet<u32>,
    containers: BTreeSet<String>,
    /// Devices of containers that are down.
    down: BTreeSet<u32>,
}

/// What one look has found.
#[derive(Debug, Default)]
struct Found {
    damage: Damage,
    /// What is for somebody else to put right, one line each.
    beyond: Vec<String>,
}

impl Engine {
    /// Looks, and is told, until the engine stops.
    pub(super) fn keep_right(self: &Arc<Self>) {
        let (engine, told) = (self.weak(), self.repair.told.clone());
        let repair = self.spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut looks = 0_u32;
            loop {
                let is_time = tokio::select! {
                    _ = ticks.tick() => true,
                    () = told.notified() => false,
                };
                let Some(engine) = engine.upgrade() else { return };
                looks = looks.wrapping_add(u32::from(is_time));
                let with_settings = is_time && looks.is_multiple_of(SETTINGS_EVERY);
                if let Err(error) = engine.look(is_time, with_settings).await {
                    engine.tell(Found::default(), vec![error.to_string()], is_time);
                }
            }
        });
        self.tasks.keep("looks for damage", repair);
    }

    /// Takes note of announcements that something may be missing.
    pub(super) fn suspect(&self, changes: &Changes) {
        let down = changes.devices.values().filter(|device| !device.is_up && host::is_own(device, self.gateway_mac));
        let mut suspects = self.repair.suspects.lock().expect("no panic while it was held");
        suspects.devices.extend(down.map(|device| device.ifindex));
        suspects.devices.extend(changes.losers.iter().filter(|loser| **loser == self.devices.0));
        if !self.datapath.has_links() {
            suspects.filters.extend(&changes.filters);
        }
        suspects.everything |= changes.lost;
        if suspects.everything || !suspects.devices.is_empty() || !suspects.filters.is_empty() {
            self.repair.told.notify_one();
        }
    }

    /// At the next look: nobody announces it again.
    fn suspect_again(&self, before: Suspects) {
        let mut suspects = self.repair.suspects.lock().expect("no panic while it was held");
        suspects.devices.extend(before.devices);
        suspects.filters.extend(before.filters);
        suspects.everything |= before.everything;
    }

    /// What could not be repaired, and what has no link, one line each.
    pub(super) fn unrepaired(&self) -> Vec<String> {
        let mut problems = self.repair.failure.lock().expect("no panic while it was held").problems.clone();
        problems.extend(self.unlinked());
        problems
    }

    async fn look(self: &Arc<Self>, is_time: bool, with_settings: bool) -> Result<()> {
        let suspects = std::mem::take(&mut *self.repair.suspects.lock().expect("no panic while it was held"));
        let looked = self.look_at(&suspects, is_time, with_settings).await;
        if !matches!(looked, Ok(true)) {
            self.suspect_again(suspects);
        }
        looked.map(drop)
    }

    /// Whether all is right then, as far as it can be.
    async fn look_at(self: &Arc<Self>, suspects: &Suspects, is_time: bool, with_settings: bool) -> Result<bool> {
        let mut errors = Vec::new();
        let (mut attachments, mut has_lost_pins) = (None, false);
        // Now and then all of them: one may have been removed before it was known.
        let all_filters = suspects.everything || with_settings;
        if all_filters || !suspects.filters.is_empty() {
            self.forget_lost_filters((!all_filters).then_some(&suspects.filters)).await?;
        }
        if is_time || suspects.everything || !suspects.filters.is_empty() {
            // Without the state: the kernel answers for each link when no device is being deleted.
            let datapath = self.datapath.clone();
            let look = move || (datapath.lost_pins(), datapath.attachments());
            let (lost, seen) = tokio::task::spawn_blocking(look).await.context(|| "look at links".into())?;
            has_lost_pins = self.settings.repair && !lost.is_empty();
            attachments = Some(seen?);
        }
        let mut guard = self.state.lock().await;
        if self.is_stopping() {
            return Ok(true);
        }
        let state = &mut *guard;
        // With the state: who removes an instance has it too, and its pins must not come back.
        if has_lost_pins {
            match self.datapath.keep_pins() {
                Ok(lost) => {
                    let directory = self.settings.bpffs.display();
                    let first = lost.first().map(String::as_str);
                    tracing::warn!(count = lost.len(), first, "pins were missing in {directory}: pinned again");
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
        let mut found = Found::default();
        if let Some(attachments) = attachments {
            self.find_detached(state, &attachments, &mut found)?;
        }
        self.find_devices(state, suspects, &mut found).await?;
        found.damage.devices |= with_settings && self.devices_differ(state);
        if self.settings.repair && found.damage != Damage::default() {
            if self.is_paused(&found.damage) {
                return Ok(false);
            }
            errors.extend(self.mend(state, &found.damage).await);
        }
        if is_time {
            errors.extend(self.remove_left_queues(state).await.iter().map(ToString::to_string));
        }
        let is_right = errors.is_empty();
        if is_time || !is_right {
            self.tell(found, errors, is_time);
        }
        Ok(is_right)
    }

    /// What hangs no more where it should.
    fn find_detached(&self, state: &State, attachments: &[Attachment], found: &mut Found) -> Result<()> {
        let Found { damage, beyond } = found;
        let attached: BTreeSet<(&str, u64)> =
            attachments.iter().filter(|it| it.is_current).map(|it| (&*it.program, it.target)).collect();
        for (owner, hook) in self.hooks(state) {
            // What has come since the look is asked for by itself.
            if attached.contains(&(hook.program, u64::from(hook.ifindex))) || self.datapath.is_attached(&hook)? {
                continue;
            }
            match owner {
                Owner::Host => damage.devices = true,
                Owner::Uplink(ifindex, _) => _ = damage.uplinks.insert(ifindex),
                Owner::Container(name) => match state.containers.get(&name) {
                    Some(record) if record.exists() => _ = damage.containers.insert(name),
                    Some(record) if record.is_machine() => {
                        beyond.push(format!("container {name}: its tap is gone: `netbpf rm {name}` forgets it"));
                    }
                    _ => beyond.push(format!("container {name}: its namespace is gone: `netbpf rm {name}` forgets it")),
                },
            }
        }
        match self.lost_sockets(attachments) {
            Ok(lost) => damage.sockets = !lost.is_empty(),
            // Those that are attached go on.
            Err(error) => beyond.push(error.to_string()),
        }
        Ok(())
    }

    /// What devices are missing or down, of those that were announced.
    async fn find_devices(&self, state: &State, suspects: &Suspects, found: &mut Found) -> Result<()> {
        let of_host = [self.devices.0, self.devices.1];
        if suspects.everything || of_host.iter().any(|device| suspects.devices.contains(device)) {
            found.damage.devices |= !self.device_problems(&state.networks).await?.is_empty();
        }
        let ends: BTreeMap<u32, String> = state
            .endpoints()
            .filter(|(_, endpoint)| suspects.everything || suspects.devices.contains(&endpoint.ifindex))
            .filter(|(record, endpoint)| record.exists() && state.networks.of(endpoint).is_ours())
            .map(|(record, endpoint)| (endpoint.ifindex, record.name.clone()))
            .collect();
        for (ifindex, name) in ends {
            match self.netlink.device(ifindex).await? {
                None => _ = found.damage.containers.insert(name),
                Some(device) if !device.is_up => _ = found.damage.down.insert(ifindex),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Puts back what is missing. Returns what failed.
    async fn mend(self: &Arc<Self>, state: &mut State, damage: &Damage) -> Vec<String> {
        let mut errors = Vec::new();
        let mut note = |what: &str, result: Result<()>| match result {
            Ok(()) => tracing::warn!("{what}: somebody had changed it, it is set right"),
            Err(error) => errors.push(format!("{what} could not be repaired: {error}")),
        };
        if damage.devices {
            note("netbpf0 and netbpf1", self.restore_devices(&state.networks).await);
        }
        if damage.sockets {
            note("the socket hooks", self.datapath.attach_sockets(&self.cgroup));
        }
        if !damage.uplinks.is_empty() {
            note("the program of uplinks", self.restore_uplinks(state, &damage.uplinks).await);
        }
        if !damage.containers.is_empty() {
            let names = damage.containers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            note(&format!("container {names}"), self.restore_ends(state, &damage.containers).await);
        }
        for ifindex in &damage.down {
            note(&format!("device {ifindex}"), self.raise(*ifindex).await);
        }
        errors
    }

    /// Attaches the program of uplinks again. Nothing is sent by one meanwhile whose answers nobody would understand.
    async fn restore_uplinks(&self, state: &mut State, uplinks: &BTreeSet<u32>) -> Result<()> {
        for ifindex in uplinks {
            if let Some(uplink) = state.host.uplinks.get_mut(ifindex) {
                uplink.is_attached = false;
                uplink.express = None;
                self.write_uplink(*ifindex, uplink)?;
            }
        }
        let seen = self.look_at_host().await?;
        self.follow_host(state, &seen)?;
        let still = |ifindex: &&u32| state.host.uplinks.get(ifindex).is_some_and(|uplink| !uplink.is_attached);
        match uplinks.iter().find(still) {
            Some(ifindex) => {
                Err(Error::Internal(format!("device {ifindex} takes no program: `netbpf status` and the log say why")))
            }
            None => Ok(()),
        }
    }

    /// Sets a container's device up, with its program: without, it would be a door into the host.
    async fn raise(&self, ifindex: u32) -> Result<()> {
        let Some(device) = self.netlink.device(ifindex).await? else { return Ok(()) };
        let hook = if device.is_tun { Hook::tap } else { Hook::egress };
        self.attach_to_device(hook(ifindex, device.name)).await?;
        self.netlink.set_up(ifindex).await
    }

    /// Makes again what containers lack on the host's side, and inside when their devices are made again.
    async fn restore_ends(&self, state: &State, names: &BTreeSet<String>) -> Result<()> {
        let observed = self.observe(state).await?;
        let records = || state.containers.values().filter(|record| names.contains(&record.name));
        // What nobody desires is being removed by who has made it so.
        let mut planned = steps(records(), &state.networks, &observed);
        planned.retain(Step::is_making);
        let mut errors = self.apply_all(&planned).await;
        for record in records() {
            errors.extend(self.answer_by_own_ends(state, record).await.err());
        }
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Whether this very damage could not be repaired a moment ago.
    fn is_paused(&self, damage: &Damage) -> bool {
        let failure = self.repair.failure.lock().expect("no panic while it was held");
        let is_recent = failure.at.is_some_and(|at| at.elapsed() < PAUSE);
        is_recent && *damage != Damage::default() && failure.damage == *damage
    }

    /// Keeps what failed for who asks, and logs what was not in the log. What is not said again at its time is over.
    fn tell(&self, found: Found, errors: Vec<String>, is_time: bool) {
        let mut failure = self.repair.failure.lock().expect("no panic while it was held");
        let mut lines: BTreeSet<String> = errors.iter().cloned().chain(found.beyond).collect();
        for line in lines.difference(&failure.told) {
            tracing::warn!("{line}");
        }
        if !is_time {
            lines.extend(std::mem::take(&mut failure.told));
        }
        let at = (!errors.is_empty()).then(Instant::now);
        *failure = Failure { damage: found.damage, at, told: lines, problems: errors };
    }
}
