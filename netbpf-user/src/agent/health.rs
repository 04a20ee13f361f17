//! Whether the engine works, as a watchdog wants to know: not whether the process is there.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Engine;

/// Tasks that must not end while the engine serves, by what they do.
#[derive(Debug, Default)]
pub(super) struct Tasks(std::sync::Mutex<Vec<(&'static str, AbortHandle)>>);

impl Tasks {
    /// Keeps an eye on one.
    pub(super) fn keep(&self, what: &'static str, task: AbortHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((what, task));
    }

    /// One that has ended.
    fn lost(&self) -> Option<&'static str> {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().find(|(_, task)| task.is_finished()).map(|(what, _)| *what)
    }
}

impl Engine {
    /// What keeps the engine from serving: a lock that nobody gives back, a kernel that does not answer, a task that has ended.
    ///
    /// # Errors
    /// One line about the first of them.
    pub async fn check_health(&self, patience: Duration) -> Result<(), String> {
        // What removes the instance takes the time it takes.
        if self.is_stopping() {
            return Ok(());
        }
        if let Some(what) = self.tasks.lost() {
            return Err(format!("the task that {what} has ended"));
        }
        let seconds = patience.as_secs_f32();
        let turns = self.turns.load(Ordering::Relaxed);
        // A long queue is no reason as long as it moves.
        if timeout(patience, self.state.lock()).await.is_err() && turns == self.turns.load(Ordering::Relaxed) {
            return Err(format!("a request has held the engine for more than {seconds} s"));
        }
        match timeout(patience, self.netlink.device(self.devices.0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the kernel has not answered for {seconds} s")),
        }
    }

    /// The engine in one line, for who lists services; nothing while it is busy.
    pub fn headline(&self) -> Option<String> {
        let state = self.state.try_lock().ok()?;
        let of = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        Some(format!(
            "{}, {}, {}",
            of(state.containers.len(), "container"),
            of(state.networks.iter().count(), "network"),
            of(state.host.uplinks.len(), "uplink")
        ))
    }
}
