//! What has become of queries, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has become of the queries so far. Each is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered by what is known of the networks.
    pub answered: u64,
    /// Answered by an upstream server.
    pub forwarded: u64,
    /// Answered with SERVFAIL, since no upstream server answered or there is none.
    pub failed: u64,
    /// Answered with NXDOMAIN instead of being forwarded, since the container is in internal networks alone.
    pub kept_inside: u64,
    /// Answered with SERVFAIL for the number of queries in flight; connections that were closed for their number.
    pub limited: u64,
    /// Answered with FORMERR or NOTIMP, or no query at all.
    pub malformed: u64,
    /// Dropped: who sent it is no member of the network.
    pub strangers: u64,
}

/// One of [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Answered,
    Forwarded,
    Failed,
    KeptInside,
    Limited,
    Malformed,
    Strangers,
}

#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; 7]);

impl Counters {
    pub(super) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let of = |count: Count| self.0[count as usize].load(Ordering::Relaxed);
        Counts {
            answered: of(Count::Answered),
            forwarded: of(Count::Forwarded),
            failed: of(Count::Failed),
            kept_inside: of(Count::KeptInside),
            limited: of(Count::Limited),
            malformed: of(Count::Malformed),
            strangers: of(Count::Strangers),
        }
    }
}
