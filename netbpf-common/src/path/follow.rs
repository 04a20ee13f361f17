//! A packet of a known flow: is the decision still good, and what does it say?

use super::family::IcmpError;
use super::{
    Decision, Env, Family, FlowEntry, Packet, Parsed, Rewrite, RouteQuery, Translation, Verdict, apply, publish, table,
};
use crate::abi::{
    DropReason, Endpoint, Event, Flow, FlowKey, Life, Scope, Stamp, TargetKind, Transport, UplinkFlags, generation,
};
use crate::flow::{Direction, advance, reopens};
use crate::wire::{Address, Be16, L4, tcp_flags};

/// Why a packet does not go on, and what its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Nothing.
    Drop(DropReason),
    /// An ICMP error.
    Icmp(IcmpError),
    /// A TCP reset: its connection ended with what it was decided on.
    Reset,
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Whether a packet may open a flow that is translated: of TCP only a SYN, since a container that
/// came later has no use for the middle of a connection.
#[inline(always)]
pub(super) fn opens(l4: &L4) -> bool {
    match l4 {
        L4::Tcp(_, flags) => flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN,
        _ => true,
    }
}

/// Looks the packet's flow up and lets the packet act on it; whether there is one, which then lies
/// in [`Env::scratch`]. `source_generation` is that of the endpoint the packet comes from, 0 if it
/// comes from none.
#[inline(always)]
pub(super) fn follow<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> Result<bool, Refusal> {
    let Some(entry) = env.flow(key) else { return Ok(false) };
    let mut scratch = env.scratch().ok_or(DropReason::Internal)?;
    let flow = &mut scratch.flow;
    entry.read_into(flow);
    // The entry may have been deleted and used again while it was read.
    if !entry.word().same_flow(flow.word) {
        return Ok(false);
    }
    if is_unusual(env, parsed, flow, source_generation) {
        let mut settled = Settled::Miss;
        settle(env, &entry, parsed, key, &mut Unusual { source_generation, settled: &mut settled });
        match settled {
            Settled::Good => {}
            Settled::Miss => return Ok(false),
            Settled::Refused(refusal) => return Err(refusal),
        }
    }
    entry.touch(env.now(), parsed.ip.total_len);
    env.count(Event::Hit);
    Ok(true)
}

/// Whether the packet changes the state of its flow, or the flow rests on what has changed: all
/// that makes a hit more than one lookup.
#[inline(always)]
fn is_unusual<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, flow: &Flow<F::Addr>, source_generation: u32) -> bool {
    let direction = if flow.is_reply == 0 { Direction::Original } else { Direction::Reply };
    reopens(flow.word, &parsed.l4)
        || flow.word.life() == Life::Dead
        || advance(flow.word, direction, &parsed.l4) != flow.word
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
            flow.target != 0
                && flow.target_generation == env.generation(generation::ROUTE_EPOCH)
                && (env.now() as u32).wrapping_sub(flow.routed) <= env.config().hz
        }
        Some(TargetKind::Host) => true,
        None => false,
    }
}

/// What became of an unusual packet's flow.
enum Settled {
    /// The flow, as it now is in [`Env::scratch`], goes on.
    Good,
    /// No flow any more.
    Miss,
    /// The packet does not go on.
    Refused(Refusal),
}

/// What [`settle`] is told and tells: BPF functions take five arguments and return a number.
struct Unusual<'a> {
    source_generation: u32,
    settled: &'a mut Settled,
}

