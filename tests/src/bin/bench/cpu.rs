//! Threads that stay on one CPU, and how much of CPUs processes have had.

use std::fs;
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

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

/// Time that all threads of a process have had.
pub(crate) fn time_of(pid: u32) -> Result<Duration> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut time = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))? {
        // One that has just ended has nothing to tell.
        let told = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        time += Duration::from_nanos(told.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0));
    }
    Ok(time)
}
