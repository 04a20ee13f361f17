//! A packet of a known flow: is the decision still good, and what does it say?

use super::refusal::{Refusal, checked, code};
use super::uplink::{is_reachable, reached_directly};
use super::{Env, Family, FlowEntry, Parsed, Route, RouteQuery, Scratch, publish, table};
use crate::abi::{
    DropReason, Event, Flow, FlowKey, GatewayMode, Life, Scope, Stamp, Subnet, TargetKind, Transport, Uplink,
    UplinkFlags, Word, generation,
};
use crate::flow::{Direction, advance, reopens, tcp};
use crate::wire::{Address as _, Be16, Kind, L4, tcp_flags};

/// Whether a packet may open a flow to who may have come after its sender: of TCP only a SYN, since a container that
/// came later has no use for the middle of a connection.
#[inline(always)]
pub(super) fn opens(l4: &L4) -> bool {
    l4.kind != Kind::Tcp || l4.is_syn()
}

/// Whether a packet can only answer another: it opens no flow. Without this, each repeated SYN-ACK of
/// a flow that a flood has evicted would make one more.
#[inline(always)]
pub(super) fn answers(l4: &L4) -> bool {
    const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
    l4.tcp_flags & tcp_flags::RST != 0 || l4.tcp_flags & SYN_ACK == SYN_ACK || l4.kind == Kind::EchoReply
}

/// Looks the packet's flow up and lets the packet act on it; whether there is one, which then lies
/// in [`Env::scratch`]. `source_generation` is that of the endpoint the packet comes from, 0 if it
/// comes from none. An ICMP error finds the flow it is about and leaves it as it is.
#[inline(always)]
pub(super) fn follow<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> Result<bool, Refusal> {
    let Some((entry, unusual)) = find(env, parsed, key, source_generation) else { return Ok(false) };
    if unusual {
        let settled = env.forget(settle(env, &entry, parsed, key));
        if settled == code::MISS {
            return Ok(false);
        }
        checked(settled)?;
        let settled = env.forget(reconsider(env, &entry, parsed, key, source_generation));
        if settled == code::MISS {
            return Ok(false);
        }
        checked(settled)?;
    }
    if parsed.l4.kind != Kind::Error {
        note(env, &entry, parsed);
    }
    Ok(true)
}

/// Looks a packet's flow up and copies it into [`Env::scratch`]; whether the packet is an unusual one.
#[inline(always)]
pub(super) fn find<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> Option<(E::Entry, bool)> {
    let entry = env.flow(key)?;
    let mut scratch = env.scratch()?;
    entry.read_into(&mut scratch.flow);
    // The entry may have been deleted and used again before it was read, or while it was.
    if !table::is_believable(&entry, &scratch.flow, key) || scratch.flow.word.has(Word::MAPPING) {
        return None;
    }
    let unusual = is_unusual(env, parsed, &scratch.flow, source_generation);
    Some((entry, unusual))
}

/// Writes down that a packet of the flow in [`Env::scratch`] has passed, and what it has said.
#[inline(always)]
pub(super) fn note<F: Family, E: Env<F>>(env: &E, entry: &E::Entry, parsed: &Parsed<F>) {
    if parsed.l4.kind == Kind::Tcp
        && let Some(scratch) = env.scratch()
    {
        entry.track(&scratch.flow.sent.after(&parsed.l4, parsed.payload_len()));
    }
    entry.touch(env.now(), parsed.ip.total_len);
    env.count(Event::Hit);
}

/// Whether the packet changes the state of its flow, or the flow rests on what has changed: all
/// that makes a hit more than one lookup.
#[inline(always)]
fn is_unusual<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, flow: &Flow<F::Addr>, source_generation: u32) -> bool {
    let l4 = &parsed.l4;
    (flow.is_reply == 0 && reopens(flow.word, l4))
        || flow.word.life() == Life::Dead
        || advance(flow.word, Direction::of(flow.is_reply), l4.kind, l4.tcp_flags) != flow.word
        || flow.source_generation != source_generation
        || env.generation(flow.owner.slot) != flow.owner.generation
        || !is_target_fresh(env, flow)
}

