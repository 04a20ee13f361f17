//! Fragments: the first of a packet has the ports, the others are told by what is remembered of it.

use super::refusal::{Refusal, code};
use super::{Env, Family, Parsed, Part};
use crate::abi::{DropReason, FRAGMENT_SECONDS, Fragment, FragmentKey, Scope};
use crate::wire::{Tcp, protocol};

/// What all fragments of the packet have in common.
#[inline(always)]
fn key<F: Family>(parsed: &Parsed<F>, scope: Scope) -> FragmentKey<F::Addr> {
    let ip = &parsed.ip;
    FragmentKey::new(scope, ip.proto, ip.src, ip.dst, ip.id)
}

/// Remembers the ports of a first fragment.
#[inline(never)]
pub(super) fn remember<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, scope: Scope) -> u64 {
    let end = parsed.ip.payload_len() as u16;
    env.remember(&key(parsed, scope), &Fragment { seen: env.now(), ports: parsed.l4.ports, end, reserved: 0 });
    code::GOOD
}

/// Gives a later fragment the ports of its first. A code: [`code::MISS`] if that was not seen.
#[inline(never)]
pub(super) fn recall<F: Family, E: Env<F>>(env: &E, parsed: &mut Parsed<F>, scope: Scope) -> u64 {
    let offset = parsed.ip.offset;
    if parsed.ip.proto == protocol::TCP && u32::from(offset) < Tcp::LEN {
        // It would change the header that the first one has shown (RFC 1858 section 4).
        return Refusal::Drop(DropReason::OverlappingFragment).code();
    }
    let patience = u64::from(FRAGMENT_SECONDS) * u64::from(env.config().hz);
    let Some(first) = env.recall(&key(parsed, scope)).filter(|first| env.now().saturating_sub(first.seen) <= patience)
    else {
        return code::MISS;
    };
    if offset < first.end {
        return Refusal::Drop(DropReason::OverlappingFragment).code();
    }
    parsed.l4.ports = first.ports;
    code::GOOD
}

/// Lets a fragment be known by its ports before it is looked at further: remembers those of a first, recalls those of a
/// later one. False: its first was not seen.
#[inline(always)]
pub(super) fn settle<F: Family, E: Env<F>>(env: &E, parsed: &mut Parsed<F>, scope: Scope) -> Result<bool, Refusal> {
    let settled = match parsed.ip.part {
        Part::Whole => return Ok(true),
        Part::First => remember(env, parsed, scope),
        Part::Later => recall(env, parsed, scope),
    };
    super::refusal::checked(settled)?;
    Ok(settled != code::MISS)
}
