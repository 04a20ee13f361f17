//! Filters of devices on a kernel without TCX: they have no pins, and the kernel says when one is removed.

use std::collections::BTreeSet;

use super::Engine;
use super::state::State;
use crate::config::Settings;
use crate::datapath::{Direction, Way, is_own_filter, queues, remove_filter};
use crate::error::{Error, Result};
use crate::net::Netlink;

impl Engine {
    /// Forgets filters that somebody has removed, of these devices or of all.
    pub(super) async fn forget_lost_filters(&self, devices: Option<&BTreeSet<u32>>) -> Result<()> {
        for (since, hook) in self.datapath.kept_filters() {
            let Way::Stack(direction) = hook.way else { continue };
            if devices.is_some_and(|devices| !devices.contains(&hook.ifindex)) {
                continue;
            }
            let there = match direction {
                Direction::Ingress => self.netlink.ingress_filters(hook.ifindex).await?,
                Direction::Egress => self.netlink.egress_filters(hook.ifindex).await?,
            };
            if !there.into_iter().any(is_own_filter) {
                self.datapath.forget_filter(since, &hook);
            }
        }
        Ok(())
    }

    /// Takes away the queues of devices that are served no more. Returns what failed.
    pub(super) async fn remove_left_queues(&self, state: &State) -> Vec<Error> {
        let mut errors = Vec::new();
        let taps = state.taps();
        for hook in self.datapath.left_queues() {
            // One that is to be served may run the program of an agent before this one until it takes another.
            if state.host.uplinks.contains_key(&hook.ifindex) || taps.contains(&hook.ifindex) {
                continue;
            }
            if self.datapath.leave_queue(&hook) {
                let removed = self.netlink.remove_empty_queue(hook.ifindex).await;
                errors.extend(removed.and_then(|()| self.datapath.forget_queue(&hook)).err());
            }
        }
        errors
    }
}

/// Takes away what an instance has added to devices of others for its filters. Queues that others have filters in stay. Returns what
/// failed.
pub(super) async fn remove_queues(netlink: &Netlink, settings: &Settings) -> Vec<Error> {
    let mut errors = Vec::new();
    for hook in queues(&settings.bpffs) {
        remove_filter(&hook);
        errors.extend(netlink.remove_empty_queue(hook.ifindex).await.err());
    }
    errors
}
