//! A pointer to an entry, read and written as `netbpf-ebpf/src/maps/entry.rs` does it.

use std::marker::PhantomData;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use bytemuck::{bytes_of, bytes_of_mut};
use netbpf_common::abi::{Flow, FlowKey, Life, Sent, Stamp, Word};
use netbpf_common::path::FlowEntry;

use super::pool::{Pool, from_words, to_words};
use super::{Cpu, Flaw, Grain, Pooled, What, held};

/// A flow entry that was found, or what has become of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a, F> {
    pub(super) cpu: &'a Cpu,
    pub(super) slot: usize,
    pub(super) family: PhantomData<F>,
}

impl<F: Pooled> Entry<'_, F> {
    fn pool(&self) -> &Pool<F> {
        F::pool(&self.cpu.shared)
    }

    fn is_coarse(&self) -> bool {
        self.cpu.shared.conditions.grain == Grain::Access
    }

    fn load(&self, word: usize) -> u64 {
        self.cpu.point(|| {
            let value = self.pool().word(self.slot, word).load(Ordering::SeqCst);
            (What::Read { slot: self.slot, word, value }, value)
        })
    }

    /// All of it in one step.
    fn copy(&self) -> Flow<F::Addr> {
        self.cpu.point(|| {
            let flow = self.pool().peek(self.slot);
            (What::Read { slot: self.slot, word: 0, value: flow.word.0 }, flow)
        })
    }

    /// Writes a word, or as much of it as a narrower store does.
    pub(super) fn store(&self, word: usize, change: impl Fn(u64) -> u64) {
        self.cpu.point(|| {
            let place = self.pool().word(self.slot, word);
            let value = change(place.load(Ordering::SeqCst));
            place.store(value, Ordering::SeqCst);
            (What::Write { slot: self.slot, word, value }, ())
        });
    }

    /// Writes a field, word by word.
    fn write<T: bytemuck::NoUninit>(&self, offset: usize, field: T) {
        let bytes = bytes_of(&field);
        for word in offset / 8..(offset + bytes.len()).div_ceil(8) {
            self.store(word, |mut value| {
                let place = bytes_of_mut(&mut value);
                for (at, byte) in place.iter_mut().enumerate() {
                    if let Some(new) = (word * 8 + at).checked_sub(offset).and_then(|at| bytes.get(at)) {
                        *byte = *new;
                    }
                }
                value
            });
        }
    }
}

impl<F: Pooled> FlowEntry<F::Addr> for Entry<'_, F> {
    fn read_into(&self, flow: &mut Flow<F::Addr>) {
        *flow = match self.cpu.shared.conditions.grain {
            Grain::Word => from_words::<F>(|word| self.load(word)),
            Grain::Access => self.copy(),
        }
    }

    fn other(&self) -> FlowKey<F::Addr> {
        if self.is_coarse() {
            return self.copy().other;
        }
        let first = offset_of!(Flow<F::Addr>, other) / 8;
        let words = size_of::<FlowKey<F::Addr>>() / 8;
        let words: Vec<u64> = (first..first + words).map(|word| self.load(word)).collect();
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words))
    }

    fn word(&self) -> Word {
        Word(self.load(offset_of!(Flow<F::Addr>, word) / 8))
    }

    fn sent(&self) -> Sent {
        if self.is_coarse() {
            // The look at the word behind it is the point that matters.
            return self.pool().peek(self.slot).sent;
        }
        self.copy().sent
    }

    /// Not a point at which another CPU may go on: it is read by who is about to delete the entry.
    fn payer(&self) -> u32 {
        self.pool().peek(self.slot).payer
    }

    fn mtu(&self) -> u16 {
        self.pool().peek(self.slot).mtu
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        let Cpu { shared, .. } = self.cpu;
        let flaw = shared.conditions.flaw;
        if flaw == Some(Flaw::SwapInTwoSteps) && self.word() != from {
            return false;
        }
        self.cpu.point(|| {
            let place = self.pool().word(self.slot, offset_of!(Flow<F::Addr>, word) / 8);
            let before = Word(place.load(Ordering::SeqCst));
            let won = flaw == Some(Flaw::SwapInTwoSteps) || before == from;
            if won {
                place.store(to.0, Ordering::SeqCst);
                if to.life() == Life::Dead && self.pool().peek(self.slot).is_reply == 0 {
                    held(&shared.deaths).push(before);
                }
            }
            (What::Swap { slot: self.slot, from, to, won }, won || flaw == Some(Flaw::LoserWins))
        })
    }

    fn copy_word(&self, word: Word) {
        if self.cpu.shared.conditions.flaw == Some(Flaw::CopyWordBlindly) {
            return self.write(offset_of!(Flow<F::Addr>, word), word);
        }
        let before = self.word();
        if before.same_flow(word) && before.is_alive() {
            self.swap(before, word);
        }
    }

    fn touch(&self, now: u64, bytes: u32) {
        let seen = offset_of!(Flow<F::Addr>, seen) / 8;
        if self.is_coarse() {
            // Packets and bytes decide nothing; when it was seen, the collector has asked already.
            self.pool().word(self.slot, seen).store(now, Ordering::SeqCst);
            return;
        }
        if self.load(seen) != now {
            self.store(seen, |_| now);
        }
        self.store(offset_of!(Flow<F::Addr>, packets) / 8, |packets| packets.wrapping_add(1));
        self.store(offset_of!(Flow<F::Addr>, bytes) / 8, |before| before.wrapping_add(u64::from(bytes)));
    }

    fn track(&self, sent: &Sent) {
        if self.is_coarse() {
            // At once with what was done before: what it may spoil in a reused entry is looked for word by word.
            let pool = self.pool();
            let words = to_words::<F>(&Flow { sent: *sent, ..pool.peek(self.slot) });
            let first = offset_of!(Flow<F::Addr>, sent) / 8;
            let end = (offset_of!(Flow<F::Addr>, sent) + size_of::<Sent>()).div_ceil(8);
            for (word, value) in words.into_iter().enumerate().take(end).skip(first) {
                pool.word(self.slot, word).store(value, Ordering::SeqCst);
            }
            return;
        }
        self.write(offset_of!(Flow<F::Addr>, sent), *sent);
    }

    fn restamp(&self, flow: &Flow<F::Addr>, owner: Stamp) {
        let swap = |from: Stamp, to: Stamp| {
            self.cpu.point(|| {
                let word = offset_of!(Flow<F::Addr>, owner) / 8;
                let (from, value) = (bytemuck::cast(from), bytemuck::cast(to));
                let place = self.pool().word(self.slot, word);
                let won = place.compare_exchange(from, value, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                (What::Write { slot: self.slot, word, value }, won)
            })
        };
        if self.word().same_flow(flow.word) && swap(flow.owner, owner) && !self.word().same_flow(flow.word) {
            swap(owner, flow.owner);
        }
    }

    fn reroute(&self, flow: &Flow<F::Addr>, epoch: u32) {
        if !self.word().same_flow(flow.word) {
            return;
        }
        self.write(offset_of!(Flow<F::Addr>, uplink), flow.uplink);
        self.write(offset_of!(Flow<F::Addr>, next_hop), flow.next_hop);
        self.write(offset_of!(Flow<F::Addr>, mtu), flow.mtu);
        self.write(offset_of!(Flow<F::Addr>, routed), flow.routed);
        self.write(offset_of!(Flow<F::Addr>, route_epoch), epoch);
        if !self.word().same_flow(flow.word) {
            self.write(offset_of!(Flow<F::Addr>, uplink), 0u32);
        }
    }
}