/// Whether an endpoint is still the one that was decided on, or a route was looked up lately: in
/// this epoch, and within a second, since an agent that is down announces no change.
#[inline(always)]
fn is_target_fresh<F: Family, E: Env<F>>(env: &E, flow: &Flow<F::Addr>) -> bool {
    match TargetKind::from_u8(flow.target_kind) {
        Some(TargetKind::Endpoint) => env.endpoint(flow.target).is_some_and(|e| e.generation == flow.target_generation),
        Some(TargetKind::World) => {
            flow.uplink != 0
                && flow.route_epoch == env.generation(generation::ROUTE_EPOCH)
                && (env.now() as u32).wrapping_sub(flow.routed) <= env.config().hz
        }
        Some(TargetKind::Host) => true,
        None => false,
    }
}

/// Changes the state of a flow, out of the way of packets that do not. A [`code`].
#[inline(never)]
fn settle<F: Family, E: Env<F>>(env: &E, entry: &E::Entry, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    let flow = &mut scratch.flow;
    if flow.is_reply == 0 && reopens(flow.word, &parsed.l4) {
        table::end_either(env, key, entry, flow);
        return code::MISS;
    }
    let flags = match parsed.l4.kind {
        Kind::Tcp => match believed(env, parsed, flow) {
            Some(flags) => flags,
            None => return code::MISS,
        },
        _ => 0,
    };
    if !table::step(env, entry, flow, parsed.l4.kind, flags) {
        return code::MISS;
    }
    code::GOOD
}

/// Decides again on what the flow in [`Env::scratch`] rests on, and ends it if that is no longer so. A [`code`].
#[inline(never)]
fn reconsider<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    let Scratch { flow, query, route, .. } = &mut *scratch;
    match is_still_so(env, entry, parsed, key, flow, &mut Way { query, route }, source_generation) {
        Ok(true) => code::GOOD,
        Ok(false) => {
            if parsed.l4.kind == Kind::Error {
                // An error never ends a flow; what it is about went another way than its flow would go now.
                return Refusal::Drop(DropReason::StaleFlow).code();
            }
            env.count(Event::FlowRedecided);
            table::end_either(env, key, entry, flow);
            if opens(&parsed.l4) { code::MISS } else { code::RESET }
        }
        Err(refusal) => refusal.code(),
    }
}

/// The control bits of a TCP segment as far as they may act on its flow; nothing if that is being ended.
#[inline(always)]
fn believed<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, flow: &Flow<F::Addr>) -> Option<u8> {
    let l4 = &parsed.l4;
    if !tcp::needs_proof(flow.word, Direction::of(flow.is_reply), l4.tcp_flags) {
        return Some(l4.tcp_flags);
    }
    let other = env.flow(&flow.other)?;
    let sent = other.sent();
    if !other.word().same_flow(flow.word) {
        return None;
    }
    let believed = tcp::believed(flow.word, l4, parsed.payload_len(), &flow.sent, &sent);
    if believed != l4.tcp_flags {
        env.count(Event::OutOfWindow);
    }
    Some(believed)
}

/// Whether what the flow was decided on is still so, deciding again where that is cheap: a rule
/// that leads to the same place, a route by the same address. The flow's copy follows.
#[inline(always)]
fn is_still_so<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    flow: &mut Flow<F::Addr>,
    way: &mut Way<'_, F>,
    source_generation: u32,
) -> Result<bool, Refusal> {
    if flow.source_generation != source_generation {
        return Ok(false);
    }
    if env.generation(flow.owner.slot) != flow.owner.generation {
        match owner_again(env, key, flow) {
            Some(owner) => {
                entry.restamp(flow, owner);
                flow.owner = owner;
                env.count(Event::FlowRedecided);
            }
            None => return Ok(false),
        }
    }
    if is_target_fresh(env, flow) {
        Ok(true)
    } else if flow.target_kind == TargetKind::World as u8 {
        renew_route(env, entry, parsed, key, flow, way)
    } else {
        Ok(false)
    }
}

