//! The places of flow entries, and which key leads to which.

use std::array;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use netbpf_common::abi::{Flow, FlowKey, Life};
use netbpf_common::wire::V4Addr;

use super::{Reuse, held};

/// Words of an entry.
pub(super) const WORDS: usize = size_of::<Flow<V4Addr>>() / size_of::<u64>();

/// A pool of entries. None of its methods is a point at which another CPU may go on.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Vec<[AtomicU64; WORDS]>,
    table: Mutex<Table>,
    reuse: Reuse,
}

#[derive(Debug)]
struct Table {
    linked: HashMap<FlowKey<V4Addr>, usize>,
    free: VecDeque<usize>,
}

impl Pool {
    pub(super) fn new(size: usize, reuse: Reuse) -> Self {
        let slots = (0..size).map(|_| array::from_fn(|_| AtomicU64::new(0))).collect();
        let table = Table { linked: HashMap::new(), free: (0..size).collect() };
        Self { slots, table: Mutex::new(table), reuse }
    }

    pub(super) fn size(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn free(&self) -> usize {
        held(&self.table).free.len()
    }

    pub(super) fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.slots[slot][word]
    }

    /// An entry as it is at this instant.
    pub(super) fn peek(&self, slot: usize) -> Flow<V4Addr> {
        bytemuck::cast(array::from_fn::<u64, WORDS, _>(|word| self.word(slot, word).load(Ordering::SeqCst)))
    }

    pub(super) fn find(&self, key: &FlowKey<V4Addr>) -> Option<usize> {
        held(&self.table).linked.get(key).copied()
    }

    pub(super) fn take(&self) -> Option<usize> {
        held(&self.table).free.pop_front()
    }

    /// From here on the key leads to this place; the one it led to before.
    pub(super) fn link(&self, key: &FlowKey<V4Addr>, slot: usize) -> Option<usize> {
        held(&self.table).linked.insert(*key, slot)
    }

    /// From here on the key leads nowhere; the place it led to.
    ///
    /// # Panics
    /// When this is half of a flow that lives.
    pub(super) fn unlink(&self, key: &FlowKey<V4Addr>) -> Option<usize> {
        let slot = self.find(key)?;
        let flow = self.peek(slot);
        let word = if flow.is_reply == 0 {
            flow.word
        } else {
            let original = self.find(&flow.other).map(|original| self.peek(original).word);
            original.filter(|word| word.same_flow(flow.word)).unwrap_or(flow.word.dead())
        };
        assert_eq!(word.life(), Life::Dead, "a live flow loses {key:?}: {flow:?}");
        held(&self.table).linked.remove(key)
    }

    pub(super) fn release(&self, slot: usize) {
        let free = &mut held(&self.table).free;
        match self.reuse {
            Reuse::AtOnce => free.push_front(slot),
            Reuse::Late => free.push_back(slot),
        }
    }

    pub(super) fn entries(&self) -> HashMap<FlowKey<V4Addr>, Flow<V4Addr>> {
        let linked = held(&self.table).linked.clone();
        linked.into_iter().map(|(key, slot)| (key, self.peek(slot))).collect()
    }
}
