//! What setting something up costs.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::cpu::joined;
use crate::results::{Subject, Unit};

/// What publishing some ports came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    /// Until the command returned.
    pub(crate) millis: f64,
    /// Processes that there are for it.
    pub(crate) processes: usize,
    /// Memory that is held for it, where somebody tells.
    pub(crate) kib: Option<f64>,
    /// The same when the command has just returned, where it takes more for a moment.
    pub(crate) kib_at_first: Option<f64>,
}

/// Milliseconds for each of some containers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networked {
    pub(crate) create: Vec<f64>,
    pub(crate) remove: Vec<f64>,
    /// Until the last of them was made.
    pub(crate) all: f64,
    /// Until the last of them was removed.
    pub(crate) gone: f64,
}

/// Memory, by what it is of.
pub(crate) type Memory = Vec<(Subject, f64)>;

/// Some memory of a process.
pub(crate) fn kib(of: &str, value: f64) -> (Subject, f64) {
    (Subject::new(of, Unit::Kibibytes), value)
}

/// Some bytes.
pub(crate) fn bytes(of: &str, value: f64) -> (Subject, f64) {
    (Subject::new(of, Unit::Bytes), value)
}

/// Makes so many at the same time, then removes them.
pub(crate) fn network(
    at_once: usize,
    create: impl Fn(usize) -> Result<()> + Sync,
    remove: impl Fn(usize) -> Result<()> + Sync,
) -> Result<Networked> {
    let (create, all) = at_the_same_time(at_once, create)?;
    let (remove, gone) = at_the_same_time(at_once, remove)?;
    Ok(Networked { create, remove, all, gone })
}

fn at_the_same_time(number: usize, action: impl Fn(usize) -> Result<()> + Sync) -> Result<(Vec<f64>, f64)> {
    let (start, action) = (&Barrier::new(number + 1), &action);
    thread::scope(|scope| {
        let one = |which| {
            move || {
                start.wait();
                let started = Instant::now();
                action(which)?;
                Ok(millis(started))
            }
        };
        let threads: Vec<_> = (0..number).map(|which| scope.spawn(one(which))).collect();
        start.wait();
        let started = Instant::now();
        let times = threads.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        Ok((times, millis(started)))
    })
}

/// Milliseconds since then.
pub(crate) fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
