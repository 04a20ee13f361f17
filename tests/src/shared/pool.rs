//! The places of flow entries, and which key leads to which.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use netbpf_common::abi::{Flow, FlowKey, Life};
use netbpf_common::path::Family;

use super::{Reuse, held};

/// Words of an entry.
pub(super) const fn words<F: Family>() -> usize {
    size_of::<Flow<F::Addr>>() / size_of::<u64>()
}

/// An entry of its words, read in their order.
pub(super) fn from_words<F: Family>(word: impl FnMut(usize) -> u64) -> Flow<F::Addr> {
    let words: Vec<u64> = (0..words::<F>()).map(word).collect();
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words))
}

/// The words of an entry.
pub(super) fn to_words<F: Family>(flow: &Flow<F::Addr>) -> Vec<u64> {
    let words = bytemuck::bytes_of(flow).chunks_exact(size_of::<u64>());
    words.map(bytemuck::pod_read_unaligned).collect()
}

/// A pool of entries. None of its methods is a point at which another CPU may go on.
#[derive(Debug)]
pub struct Pool<F: Family> {
    slots: Vec<Vec<AtomicU64>>,
    table: Mutex<Table<F>>,
    reuse: Reuse,
}

#[derive(Debug)]
struct Table<F: Family> {
    linked: HashMap<FlowKey<F::Addr>, usize>,
    free: VecDeque<usize>,
}

impl<F: Family> Pool<F> {
    pub(super) fn new(size: usize, reuse: Reuse) -> Self {
        let slots = (0..size).map(|_| (0..words::<F>()).map(|_| AtomicU64::new(0)).collect()).collect();
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
    pub(super) fn peek(&self, slot: usize) -> Flow<F::Addr> {
        from_words::<F>(|word| self.word(slot, word).load(Ordering::SeqCst))
    }

    pub(super) fn find(&self, key: &FlowKey<F::Addr>) -> Option<usize> {
        held(&self.table).linked.get(key).copied()
    }

    pub(super) fn take(&self) -> Option<usize> {
        held(&self.table).free.pop_front()
    }

    /// From here on the key leads to this place; the one it led to before.
    pub(super) fn link(&self, key: &FlowKey<F::Addr>, slot: usize) -> Option<usize> {
        held(&self.table).linked.insert(*key, slot)
    }

    /// From here on the key leads nowhere; the place it led to.
    ///
    /// # Panics
    /// When this is half of a flow that lives.
    pub(super) fn unlink(&self, key: &FlowKey<F::Addr>) -> Option<usize> {
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

    pub(super) fn entries(&self) -> HashMap<FlowKey<F::Addr>, Flow<F::Addr>> {
        let linked = held(&self.table).linked.clone();
        linked.into_iter().map(|(key, slot)| (key, self.peek(slot))).collect()
    }
}
