//! Filters on clsact qdiscs: of devices that are new, until each has a link, and on a kernel without TCX of all. They have no pins:
//! the kernel keeps them with the device. The driver of a new netkit waits for its link among them, and has no filter.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Instant;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, TcAttachType};

use super::Datapath;
use super::hook::{Direction, Hook, Way};
use crate::error::{Context as _, Result};
use crate::failpoint;

/// Place of our filter on a clsact qdisc. Fixed, so that a new agent finds the filter of the one before it.
const FILTER: NlOptions = NlOptions { priority: 0x6e62, handle: TcHandle::new(0, 1), classid: None };

/// Those that this agent has attached, by device and program.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<(u32, &'static str), Filter>);

#[derive(Debug)]
struct Filter {
    hook: Hook,
    since: Instant,
}

impl Filters {
    pub(super) fn has(&self, hook: &Hook) -> bool {
        self.0.contains_key(&(hook.ifindex, hook.program))
    }

    /// Whether a device has any.
    fn has_device(&self, ifindex: u32) -> bool {
        self.0.keys().any(|(device, _)| *device == ifindex)
    }

    pub(super) fn hooks(&self) -> impl Iterator<Item = &Hook> {
        self.0.values().map(|filter| &filter.hook)
    }

    /// With when each was attached, the oldest first.
    pub(super) fn by_age(&self) -> Vec<(Instant, Hook)> {
        let mut all: Vec<_> = self.0.values().map(|filter| (filter.since, filter.hook.clone())).collect();
        all.sort();
        all
    }

    /// Whether it is still the one that was attached then: the number of a device that is gone is another's soon.
    pub(super) fn has_since(&self, since: Instant, hook: &Hook) -> bool {
        self.0.get(&(hook.ifindex, hook.program)).is_some_and(|filter| filter.since == since)
    }

    pub(super) fn add(&mut self, hook: &Hook) {
        self.0.insert((hook.ifindex, hook.program), Filter { hook: hook.clone(), since: Instant::now() });
    }

    /// Forgets one; whether it was there.
    pub(super) fn remove(&mut self, hook: &Hook) -> bool {
        self.0.remove(&(hook.ifindex, hook.program)).is_some()
    }

    /// Forgets one if it is still the one that was attached then.
    pub(super) fn remove_since(&mut self, since: Instant, hook: &Hook) {
        if self.has_since(since, hook) {
            self.remove(hook);
        }
    }
}

impl Datapath {
    pub(super) fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().expect("no panic while it was held")
    }

    /// Attaches a filter, or puts this agent's program into the one that is there.
    pub(super) fn attach_filter(&self, hook: &Hook, direction: Direction) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let direction: TcAttachType = direction.into();
        self.queues.add(hook)?;
        failpoint::before("attach a filter");
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let program = programs.classifier(hook.program)?;
        let options = TcAttachOptions::Netlink(NlOptions { ..FILTER });
        let id = match program.attach_with_options(&hook.device, direction, options) {
            // Ours, perhaps of an agent before this one: replaced in its place.
            Err(ProgramError::TcError(error)) if is_there(&error) => {
                let old = SchedClassifierLink::attached(&hook.device, direction, FILTER.priority, FILTER.handle, None);
                program.attach_to_link(old.context(what)?).context(what)?
            }
            attached => attached.context(what)?,
        };
        // Dropping it would detach the filter; it is to outlive the agent.
        std::mem::forget(program.take_link(id).context(what)?);
        self.filters().add(hook);
        Ok(())
    }

    /// The filters that stay, with when they were attached: none where the kernel has links to take their place.
    pub(crate) fn kept_filters(&self) -> Vec<(Instant, Hook)> {
        if self.has_links() { Vec::new() } else { self.filters().by_age() }
    }

    /// Forgets a filter that was attached then and that somebody has removed.
    pub(crate) fn forget_filter(&self, since: Instant, hook: &Hook) {
        self.filters().remove_since(since, hook);
    }

    /// Hooks on devices of others that have, or may have, a queue of ours and no filter that this agent knows.
    pub(crate) fn left_queues(&self) -> Vec<Hook> {
        let filters = self.filters();
        let mut left = self.queues.hooks();
        left.retain(|hook| !filters.has_device(hook.ifindex));
        left
    }

    /// Removes the filter of such a hook, if an agent before this one has left it; whether its device is served no more.
    pub(crate) fn leave_queue(&self, hook: &Hook) -> bool {
        let _turn = self.linking();
        let is_left = !self.filters().has_device(hook.ifindex);
        if is_left {
            remove_filter(hook);
        }
        is_left
    }

    /// Notes that such a queue is gone, or somebody else's.
    pub(crate) fn forget_queue(&self, hook: &Hook) -> Result<()> {
        self.queues.forget(hook).context(|| format!("forget the queue for filters of {}", hook.device))
    }
}

/// Whether what was to be made is there already.
pub(super) fn is_there(error: &TcError) -> bool {
    matches!(error, TcError::NetlinkError(error) if error.raw_os_error() == Some(libc::EEXIST))
}

/// Whether a filter of a clsact qdisc stands where ours do; `info` as the kernel has it: priority and protocol.
pub(crate) fn is_own_filter(info: u32) -> bool {
    info >> 16 == u32::from(FILTER.priority)
}

/// Removes our filter, and nothing else, from a device's clsact qdisc; the qdisc stays, others may use it.
pub(crate) fn remove_filter(hook: &Hook) {
    let Way::Stack(direction) = hook.way else { return };
    // A device that is gone has taken its filter with it.
    let Some(device) = hook.device_now() else { return };
    failpoint::before("remove a filter");
    let link = SchedClassifierLink::attached(&device, direction.into(), FILTER.priority, FILTER.handle, FILTER.classid);
    // A link detaches when it is dropped.
    drop(link);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forgets_a_filter_leaves_that_of_another_device_with_its_number() {
        let mut filters = Filters::default();
        let (old, new) = (Hook::egress(7, "nb-old"), Hook::egress(7, "nb-new"));
        filters.add(&old);
        let [(since, _)] = filters.by_age()[..] else { panic!("{filters:?}") };
        assert!(filters.has_since(since, &old));
        filters.add(&new);
        assert!(filters.has(&old) && !filters.has_since(since, &old));
        filters.remove_since(since, &old);
        let [(since, ref kept)] = filters.by_age()[..] else { panic!("{filters:?}") };
        assert_eq!(*kept, new);
        filters.remove_since(since, &new);
        assert!(!filters.has(&new));
    }
}