/// Changes the state of a flow, decides again on what it rests on, ends it: all that is not a
/// plain hit, out of the way of those that are.
#[inline(never)]
fn settle<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    unusual: &mut Unusual<'_>,
) {
    let Some(mut scratch) = env.scratch() else { return };
    let flow = &mut scratch.flow;
    *unusual.settled = if reopens(flow.word, &parsed.l4) {
        table::end_either(env, key, entry, flow);
        Settled::Miss
    } else if !table::step(env, entry, flow, &parsed.l4) {
        Settled::Miss
    } else {
        match is_still_so(env, entry, parsed, key, flow, unusual.source_generation) {
            Ok(true) => Settled::Good,
            Ok(false) => {
                env.count(Event::FlowRedecided);
                table::end_either(env, key, entry, flow);
                if opens(&parsed.l4) { Settled::Miss } else { Settled::Refused(Refusal::Reset) }
            }
            Err(refusal) => Settled::Refused(refusal),
        }
    };
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
    source_generation: u32,
) -> Result<bool, Refusal> {
    if flow.source_generation != source_generation {
        return Ok(false);
    }
    if env.generation(flow.owner.slot) != flow.owner.generation {
        match owner_again(env, key, flow) {
            Some(owner) => {
                flow.owner = owner;
                entry.restamp(owner);
                env.count(Event::FlowRedecided);
            }
            None => return Ok(false),
        }
    }
    if is_target_fresh(env, flow) {
        Ok(true)
    } else if flow.target_kind == TargetKind::World as u8 {
        renew_route(env, entry, parsed, flow)
    } else {
        Ok(false)
    }
}

/// The stamp of the rule that would lead this flow where it goes today; nothing if it would go
/// elsewhere. Asked from either direction.
#[inline(always)]
fn owner_again<F: Family, E: Env<F>>(env: &E, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Option<Stamp> {
    let (original, reply) = if flow.is_reply == 0 { (key, &flow.other) } else { (&flow.other, key) };
    let rule = Transport::from_protocol(key.proto).and_then(|transport| {
        let address = env.behind_virtual(original.dst).unwrap_or(original.dst);
        publish::find(env, address, transport, original.dport.get())
    });
    match rule {
        Some(rule) => {
            let same = F::address_of(rule.endpoint) == reply.src && Be16::new(rule.port) == reply.sport;
            same.then_some(rule.stamp)
        }
        None => {
            let untranslated = original.dst == reply.src && original.dport == reply.sport;
            untranslated.then(|| epoch(env, generation::PUBLISH_EPOCH))
        }
    }
}

/// The stamp of an epoch as it is now.
#[inline(always)]
pub(super) fn epoch<F: Family, E: Env<F>>(env: &E, slot: u32) -> Stamp {
    Stamp { slot, generation: env.generation(slot) }
}

/// Looks the route up again; whether it is one that this flow can take.
#[inline(always)]
fn renew_route<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    flow: &mut Flow<F::Addr>,
) -> Result<bool, Refusal> {
    let epoch = env.generation(generation::ROUTE_EPOCH);
    let translation = Translation::of(flow);
    let query = RouteQuery { src: translation.src, dst: translation.dst, proto: parsed.ip.proto, tos: parsed.ip.tos };
    let source = way_out(env, &query, flow)?;
    // A masqueraded flow lives and dies with the address it was given; a reply of a published port
    // leaves with the address it was sent to, by whatever device.
    if flow.is_reply == 0 && source != translation.src {
        return Ok(false);
    }
    entry.reroute(flow, epoch);
    Ok(true)
}

/// Looks the way to an address up and writes it into the flow; the address that masqueraded packets
/// leave with there. Never out of a device that would not understand the replies.
#[inline(always)]
pub(super) fn way_out<F: Family, E: Env<F>>(
    env: &E,
    query: &RouteQuery<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> Result<F::Addr, DropReason> {
    let route = env.route(query)?;
    let uplink = env.uplink(route.ifindex).ok_or(DropReason::NoUplink)?;
    let source = F::uplink_address(uplink);
    if uplink.flags & UplinkFlags::ATTACHED == 0 || source == F::Addr::default() {
        return Err(DropReason::NoUplink);
    }
    flow.target = route.ifindex;
    flow.next_hop = route.next_hop;
    flow.mtu = route.mtu;
    flow.routed = env.now() as u32;
    Ok(source)
}

/// Decides on a packet by the flow in [`Env::scratch`], and changes it accordingly.
#[inline(always)]
pub(super) fn carry<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
) -> Result<Verdict, Refusal> {
    let mut carried = Err(Refusal::Drop(DropReason::Internal));
    decide_and_apply(env, packet, parsed, key, &mut carried);
    carried
}

