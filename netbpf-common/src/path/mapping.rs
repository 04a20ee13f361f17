//! Endpoint-independent mappings (RFC 4787 REQ-1): a container's port has one NAT port towards everybody, and with
//! REQ-8's endpoint-independent filtering everybody can send to it.
//!
//! A mapping is a flow without a second end, which no packet follows. It is
//! consulted when a packet has no flow of its own, and it lives and dies by the rules of flows: inserting its R entry is the
//! allocation of the port, it counts among its container's confirmed flows, a stale generation ends it, the collector takes
//! it when no flow uses it and none was opened by it for long.

use super::follow::epoch;
use super::make::{Leg, NewFlow, begin, complete, reserve};
use super::refusal::{Refusal, code};
use super::{Env, Family, FlowEntry, HostSocket, Scratch, table};
use crate::abi::{ConfigFlags, DropReason, Endpoint, Event, Flow, FlowKey, Scope, TargetKind, Word, generation};
use crate::wire::{Be16, protocol};

/// Whether flows of this protocol use mappings.
#[inline(always)]
pub(super) const fn has_mappings(proto: u8) -> bool {
    matches!(proto, protocol::UDP | protocol::TCP)
}

/// The key that a mapping is found by from the side of its container, with the address that it leaves with in place of the
/// other end: each uplink has mappings of its own.
#[inline(always)]
fn inner<F: Family>(key: &FlowKey<F::Addr>, address: F::Addr) -> FlowKey<F::Addr> {
    FlowKey::new(Scope::Container, key.proto, key.src, key.sport, address, Be16::ZERO)
}

/// The key that it is found by from outside: without the other end.
#[inline(always)]
fn outer<F: Family>(proto: u8, address: F::Addr, port: Be16) -> FlowKey<F::Addr> {
    FlowKey::new(Scope::Uplink, proto, F::Addr::default(), Be16::ZERO, address, port)
}

/// The NAT port of a container's port on the address that the flow in [`Env::scratch`] leaves with; it is written there. A
/// code.
#[inline(never)]
pub(super) fn adopt<F: Family, E: Env<F>>(env: &E, key: &FlowKey<F::Addr>, slot: u32, generation: u32) -> u64 {
    match find_or_make(env, key, slot, generation) {
        Ok(()) => code::GOOD,
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn find_or_make<F: Family, E: Env<F>>(
    env: &E,
    key: &FlowKey<F::Addr>,
    slot: u32,
    generation: u32,
) -> Result<(), DropReason> {
    let mut scratch = env.scratch().ok_or(DropReason::Internal)?;
    let Scratch { new, mapping, ring, .. } = &mut *scratch;
    let original = inner::<F>(key, new.src);
    if let Some(entry) = env.flow(&original) {
        entry.read_into(mapping);
        if table::is_believable(&entry, mapping, &original) {
            if mapping.source_generation == generation {
                entry.touch(env.now(), 0);
                new.sport = mapping.other.dport;
                return Ok(());
            }
            // Of a predecessor with this address.
            table::end_either(env, &original, &entry, mapping);
        }
    }

    mapping.payer = slot;
    if env.confirmed(slot) >= u64::from(env.config().flow_limit) {
        return Err(DropReason::FlowLimit);
    }
    let alive = Word::half(env.next_flow_id()).established().with(Word::MAPPING);
    begin(env, mapping, alive);
    mapping.owner = epoch(env, generation::ALWAYS);
    mapping.other = original;
    mapping.source_generation = 0;
    mapping.target_kind = TargetKind::Endpoint as u8;
    mapping.target = slot;
    mapping.target_generation = generation;
    mapping.key = outer::<F>(key.proto, new.src, key.sport);
    match reserve(env, mapping, true, true) {
        Ok(()) => {}
        // When all ports are mapped, a port that others use towards other machines still serves.
        Err(DropReason::NoPort) => return Ok(()),
        Err(reason) => return Err(reason),
    }
    mapping.other = mapping.key;
    mapping.key = original;
    mapping.is_reply = 0;
    mapping.source_generation = generation;
    mapping.target_generation = 0;
    mapping.target_kind = TargetKind::Host as u8;
    mapping.target = 0;
    complete(env, mapping, ring, alive)?;
    env.count(Event::MappingMade);
    new.sport = mapping.other.dport;
    Ok(())
}

/// Decides on the flow that a packet opens by way of a mapping, from outside or from a container (RFC 4787 REQ-9); the
/// mapping is read into `mapping`. Nothing if there is none.
#[inline(always)]
pub(super) fn find<F: Family, E: Env<F>>(
    env: &E,
    key: &FlowKey<F::Addr>,
    mapping: &mut Flow<F::Addr>,
    new: &mut NewFlow<F>,
) -> Option<()> {
    if env.config().flags & ConfigFlags::MAPPINGS == 0 || !has_mappings(key.proto) {
        return None;
    }
    let reply = outer::<F>(key.proto, key.dst, key.dport);
    let entry = env.flow(&reply)?;
    // A service that the host has begun since has its port.
    if env.host_socket(key) != HostSocket::None {
        return None;
    }
    entry.read_into(mapping);
    if !table::is_believable(&entry, mapping, &reply) {
        return None;
    }
    let endpoint: &Endpoint = env.endpoint(mapping.target).filter(|e| e.generation == mapping.target_generation)?;
    entry.touch(env.now(), 0);
    new.set(key, Leg::endpoint(mapping.target, endpoint), Leg::UNKNOWN_WORLD);
    (new.dst, new.dport) = (mapping.other.src, mapping.other.sport);
    Some(())
}
