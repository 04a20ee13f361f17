//! How much of something users may have at a time: nobody takes all of it, and root always finds room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Uid;

/// The most that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    /// Of all users together.
    pub(super) of_all: usize,
    /// Of all users but root together; less than that of all, or root would not find room.
    pub(super) of_others: usize,
    /// Of one user who is not root.
    pub(super) of_one: usize,
}

/// Who has how much.
#[derive(Debug)]
pub(super) struct Quota {
    most: Most,
    taken: Mutex<BTreeMap<u32, usize>>,
}

/// One that was taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    quota: Arc<Quota>,
    user: Uid,
}

impl Quota {
    pub(super) fn new(most: Most) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// One more for a user, unless that is too much.
    pub(super) fn take(self: &Arc<Self>, user: Uid) -> Option<Ticket> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let others = all - taken.get(&0).unwrap_or(&0);
        let own = taken.get(&user.as_raw()).copied().unwrap_or(0);
        let Most { of_all, of_others, of_one } = self.most;
        let has_room = all < of_all && (user.is_root() || (others < of_others && own < of_one));
        has_room.then(|| {
            taken.insert(user.as_raw(), own + 1);
            Ticket { quota: self.clone(), user }
        })
    }

    /// The counts are whole whatever has panicked.
    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut taken = self.quota.taken();
        let left = taken.get(&self.user.as_raw()).map_or(0, |own| own - 1);
        if left == 0 {
            taken.remove(&self.user.as_raw());
        } else {
            taken.insert(self.user.as_raw(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(quota: &Arc<Quota>, user: u32, count: usize) -> Vec<Ticket> {
        std::iter::from_fn(|| quota.take(Uid::from_raw(user))).take(count).collect()
    }

    #[test]
    fn nobody_takes_what_is_left_to_others_and_root_finds_room() {
        let quota = Quota::new(Most { of_all: 10, of_others: 6, of_one: 4 });
        let one = take(&quota, 1000, 99);
        assert_eq!(one.len(), 4, "of one user");
        let other = take(&quota, 1001, 99);
        assert_eq!(other.len(), 2, "of all but root");
        let root = take(&quota, 0, 99);
        assert_eq!(root.len(), 4, "of all");
        drop(one);
        assert_eq!(take(&quota, 0, 99).len(), 4, "what is given back can be taken again");
        assert_eq!(take(&quota, 1001, 99).len(), 2);
        drop((other, root));
        assert!(quota.taken().is_empty(), "nothing is kept of those who have nothing");
    }
}
