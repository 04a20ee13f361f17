//! So many at a time, and so many of one container.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bound on something that containers take and give back.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    total: usize,
    each: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by: HashMap<Arc<str>, usize>,
}

/// One of them. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    taken: Arc<Mutex<Taken>>,
    by: Arc<str>,
}

impl Limits {
    pub(super) fn new(total: usize, each: usize) -> Self {
        Self { total, each, taken: Arc::default() }
    }

    /// `None` when this container has as many as it may, or all have.
    pub(super) fn take(&self, by: &Arc<str>) -> Option<Permit> {
        let mut taken = lock(&self.taken);
        if taken.total >= self.total || taken.by.get(by).is_some_and(|count| *count >= self.each) {
            return None;
        }
        taken.total += 1;
        *taken.by.entry(by.clone()).or_default() += 1;
        Some(Permit { taken: self.taken.clone(), by: by.clone() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        if let Some(count) = taken.by.get_mut(&self.by) {
            *count -= 1;
            // Containers come and go; their names need not stay.
            if *count == 0 {
                taken.by.remove(&self.by);
            }
        }
    }
}

/// Nothing panics between two changes of it.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_leaves_room_for_another_and_gives_back_what_it_took() {
        let limits = Limits::new(3, 2);
        let [greedy, modest, late] = ["greedy", "modest", "late"].map(Arc::from);
        let mut held = vec![limits.take(&greedy).unwrap(), limits.take(&greedy).unwrap()];
        assert!(limits.take(&greedy).is_none(), "its own share is used up");
        held.push(limits.take(&modest).unwrap());
        assert!(limits.take(&late).is_none(), "all is used up");
        held.remove(0);
        assert!(limits.take(&late).is_some());
        drop(held);
        let taken = lock(&limits.taken);
        assert_eq!((taken.total, taken.by.len()), (0, 0));
    }
}