/// The stamp of the rule that would lead this flow where it goes today; nothing if it would go
/// elsewhere. Asked from either direction.
#[inline(always)]
fn owner_again<F: Family, E: Env<F>>(env: &E, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Option<Stamp> {
    let (original, reply) = if flow.is_reply == 0 { (key, &flow.other) } else { (&flow.other, key) };
    if is_reachable(env, original.dst) {
        let (_, endpoint) = reached_directly(env, original)?;
        return (F::address_of(endpoint) == reply.src).then(|| epoch(env, generation::PUBLISH_EPOCH));
    }
    let rule = Transport::from_protocol(key.proto).and_then(|transport| {
        let address = env.behind_virtual(original.dst).unwrap_or(original.dst);
        publish::find(env, address, transport, original.dport.get())
    });
    match rule {
        Some(rule) => {
            let same = F::is_service(rule.endpoint, reply.src) && Be16::new(rule.port) == reply.sport;
            // By which device it came in is not known any more.
            let is_allowed = original.scope == Scope::Host as u16 || rule.is_for(env, original.src, 0);
            (same && is_allowed).then_some(rule.stamp)
        }
        None => {
            let untranslated = original.dst == reply.src && original.dport == reply.sport;
            (untranslated && env.is_local(original.dst)).then(|| epoch(env, generation::PUBLISH_EPOCH))
        }
    }
}

/// Whether the rule of a flow is gone, and no other leads where it leads.
#[inline(always)]
pub(super) fn is_withdrawn<F: Family, E: Env<F>>(env: &E, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> bool {
    env.generation(flow.owner.slot) != flow.owner.generation && owner_again(env, key, flow).is_none()
}

/// The stamp of an epoch as it is now.
#[inline(always)]
pub(super) fn epoch<F: Family, E: Env<F>>(env: &E, slot: u32) -> Stamp {
    Stamp { slot, generation: env.generation(slot) }
}

/// Room for a question to the routing table and the answer.
pub(super) struct Way<'a, F: Family> {
    /// The question.
    pub(super) query: &'a mut RouteQuery<F::Addr>,
    /// The answer.
    pub(super) route: &'a mut Route,
}

/// Looks the route up again; whether it is one that this flow can take.
#[inline(always)]
fn renew_route<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    flow: &mut Flow<F::Addr>,
    way: &mut Way<'_, F>,
) -> Result<bool, Refusal> {
    let epoch = env.generation(generation::ROUTE_EPOCH);
    (way.query.src, way.query.dst) = (flow.other.dst, flow.other.src);
    (way.query.proto, way.query.tos) = (parsed.ip.proto, parsed.ip.tos);
    let uplink = way_out(env, way, flow)?;
    // A flow that a container has opened lives and dies with the address it was given; a reply of a published port leaves
    // with the address it was sent to, by whatever device.
    if flow.is_reply == 0 {
        let network = env.endpoint(flow.payer).and_then(|endpoint| env.network(endpoint.network));
        let subnet = F::subnet_of(network.ok_or(DropReason::UnknownDevice)?);
        way.query.src = key.src;
        leave(env, subnet, uplink, &mut way.query.src)?;
        if way.query.src != flow.other.dst {
            return Ok(false);
        }
    }
    entry.reroute(flow, epoch);
    Ok(true)
}

/// Looks the way to an address up and writes it into the flow; the device there. Never one that would not understand the
/// replies.
#[inline(always)]
pub(super) fn way_out<'a, F: Family, E: Env<F>>(
    env: &'a E,
    way: &mut Way<'_, F>,
    flow: &mut Flow<F::Addr>,
) -> Result<&'a Uplink, DropReason> {
    env.route(way.query, way.route)?;
    let uplink = env.uplink(way.route.ifindex).ok_or(DropReason::NoUplink)?;
    if uplink.flags & UplinkFlags::ATTACHED == 0 {
        return Err(DropReason::NoUplink);
    }
    flow.uplink = way.route.ifindex;
    flow.next_hop = way.route.next_hop;
    flow.mtu = way.route.mtu;
    flow.routed = env.now() as u32;
    Ok(uplink)
}

/// Makes of the address of a container of this subnet the one that it has outside, by this device.
#[inline(always)]
pub(super) fn leave<F: Family, E: Env<F>>(
    env: &E,
    subnet: &Subnet<F::Addr>,
    uplink: &Uplink,
    address: &mut F::Addr,
) -> Result<(), DropReason> {
    match GatewayMode::from_u32(subnet.mode) {
        GatewayMode::Closed => return Err(DropReason::NoMasquerade),
        GatewayMode::Masquerade => {
            let is_fixed = subnet.external != F::Addr::default();
            *address = if is_fixed { subnet.external } else { F::uplink_address(uplink) };
            // One that the host has lost is somebody else's, for all that is known.
            if *address == F::Addr::default() || is_fixed && !env.is_local(*address) {
                return Err(DropReason::NoUplink);
            }
        }
        GatewayMode::Routed | GatewayMode::Plain => {}
        GatewayMode::Prefix => address.move_into(&subnet.mask, &subnet.external),
    }
    Ok(())
}
