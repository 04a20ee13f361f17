//! A part of all schedules there are, so that CPUs can try them side by side.

use shuttle::scheduler::{DfsScheduler, Schedule, Scheduler, Task, TaskId};

/// Points with a choice before the first that tells parts apart: the trees behind them are about as large as each other.
const COMMON: u32 = 4;

/// Tries all schedules of one part. Which part a schedule is of say as many of its choices as a number has bits, each by whether
/// it is an even or an odd one of those that there were: each schedule is of exactly one.
#[derive(Debug)]
pub struct Part {
    all: DfsScheduler,
    number: u32,
    bits: u32,
    choices: u32,
}

impl Part {
    /// The part with this number among 2^`bits`, of which no more than `most` are tried.
    pub fn new(number: u32, bits: u32, most: usize) -> Self {
        Self { all: DfsScheduler::new(Some(most), true), number, bits, choices: 0 }
    }
}

impl Scheduler for Part {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.choices = 0;
        self.all.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        if runnable.len() == 1 {
            return self.all.next_task(runnable, current, is_yielding);
        }
        let bit = self.choices.checked_sub(COMMON).filter(|bit| *bit < self.bits);
        self.choices += 1;
        let Some(bit) = bit else { return self.all.next_task(runnable, current, is_yielding) };
        let is_odd = (self.number >> bit & 1) as usize;
        let ours: Vec<_> = runnable.iter().skip(is_odd).step_by(2).copied().collect();
        self.all.next_task(&ours, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.all.next_u64()
    }
}
