//! A pointer to an entry, read and written as `netbpf-ebpf/src/maps/entry.rs` does it.

use std::array;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use bytemuck::{bytes_of, bytes_of_mut};
use netbpf_common::abi::{Flow, FlowKey, Life, Sent, Stamp, Word};
use netbpf_common::path::FlowEntry;
use netbpf_common::wire::V4Addr;

use super::pool::WORDS;
use super::{Cpu, Flaw, Grain, What, held};

type Entity = Flow<V4Addr>;

/// A flow entry that was found, or what has become of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) slot: usize,
}

impl Entry<'_> {
    fn is_coarse(&self) -> bool {
        self.cpu.shared.conditions.grain == Grain::Access
    }

    fn load(&self, word: usize) -> u64 {
        self.cpu.point(|| {
            let value = self.cpu.shared.pool.word(self.slot, word).load(Ordering::SeqCst);
            (What::Read { slot: self.slot, word, value }, value)
        })
    }

    /// All of it in one step.
    fn copy(&self) -> Entity {
        self.cpu.point(|| {
            let flow = self.cpu.shared.pool.peek(self.slot);
            (What::Read { slot: self.slot, word: 0, value: flow.word.0 }, flow)
        })
    }

    /// Writes a word, or as much of it as a narrower store does.
    pub(super) fn store(&self, word: usize, change: impl Fn(u64) -> u64) {
        self.cpu.point(|| {
            let place = self.cpu.shared.pool.word(self.slot, word);
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

impl FlowEntry<V4Addr> for Entry<'_> {
    fn read_into(&self, flow: &mut Entity) {
        *flow = match self.cpu.shared.conditions.grain {
            Grain::Word => bytemuck::cast(array::from_fn::<u64, WORDS, _>(|word| self.load(word))),
            Grain::Access => self.copy(),
        }
    }

    fn other(&self) -> FlowKey<V4Addr> {
        const FIRST: usize = offset_of!(Entity, other) / 8;
        if self.is_coarse() {
            return self.copy().other;
        }
        bytemuck::cast(array::from_fn::<u64, { size_of::<FlowKey<V4Addr>>() / 8 }, _>(|word| self.load(FIRST + word)))
    }

    fn word(&self) -> Word {
        Word(self.load(offset_of!(Entity, word) / 8))
    }

    fn sent(&self) -> Sent {
        if self.is_coarse() {
            // The look at the word behind it is the point that matters.
            return self.cpu.shared.pool.peek(self.slot).sent;
        }
        self.copy().sent
    }

    /// Not a point at which another CPU may go on: it is read by who is about to delete the entry.
    fn payer(&self) -> u32 {
        self.cpu.shared.pool.peek(self.slot).payer
    }

    fn mtu(&self) -> u16 {
        self.cpu.shared.pool.peek(self.slot).mtu
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        let Cpu { shared, .. } = self.cpu;
        let flaw = shared.conditions.flaw;
        if flaw == Some(Flaw::SwapInTwoSteps) && self.word() != from {
            return false;
        }
        self.cpu.point(|| {
            let place = shared.pool.word(self.slot, offset_of!(Entity, word) / 8);
            let before = Word(place.load(Ordering::SeqCst));
            let won = flaw == Some(Flaw::SwapInTwoSteps) || before == from;
            if won {
                place.store(to.0, Ordering::SeqCst);
                if to.life() == Life::Dead && shared.pool.peek(self.slot).is_reply == 0 {
                    held(&shared.deaths).push(before);
                }
            }
            (What::Swap { slot: self.slot, from, to, won }, won || flaw == Some(Flaw::LoserWins))
        })
    }

    fn copy_word(&self, word: Word) {
        if self.cpu.shared.conditions.flaw == Some(Flaw::CopyWordBlindly) {
            return self.write(offset_of!(Entity, word), word);
        }
        let before = self.word();
        if before.same_flow(word) && before.is_alive() {
            self.swap(before, word);
        }
    }

    fn touch(&self, now: u64, bytes: u32) {
        const SEEN: usize = offset_of!(Entity, seen) / 8;
        if self.is_coarse() {
            // Packets and bytes decide nothing; when it was seen, the collector has asked already.
            self.cpu.shared.pool.word(self.slot, SEEN).store(now, Ordering::SeqCst);
            return;
        }
        if self.load(SEEN) != now {
            self.store(SEEN, |_| now);
        }
        self.store(offset_of!(Entity, packets) / 8, |packets| packets.wrapping_add(1));
        self.store(offset_of!(Entity, bytes) / 8, |before| before.wrapping_add(u64::from(bytes)));
    }

    fn track(&self, sent: &Sent) {
        if self.is_coarse() {
            // At once with what was done before: what it may spoil in a reused entry is looked for word by word.
            let pool = &self.cpu.shared.pool;
            let words: [u64; WORDS] = bytemuck::cast(Entity { sent: *sent, ..pool.peek(self.slot) });
            const FIRST: usize = offset_of!(Entity, sent) / 8;
            const END: usize = (offset_of!(Entity, sent) + size_of::<Sent>()).div_ceil(8);
            for (word, value) in words.into_iter().enumerate().take(END).skip(FIRST) {
                pool.word(self.slot, word).store(value, Ordering::SeqCst);
            }
            return;
        }
        self.write(offset_of!(Entity, sent), *sent);
    }

    fn restamp(&self, flow: &Entity, owner: Stamp) {
        let swap = |from: Stamp, to: Stamp| {
            self.cpu.point(|| {
                let word = offset_of!(Entity, owner) / 8;
                let (from, value) = (bytemuck::cast(from), bytemuck::cast(to));
                let place = self.cpu.shared.pool.word(self.slot, word);
                let won = place.compare_exchange(from, value, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                (What::Write { slot: self.slot, word, value }, won)
            })
        };
        if self.word().same_flow(flow.word) && swap(flow.owner, owner) && !self.word().same_flow(flow.word) {
            swap(owner, flow.owner);
        }
    }

    fn reroute(&self, flow: &Entity, epoch: u32) {
        if !self.word().same_flow(flow.word) {
            return;
        }
        self.write(offset_of!(Entity, uplink), flow.uplink);
        self.write(offset_of!(Entity, next_hop), flow.next_hop);
        self.write(offset_of!(Entity, mtu), flow.mtu);
        self.write(offset_of!(Entity, routed), flow.routed);
        self.write(offset_of!(Entity, route_epoch), epoch);
        if !self.word().same_flow(flow.word) {
            self.write(offset_of!(Entity, uplink), 0u32);
        }
    }
}
