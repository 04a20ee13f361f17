//! Removal of flows that nobody uses: what the agent asks for, checked again where it can be
//! decided without a race.

use super::follow::is_withdrawn;
use super::{Env, Family, FlowEntry, Scratch, table};
use crate::abi::{Event, FlowKey, TargetKind};
use crate::flow::{is_expired, makes_room};

/// Ends the flow whose O entry has this key, if it has expired, cannot be used any more or is to make room;
/// whether it did.
#[inline(always)]
pub fn collect<F: Family, E: Env<F>>(env: &E, original: &FlowKey<F::Addr>) -> bool {
    let Some(entry) = env.flow(original) else { return false };
    let Some(mut scratch) = env.scratch() else { return false };
    let Scratch { flow, mapping: reply, .. } = &mut *scratch;
    entry.read_into(flow);
    let word = entry.word();
    if flow.is_reply != 0 || !table::is_believable(&entry, flow, original) || !word.same_flow(flow.word) {
        return false;
    }
    let has_reply = env.flow(&flow.other).is_some_and(|entry| {
        entry.read_into(reply);
        table::is_believable(&entry, reply, &flow.other) && reply.word.same_flow(word)
    });
    let last = if has_reply { reply.seen.max(flow.seen) } else { flow.seen };
    let gone = |target_kind: u8, slot: u32, generation: u32| {
        target_kind == TargetKind::Endpoint as u8 && env.endpoint(slot).is_none_or(|e| e.generation != generation)
    };
    let useless = gone(flow.target_kind, flow.target, flow.target_generation)
        || !has_reply
        || is_withdrawn(env, original, flow)
        || gone(reply.target_kind, reply.target, reply.target_generation);
    let is_over = is_expired(env.config(), original.proto, word, last, env.now())
        || makes_room(env.config(), word, env.confirmed(flow.payer));
    if !useless && !is_over {
        return false;
    }
    // A packet that revives the flow in between keeps it only if it changes the word; one that
    // comes after finds a miss and opens the flow anew.
    let ended = table::end(env, original, &entry, word);
    if ended {
        env.count(Event::FlowCollected);
    }
    ended
}
