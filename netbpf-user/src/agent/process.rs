//! Processes of containers: who runs, and what happens when one ends.

use std::sync::Arc;

use nix::unistd::Uid;
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Engine;
use crate::api::types::Container;
use crate::datapath::readable;
use crate::error::{Context as _, Error, Result};
use crate::store::{Changes, ProcessRecord};

/// Whether this very process still runs, and not a later one with its number. A zombie has ended.
pub(super) fn is_running(process: &ProcessRecord) -> bool {
    !process.exited && start_of(process.pid) == Some(process.start)
}

fn start_of(pid: u32) -> Option<u64> {
    look_at(pid).map(|(start, _)| start)
}

/// When a process has started, and whose it is: root's, when it does not let its user look into it.
fn look_at(pid: u32) -> Option<(u64, Uid)> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let (stat, owner) = (process.stat().ok()?, process.uid().ok()?);
    (!matches!(stat.state, 'Z' | 'X')).then_some((stat.starttime, Uid::from_raw(owner)))
}

fn open(process: &ProcessRecord) -> Result<Option<std::os::fd::OwnedFd>> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // It may have ended, and its number be another's, before the descriptor was open.
        Ok(pidfd) => Ok(is_running(process).then_some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error).context(|| format!("watch process {}", process.pid)),
    }
}

/// Kills a process, if it still runs.
pub(super) fn kill(process: &ProcessRecord) -> Result<()> {
    let Some(pidfd) = open(process)? else { return Ok(()) };
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context(|| format!("kill process {}", process.pid)),
    }
}

impl Engine {
    /// Notes the process that runs in a container, and watches it. It must be one of the user's who says so, or root's word: it is killed
    /// with its container.
    pub async fn set_process(self: &Arc<Self>, name: &str, pid: u32, user: Uid) -> Result<Container> {
        let mut state = self.change().await?;
        let mut record = state.container(name)?.clone();
        if let Some(running) = record.process.filter(is_running) {
            return Err(Error::Conflict(format!("container {name} runs process {} already", running.pid)));
        }
        let (start, owner) = look_at(pid).ok_or_else(|| Error::Invalid(format!("there is no process {pid}")))?;
        if !user.is_root() && user != owner {
            return Err(Error::Invalid(format!(
                "process {pid} is not one of user {user}, who would have it killed with its container: name an own one, or ask as root"
            )));
        }
        let process = ProcessRecord { pid, start, exited: false };
        record.process = Some(process);
        self.store.save(&Changes::from(&record))?;
        let container = record.describe(&state.networks);
        state.containers.insert(name.into(), record);
        self.watch(name.into(), process);
        Ok(container)
    }

    /// Waits, in the background, for the end of a process.
    pub(super) fn watch(self: &Arc<Self>, name: String, process: ProcessRecord) {
        let engine = Arc::downgrade(self);
        self.spawn(async move {
            let ended = async {
                let Some(pidfd) = open(&process)? else { return Ok(()) };
                let what = || format!("watch process {}", process.pid);
                // Readable once, when the process has ended.
                readable(pidfd).context(what)?.readable().await.context(what)?.retain_ready();
                Ok::<_, Error>(())
            };
            let result = ended.await;
            let Some(engine) = engine.upgrade() else { return };
            if let Err(error) = match result {
                Ok(()) => engine.ended(&name, process).await,
                Err(error) => Err(error),
            } {
                tracing::warn!(container = name, "{error}");
            }
        });
    }

    async fn ended(self: &Arc<Self>, name: &str, process: ProcessRecord) -> Result<()> {
        let mut state = self.state.lock().await;
        // The container, or its process, may be another by now.
        let Some(mut record) = state.containers.get(name).filter(|record| record.process == Some(process)).cloned()
        else {
            return Ok(());
        };
        tracing::info!(container = name, pid = process.pid, "process ended");
        if record.remove_on_exit {
            return self.take_down(&mut state, &record).await;
        }
        record.process = Some(ProcessRecord { exited: true, ..process });
        self.store.save(&Changes::from(&record))?;
        state.containers.insert(name.into(), record);
        Ok(())
    }
}
