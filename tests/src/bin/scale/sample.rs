//! Times out of many.

use std::fmt;
use std::time::{Duration, Instant};

/// What was measured again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Does something and notes how long it took.
    pub(crate) fn time<T, E>(&mut self, action: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let result = action()?;
        self.add(started.elapsed());
        Ok(result)
    }

    /// The time that so many of a thousand are not above.
    pub(crate) fn at(&self, share: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len().max(1) - 1) * share / 1000).copied().unwrap_or_default()
    }

    /// Those of the first and of the last tenth, in the order in which they were added.
    pub(crate) fn ends(&self) -> [Self; 2] {
        let tenth = self.0.len().div_ceil(10);
        [&self.0[..tenth], &self.0[self.0.len() - tenth..]].map(|part| Self(part.to_vec()))
    }
}

/// The median and the middle nine tenths, in milliseconds.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("-");
        }
        let [median, low, high] = [500, 50, 950].map(|share| self.at(share).as_secs_f64() * 1e3);
        f.pad(&format!("{median:.2} ({low:.2} to {high:.2})"))
    }
}
