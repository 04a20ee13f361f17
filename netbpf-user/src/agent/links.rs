//! Links for the programs of devices that have just been made.
//!
//! Who makes a container does not wait for one: the kernel makes a link in a grace period of RCU, during which it changes no
//! device. Until then the program is a filter of the device, which sees the same packets and returns the same. It is not
//! pinned and needs not be: it goes with its device alone, and an agent that starts makes a link of it as well.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Engine;
use crate::datapath::Hook;
use crate::error::{Context as _, Result};

/// How long nothing was made before links are: who makes the next container is not kept waiting.
const QUIET: Duration = Duration::from_millis(250);

/// How long a device is without a link at most. Nobody looks whether its filter is there, and a filter that somebody has removed is to be
/// missed no longer than a link.
const LONGEST: Duration = Duration::from_secs(1);

/// How long nothing is tried when it could not be done.
const PAUSE: Duration = Duration::from_secs(2);

/// What the makers of devices and the maker of links tell one another.
#[derive(Debug, Default)]
pub(super) struct Linking {
    told: Arc<Notify>,
    /// When a device was made last.
    made: Mutex<Option<Instant>>,
    /// What got no link, one line each.
    problems: Mutex<Vec<String>>,
}

impl Engine {
    /// Takes note that a device is being made, or is made.
    pub(super) fn link_later(&self) {
        *self.linking.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.linking.told.notify_one();
    }

    /// Attaches the program of a container to its new device, without a wait; [`keep_linked`](Self::keep_linked) makes a link of that.
    pub(super) async fn attach_new(&self, hook: Hook) -> Result<()> {
        let (datapath, device) = (self.datapath.clone(), hook.device.clone());
        let attach = tokio::task::spawn_blocking(move || datapath.attach_at_once(&hook));
        attach.await.context(|| format!("attach to {device}"))?
    }

    /// What got no link, one line each.
    pub(super) fn unlinked(&self) -> Vec<String> {
        self.linking.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes links of filters whenever it is quiet, until the engine stops.
    pub(super) fn keep_linked(self: &Arc<Self>) {
        let (engine, told) = (self.weak(), self.linking.told.clone());
        let linking = self.spawn(async move {
            loop {
                let Some(engine) = engine.upgrade() else { return };
                let wait = engine.make_links().await;
                drop(engine);
                match wait {
                    Some(wait) => _ = timeout(wait, told.notified()).await,
                    None => told.notified().await,
                }
            }
        });
        self.tasks.keep("makes links", linking);
    }

    /// Makes the links that it is time for. Returns after what time there may be more to do; nothing when there are no filters.
    async fn make_links(&self) -> Option<Duration> {
        let mut problems = Vec::new();
        let mut wait = None;
        for (since, hook) in self.datapath.unlinked() {
            let made = self.linking.made.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(since);
            let early = patience(since, made, Instant::now());
            if !early.is_zero() {
                wait = Some(early);
                break;
            }
            let datapath = self.datapath.clone();
            let linked = tokio::task::spawn_blocking(move || datapath.link_filter(since, &hook)).await;
            problems.extend(linked.context(|| "make a link".into()).flatten().err().map(|error| error.to_string()));
        }
        if !problems.is_empty() {
            wait = wait.or(Some(PAUSE));
        }
        let mut known = self.linking.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for line in problems.iter().filter(|line| !known.contains(line)) {
            tracing::warn!("{line}");
        }
        *known = problems;
        wait
    }
}

/// How long a filter of a device is left, by when it was attached and when a device was made last.
fn patience(since: Instant, made: Instant, now: Instant) -> Duration {
    let due = (made + QUIET).min(since + LONGEST);
    due.saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_when_it_is_quiet_or_the_filter_old() {
        let since = Instant::now();
        let left = |made: u64, now: u64| {
            let at = |millis| since + Duration::from_millis(millis);
            patience(since, at(made), at(now)).as_millis()
        };
        assert_eq!([left(0, 0), left(0, 100), left(0, 250), left(0, 5000)], [250, 150, 0, 0]);
        assert_eq!([left(200, 260), left(900, 901), left(999, 1000), left(2000, 2000)], [190, 99, 0, 0]);
    }
}
