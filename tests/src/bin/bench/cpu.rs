//! Threads that stay on one CPU.

use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The CPU of who sends, where sender and receiver have one each.
pub(crate) const OTHER: usize = 0;
/// The CPU on which everything is that is said to be on one.
pub(crate) const ONE: usize = 1;

/// Does something in a thread that stays on a CPU.
pub(crate) fn pinned<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    cpu: usize,
    action: impl FnOnce() -> Result<T> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Result<T>> {
    scope.spawn(move || {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cannot stay on CPU {cpu}"))?;
        action()
    })
}

/// What a thread came to; its panic is ours.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