/// The body of [`carry`], with a stack frame of its own.
#[inline(never)]
fn decide_and_apply<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    carried: &mut Result<Verdict, Refusal>,
) {
    let Some(scratch) = env.scratch() else { return };
    *carried =
        decide(env, packet, parsed, key, &scratch.flow).and_then(|decision| enact(env, packet, parsed, &decision));
}

/// Changes the packet as decided.
#[inline(always)]
pub(super) fn enact<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    decision: &Decision<F>,
) -> Result<Verdict, Refusal> {
    match apply(packet, parsed, &decision.rewrite, env.config().gateway_mac) {
        Some(()) => Ok(decision.verdict),
        None => Err(Refusal::Drop(DropReason::Internal)),
    }
}

/// What a flow entry says of a packet.
#[inline(always)]
fn decide<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    flow: &Flow<F::Addr>,
) -> Result<Decision<F>, Refusal> {
    let translation = Translation::of(flow);
    let same = translation.src == key.src
        && translation.dst == key.dst
        && translation.sport == key.sport
        && translation.dport == key.dport;
    let mut decision = match TargetKind::from_u8(flow.target_kind) {
        Some(TargetKind::Endpoint) => {
            let endpoint = env.endpoint(flow.target).ok_or(DropReason::NoEndpoint)?;
            into_endpoint(parsed, key.scope, endpoint)
        }
        Some(TargetKind::Host) => into_host(env, parsed),
        Some(TargetKind::World) => {
            if flow.mtu != 0 && parsed.segment_len(packet.gso_size()) > u32::from(flow.mtu) {
                return Err(Refusal::Icmp(IcmpError::TooBig(flow.mtu)));
            }
            let verdict = Verdict::Neighbour { ifindex: flow.target, next_hop: flow.next_hop };
            Decision { rewrite: Rewrite { hop: true, ..Rewrite::NONE }, verdict }
        }
        None => return Err(Refusal::Drop(DropReason::Internal)),
    };
    if decision.rewrite.hop && parsed.ip.ttl <= 1 {
        return Err(Refusal::Icmp(IcmpError::TimeExceeded));
    }
    if !same {
        decision.rewrite.translation = Some(translation);
    }
    Ok(decision)
}

/// Into a container's namespace. A neighbour's frame already has the right Ethernet addresses.
#[inline(always)]
pub(super) fn into_endpoint<F: Family>(parsed: &Parsed<F>, scope: u16, endpoint: &Endpoint) -> Decision<F> {
    let addressed = scope == Scope::Container as u16 && parsed.ethernet.dst == endpoint.mac;
    let ethernet = if addressed { None } else { Some(endpoint.mac) };
    let verdict = if scope == Scope::Host as u16 {
        // redirect_peer works at ingress only; at netbpf0's egress the packet takes the device.
        Verdict::Device { ifindex: endpoint.ifindex }
    } else {
        Verdict::Peer { ifindex: endpoint.ifindex }
    };
    Decision { rewrite: Rewrite { ethernet, translation: None, hop: scope == Scope::Uplink as u16 }, verdict }
}

/// Into the host's stack.
#[inline(always)]
pub(super) fn into_host<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> Decision<F> {
    let config = env.config();
    let addressed = parsed.ethernet.dst == config.gateway_mac;
    let ethernet = if addressed { None } else { Some(config.gateway_mac) };
    Decision {
        rewrite: Rewrite { ethernet, ..Rewrite::NONE },
        verdict: Verdict::Ingress { ifindex: config.host_ifindex },
    }
}

/// Whether an address can be the other end of a container's conversation.
#[inline(always)]
pub(super) fn check_destination<A: Address>(dst: A) -> Result<(), DropReason> {
    if dst.is_unicast() {
        Ok(())
    } else if dst.is_loopback() || dst == A::default() {
        Err(DropReason::Martian)
    } else {
        Err(DropReason::Multicast)
    }
}
