//! The engine: desired state, and making the kernel agree with it.
//!
//! Every request takes the one lock of `State`, is checked before anything is touched, and leaves either all
//! of its effects or none. What the kernel has is found again after a crash: see `reconcile`.

mod allowed;
mod apply;
mod bridge_options;
mod check;
mod collector;
mod connect;
mod containers;
mod describe;
mod doctor;
mod ends;
mod exposure;
mod express;
mod files;
mod filters;
mod flows;
mod health;
mod hooks;
mod host;
mod inside;
#[doc(hidden)]
pub mod judge;
mod kept;
mod lan;
mod lan_options;
mod links;
mod members;
mod memory;
mod names;
mod network;
mod networks;
mod parent;
mod place;
mod plan;
pub mod privileges;
mod process;
mod publish;
mod publishes;
mod reboot;
mod reconcile;
mod repair;
mod requested;
mod reserve;
mod rules;
mod sockets;
mod start;
mod state;
mod status;
mod taps;
mod uninstall;
mod uplinks;
mod wish;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use netbpf_common::wire::Mac;
use nix::fcntl::Flock;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};

use crate::config::{GlobalId, Settings, Virtuals};
use crate::datapath::Datapath;
use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::store::Store;
use state::State;

pub(crate) use check::resolver as check_resolver;
pub use doctor::{CHECKS, compare_versions, doctor_without_agent};
pub(crate) use network::DEFAULT_NETWORK;
pub use uninstall::uninstall;

/// Directory of marks below the run directory: one empty file per namespace that the instance has made. A reboot empties
/// it together with the namespaces.
const MARKS: &str = "netns";

/// One instance of netbpf on the network namespace it was started in.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    /// What the unique local addresses of the instance have in common.
    global_id: GlobalId,
    /// What stands for the host's own addresses.
    virtuals: Virtuals,
    cgroup: PathBuf,
    gateway_mac: Mac,
    /// Numbers of netbpf0 and netbpf1.
    devices: (u32, u32),
    datapath: Arc<Datapath>,
    netlink: Netlink,
    store: Arc<Store>,
    state: Mutex<State>,
    /// Requests that have had it.
    turns: AtomicU64,
    /// Host-side devices to be deleted, number and name.
    doomed: std::sync::Mutex<Vec<(u32, String)>>,
    /// Held by who deletes them.
    burial: Mutex<()>,
    since: u64,
    /// The resolver of containers, unless the settings switch it off.
    names: Option<names::Names>,
    /// Counters of the last minutes.
    recent: std::sync::Mutex<doctor::Recent>,
    /// What is put back when somebody takes it away.
    repair: repair::Repair,
    /// Tells that changes of the host were followed.
    followed: Notify,
    /// Asks the collector not to wait for its time.
    uncollected: Arc<Notify>,
    /// Who makes devices, and who makes links for their programs.
    linking: links::Linking,
    /// Who gets the broadcasts of whom.
    members: std::sync::Mutex<members::Members>,
    /// What must run for as long as the engine serves.
    tasks: health::Tasks,
    /// Ends the background tasks.
    stop: watch::Sender<bool>,
    /// Held while the agent lives: one agent per state directory.
    _lock: Flock<File>,
}

impl Engine {
    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Stops managing; the datapath goes on.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        // A request that was being served is served to its end.
        drop(self.state.lock().await);
        if let Err(error) = self.bury().await {
            tracing::warn!("{error}");
        }
        let datapath = self.datapath.clone();
        // Half of one would be left to the next start.
        _ = tokio::task::spawn_blocking(move || datapath.finish_link()).await;
    }

    /// Whether it serves no more requests that change something.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// The state for a request that changes it: refused when the engine stops, as after an uninstall nothing would remove
    /// what the request has made.
    async fn change(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock().await;
        self.turns.fetch_add(1, Ordering::Relaxed);
        if self.is_stopping() {
            return Err(Error::Conflict("the agent is stopping: ask again when it has been started anew".into()));
        }
        Ok(state)
    }

    /// Removes every container, program, pin, device and file of the instance. The engine is of no use afterwards.
    pub async fn uninstall(self: &Arc<Self>) -> Result<()> {
        let mut state = self.change().await?;
        start::check_files(&self.settings)?;
        self.stop.send_replace(true);
        let mut errors = Vec::new();
        // One after the other, as it is then: what one leaves to those who share its namespace is theirs.
        let names: Vec<String> = state.containers.keys().cloned().collect();
        // All devices in one go: the kernel takes hardly longer for a thousand than for one.
        let burial = self.burial.lock().await;
        for name in names {
            let Some(record) = state.containers.get(&name).cloned() else { continue };
            if let Some(running) = record.process.filter(process::is_running) {
                errors.extend(process::kill(&running).err());
            }
            errors.extend(self.take_down(&mut state, &record).await.err());
        }
        drop(burial);
        errors.extend(self.bury().await.err());
        for (_, lan) in state.networks.lans() {
            errors.extend(self.remove_parent(lan).await.err());
        }
        errors.extend(self.datapath.detach_all().err());
        errors.extend(start::remove_instance(&self.netlink, &self.settings, self.devices.0).await);
        files::sweep(&self.settings.run_dir, |_| false);
        errors.extend(start::remove_files(&self.settings));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Runs a task until it ends or the engine stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = task => {}
            }
        })
        .abort_handle()
    }

    /// For tasks, which must not keep the engine alive.
    fn weak(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }
}
