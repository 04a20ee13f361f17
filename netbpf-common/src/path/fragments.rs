//! Fragments: the first of a packet has the ports, the others are told by what is remembered of it.
//!
//! One that comes before the first is held. When the first comes, those that were held come in once more behind it, by the
//! same hook, and are known then.

use super::refusal::{Refusal, checked, code};
use super::{Env, Family, Packet, Parsed, Part};
use crate::abi::{DropReason, Event, FRAGMENT_SECONDS, Fragment, FragmentKey, HELD_FRAGMENTS, HeldKey, Scope};
use crate::wire::{Tcp, protocol};

/// What all fragments of the packet have in common.
#[inline(always)]
fn key<F: Family>(parsed: &Parsed<F>, scope: Scope) -> FragmentKey<F::Addr> {
    let ip = &parsed.ip;
    FragmentKey::new(scope, ip.proto, ip.src, ip.dst, ip.id)
}

/// Lets a fragment be known by its ports before it is looked at further: remembers those of a first, recalls those of a
/// later one. False: its first has not come yet.
#[inline(always)]
pub(super) fn settle<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &mut Parsed<F>,
    scope: Scope,
) -> Result<bool, Refusal> {
    let held = look(env, parsed, scope)?;
    if let Some(held) = held {
        follow_first(env, packet, parsed, scope, held)?;
    }
    Ok(held.is_some())
}

/// The same for who does not know yet whether the packet is theirs: how many fragments are held for a first, which
/// [`follow_first`] then lets in. Nothing of a later one whose first has not come.
#[inline(always)]
pub(super) fn look<F: Family, E: Env<F>>(
    env: &E,
    parsed: &mut Parsed<F>,
    scope: Scope,
) -> Result<Option<u64>, Refusal> {
    match parsed.ip.part {
        Part::Whole => Ok(Some(0)),
        Part::First => Ok(Some(remember(env, parsed, scope))),
        Part::Later => {
            let recalled = recall(env, parsed, scope);
            checked(recalled)?;
            Ok((recalled != code::MISS).then_some(0))
        }
    }
}

/// Lets those that are held for a first fragment come in behind it.
#[inline(always)]
pub(super) fn follow_first<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    scope: Scope,
    held: u64,
) -> Result<(), Refusal> {
    if held == 0 { Ok(()) } else { checked(release(env, packet, parsed, scope, held)) }
}

/// What is remembered of the packet, if that is not of another one that had its number before. A number is used again soon
/// on a fast wire (RFC 4963): once the first has come, the others are not waited for longer than they take.
#[inline(always)]
fn known<F: Family, E: Env<F>>(env: &E, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
    let hz = u64::from(env.config().hz);
    env.recall(key).filter(|known| {
        let patience = if known.has_come == 0 { u64::from(FRAGMENT_SECONDS) * hz } else { hz };
        env.now().saturating_sub(known.seen) <= patience
    })
}

/// Remembers the ports of a first fragment; how many others are held for it.
#[inline(never)]
fn remember<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, scope: Scope) -> u64 {
    let key = key(parsed, scope);
    let held = known(env, &key).filter(|known| known.has_come == 0).map_or(0, |known| known.held);
    let end = parsed.ip.payload_len() as u16;
    env.remember(&key, &Fragment { seen: env.now(), held: 0, ports: parsed.l4.ports, end, has_come: 1 });
    held
}

/// Gives a later fragment the ports of its first. A code: [`code::MISS`] if that has not come.
#[inline(never)]
fn recall<F: Family, E: Env<F>>(env: &E, parsed: &mut Parsed<F>, scope: Scope) -> u64 {
    let offset = parsed.ip.offset;
    if parsed.ip.proto == protocol::TCP && u32::from(offset) < Tcp::LEN {
        // It would change the header that the first one has shown (RFC 1858 section 4).
        return Refusal::Drop(DropReason::OverlappingFragment).code();
    }
    let Some(first) = known(env, &key(parsed, scope)).filter(|known| known.has_come != 0) else { return code::MISS };
    if offset < first.end {
        return Refusal::Drop(DropReason::OverlappingFragment).code();
    }
    parsed.l4.ports = first.ports;
    code::GOOD
}

/// Holds a fragment until its first comes. A code: [`code::DONE`] if it is held.
#[inline(never)]
pub(super) fn hold<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &P, parsed: &Parsed<F>, scope: Scope) -> u64 {
    let lost = Refusal::Drop(DropReason::Fragment).code();
    let packet_key = key(parsed, scope);
    if known(env, &packet_key).is_none() {
        let awaited = Fragment { seen: env.now(), ..Fragment::default() };
        env.remember(&packet_key, &awaited);
    }
    let Some(place) = env.take_place(&packet_key).filter(|place| *place < u64::from(HELD_FRAGMENTS)) else {
        return lost;
    };
    let Some(mut room) = env.room() else { return lost };
    if packet.save(&mut room).is_none()
        || !env.hold(&HeldKey { packet: packet_key, place: first_place::<P>() + place as u32 }, &room)
    {
        return lost;
    }
    env.count(Event::FragmentHeld);
    code::DONE
}

/// Where fragments of devices with Ethernet headers have their places among those that are held, and where others.
#[inline(always)]
const fn first_place<P: Packet>() -> u32 {
    if P::HAS_ETHERNET { 0 } else { 1 << 16 }
}

/// Lets the fragments that are held for a first come in behind it. A code.
#[inline(never)]
fn release<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    scope: Scope,
    held: u64,
) -> u64 {
    let mut key = HeldKey { packet: key(parsed, scope), place: 0 };
    let Some(mut own) = env.room() else { return code::GOOD };
    // One that is too long to be put aside goes on alone.
    if packet.save(&mut own).is_none() {
        return code::GOOD;
    }
    env.repeat(HELD_FRAGMENTS, |place| {
        if u64::from(place) >= held {
            return false;
        }
        key.place = first_place::<P>() + place;
        if let Some(frame) = env.held(&key) {
            if packet.restore(&frame).and_then(|()| packet.receive_again()).is_some() {
                env.count(Event::FragmentReleased);
            }
            env.let_go(&key);
        }
        true
    });
    if packet.restore(&own).is_some() { code::GOOD } else { Refusal::Drop(DropReason::Internal).code() }
}
