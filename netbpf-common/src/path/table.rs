//! The protocol of the flow table: how a flow is made, advanced, evicted and ended, so that there
//! is never half of one.
//!
//! - **Make**: insert R if absent, which is also the allocation of its port, then O, both unborn. If O exists,
//!   take R back: another CPU was faster. Then let R live, and O. A hit on what is unborn is a miss.
//! - **Advance**: one compare-and-swap on the word of O, which R gets a copy of.
//! - **End**: whoever swaps the word of O to DEAD, and nobody else, lets R die too, deletes R, then O. A hit on
//!   DEAD is a miss, and so is an R whose O is gone.

use super::{Env, Family, FlowEntry, InsertError};
use crate::abi::{Event, Flow, FlowKey, Life, RingSlot, Word};
use crate::flow::{Direction, advance};
use crate::wire::Kind;

/// How often a lost swap is tried again. Two CPUs change the same flow at once only around its
/// beginning and end.
const SWAPS: u32 = 4;

/// Makes a flow whose R entry has been inserted, with the unborn word that `flow` carries, which is to be
/// its O entry: inserts that, lets both live, and gives the flow a place in the ring, by way of `ring`. If another CPU has made one with
/// the same key, or the table is full, the R entry is taken back.
#[inline(always)]
pub fn complete<F: Family, E: Env<F>>(
    env: &E,
    flow: &Flow<F::Addr>,
    ring: &mut RingSlot<F::Addr>,
    alive: Word,
) -> Result<(), InsertError> {
    let original = &flow.key;
    env.insert(original, flow).inspect_err(|_| env.remove(&flow.other))?;
    // Whoever sees the flow alive sees all that was written before, in whatever order that was.
    for key in [&flow.other, original] {
        if let Some(entry) = env.flow(key) {
            entry.swap(flow.word, alive);
        }
    }
    env.count(Event::FlowMade);
    if alive.life() == Life::Half {
        (ring.original, ring.word) = (*original, alive);
        env.exchange_ring(flow.payer, ring);
        evict(env, ring);
    } else {
        env.count_confirmed(flow.payer, 1);
    }
    Ok(())
}

/// Ends the flow that was in a ring slot if it is still half-open.
#[inline(always)]
fn evict<F: Family, E: Env<F>>(env: &E, slot: &RingSlot<F::Addr>) {
    if slot.word.life() == Life::None {
        return;
    }
    let Some(entry) = env.flow(&slot.original) else { return };
    // A first reply changes the word but confirms nothing: the flow has left the ring, and must go.
    for _ in 0..SWAPS {
        let word = entry.word();
        if !word.same_flow(slot.word) || word.life() != Life::Half {
            return;
        }
        if end(env, &slot.original, &entry, word) {
            env.count(Event::FlowEvicted);
            return;
        }
        env.count(Event::SwapLost);
    }
}

/// Whether a copy is one of an entry with this key, and not of several that had its place in turn: the
/// flow was alive before the rest was read, and still is.
#[inline(always)]
pub fn is_believable<A: PartialEq + Copy, E: FlowEntry<A>>(entry: &E, copy: &Flow<A>, key: &FlowKey<A>) -> bool {
    let word = entry.word();
    copy.word.is_alive() && word.is_alive() && word.same_flow(copy.word) && copy.key == *key
}

/// Ends a flow whose O entry is in `word`; whether it was this call that did.
#[inline(always)]
pub fn end<F: Family, E: Env<F>>(env: &E, original: &FlowKey<F::Addr>, entry: &E::Entry, word: Word) -> bool {
    if !word.is_alive() || !entry.swap(word, word.dead()) {
        return false;
    }
    // Nobody else deletes these keys now, so the entries stay this flow's until they are removed here.
    if word.life() == Life::Established {
        env.count_confirmed(entry.payer(), -1);
    }
    let other = entry.other();
    if let Some(reply) = env.flow(&other) {
        // Dead before it is deleted: what is written over it afterwards cannot pass for it.
        for _ in 0..SWAPS {
            let copy = reply.word();
            if reply.swap(copy, copy.dead()) {
                break;
            }
        }
    }
    env.remove(&other);
    env.remove(original);
    true
}

/// Ends the flow of an entry of either direction. `key` is the entry's own.
#[inline(always)]
pub fn end_either<F: Family, E: Env<F>>(env: &E, key: &FlowKey<F::Addr>, entry: &E::Entry, flow: &Flow<F::Addr>) {
    if flow.is_reply == 0 {
        let word = entry.word();
        if word.same_flow(flow.word) {
            end(env, key, entry, word);
        }
    } else if let Some(original) = env.flow(&flow.other) {
        let word = original.word();
        if word.same_flow(flow.word) {
            end(env, &flow.other, &original, word);
        }
    }
}

/// Lets a packet act on the state of its flow; `flags` are the control bits of a TCP segment as far as they are
/// believed. False: the flow is no more, a miss.
///
/// A packet that changes nothing costs nothing here; one that does looks the other entry up.
#[inline(always)]
pub fn step<F: Family, E: Env<F>>(env: &E, entry: &E::Entry, flow: &Flow<F::Addr>, kind: Kind, flags: u8) -> bool {
    let direction = Direction::of(flow.is_reply);
    if flow.word.life() == Life::Dead {
        return false;
    }
    if advance(flow.word, direction, kind, flags) == flow.word {
        return true;
    }
    let Some(other) = env.flow(&flow.other) else { return false };
    let (original, reply) = match direction {
        Direction::Original => (entry, &other),
        Direction::Reply => (&other, entry),
    };
    match advance_entry(env, original, flow.word, direction, kind, flags) {
        Some(word) => {
            // Whether a packet changes anything is told by the copy of its own direction.
            reply.copy_word(word);
            true
        }
        None => false,
    }
}

#[inline(always)]
fn advance_entry<F: Family, E: Env<F>>(
    env: &E,
    original: &E::Entry,
    flow: Word,
    direction: Direction,
    kind: Kind,
    flags: u8,
) -> Option<Word> {
    for _ in 0..SWAPS {
        let word = original.word();
        if !word.same_flow(flow) || !word.is_alive() {
            return None;
        }
        let next = advance(word, direction, kind, flags);
        if next == word {
            return Some(next);
        }
        // Read before: once it is swapped, another CPU may end the flow and a third use its place again.
        let payer = original.payer();
        if original.swap(word, next) {
            if word.life() == Life::Half && next.life() == Life::Established {
                env.count_confirmed(payer, 1);
            }
            return Some(next);
        }
        env.count(Event::SwapLost);
    }
    // The packet goes on with the state as it was: its change comes with the next one.
    Some(flow)
}
