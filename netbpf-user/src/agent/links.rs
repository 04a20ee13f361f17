//! Links for the programs of devices that have just been made.
//!
//! Who makes a container does not wait for one: the kernel makes a link in a grace period of RCU, during which it changes no
//! device. Until then the program is a filter of the device, which sees the same packets and returns the same. It is not
//! pinned and needs not be: it goes with its device alone, and an agent that starts makes a link of it as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Engine;
use crate::error::Context as _;

/// How long nothing was made before links are: who makes the next container is not kept waiting.
const QUIET: Duration = Duration::from_millis(250);

/// How long nothing is tried when it could not be done.
const PAUSE: Duration = Duration::from_secs(2);

impl Engine {
    /// Makes links of filters whenever it is quiet, until the engine stops.
    pub(super) fn keep_linked(self: &Arc<Self>) {
        let (engine, unlinked) = (self.weak(), self.unlinked.clone());
        let linking = self.spawn(async move {
            let mut told = String::new();
            loop {
                unlinked.notified().await;
                // Each newcomer begins the wait anew.
                while timeout(QUIET, unlinked.notified()).await.is_ok() {}
                loop {
                    let Some(engine) = engine.upgrade() else { return };
                    let datapath = engine.datapath.clone();
                    let linked = tokio::task::spawn_blocking(move || datapath.link_one()).await;
                    drop(engine);
                    match linked.context(|| "make a link".into()).flatten() {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            // The same every time, and meanwhile the filter does.
                            let line = error.to_string();
                            if line != told {
                                tracing::warn!("{line}");
                                told = line;
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                    // Somebody makes another: after that one.
                    while timeout(Duration::ZERO, unlinked.notified()).await.is_ok() {
                        tokio::time::sleep(QUIET).await;
                    }
                }
            }
        });
        self.tasks.keep("makes links", linking);
    }
}
