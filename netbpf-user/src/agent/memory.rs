//! Memory of large requests.

use std::time::Duration;

use crate::datapath::give_memory_back;

/// Publishes of a request that is large.
const MANY: usize = 1000;

/// The answer has gone by then.
const SOON: Duration = Duration::from_secs(1);

/// Gives memory back to the kernel a moment after it is dropped, when there were many publishes: what a request and its answer take is ten
/// times what stays of them, if it was not refused.
#[derive(Debug)]
pub(super) struct SlimDown {
    publishes: usize,
}

impl SlimDown {
    /// For a request about so many publishes.
    pub(super) fn after(publishes: usize) -> Self {
        Self { publishes }
    }
}

impl Drop for SlimDown {
    fn drop(&mut self) {
        if self.publishes >= MANY {
            tokio::spawn(async {
                tokio::time::sleep(SOON).await;
                tokio::task::spawn_blocking(give_memory_back);
            });
        }
    }
}
