//! A packet of a known flow: is the decision still good, and what does it say?

use super::family::IcmpError;
use super::{
    Decision, Env, Family, FlowEntry, Packet, Parsed, Rewrite, RouteQuery, Translation, Verdict, apply, publish, table,
};
use crate::abi::{
    DropReason, Endpoint, Event, Flow, FlowKey, Life, Scope, Stamp, TargetKind, Transport, UplinkFlags, generation,
};
use crate::flow::{Direction, advance, reopens};
use crate::wire::{Address, Be16, Kind, L4, tcp_flags};

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

/// What a function with a stack frame of its own tells its caller: BPF functions return a number.
/// The high half says which, the low half carries a value.
pub(super) mod code {
    /// The packet goes on, the flow is good.
    pub(in crate::path) const GOOD: u64 = 0;
    /// No flow any more.
    pub(in crate::path) const MISS: u64 = 1 << 32;
    /// [`Refusal::Drop`](super::Refusal::Drop) with its reason.
    pub(in crate::path) const DROP: u64 = 2 << 32;
    /// [`Refusal::Reset`](super::Refusal::Reset).
    pub(in crate::path) const RESET: u64 = 3 << 32;
    /// ICMP host unreachable.
    pub(in crate::path) const HOST_UNREACHABLE: u64 = 4 << 32;
    /// ICMP time exceeded.
    pub(in crate::path) const TIME_EXCEEDED: u64 = 5 << 32;
    /// ICMP fragmentation needed with the MTU.
    pub(in crate::path) const TOO_BIG: u64 = 6 << 32;
    /// [`Verdict::Peer`](super::Verdict::Peer) with the ifindex.
    pub(in crate::path) const PEER: u64 = 7 << 32;
    /// [`Verdict::Neighbour`](super::Verdict::Neighbour) with the ifindex; the next hop is the flow's.
    pub(in crate::path) const NEIGHBOUR: u64 = 8 << 32;
    /// [`Verdict::Device`](super::Verdict::Device) with the ifindex.
    pub(in crate::path) const DEVICE: u64 = 9 << 32;
    /// [`Verdict::Ingress`](super::Verdict::Ingress) with the ifindex.
    pub(in crate::path) const INGRESS: u64 = 10 << 32;
}

/// Splits a [`code`] into which and value.
#[inline(always)]
const fn split(code: u64) -> (u64, u32) {
    (code & !0xffff_ffff, code as u32)
}

impl Refusal {
    /// As a [`code`].
    #[inline(always)]
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Drop(reason) => code::DROP | reason as u64,
            Self::Reset => code::RESET,
            Self::Icmp(IcmpError::HostUnreachable) => code::HOST_UNREACHABLE,
            Self::Icmp(IcmpError::TimeExceeded) => code::TIME_EXCEEDED,
            Self::Icmp(IcmpError::TooBig(mtu)) => code::TOO_BIG | mtu as u64,
        }
    }

    /// From a [`code`] that says one.
    #[inline(always)]
    pub(super) const fn from_code(code: u64) -> Option<Self> {
        match split(code) {
            (code::DROP, reason) => match DropReason::from_u32(reason) {
                Some(reason) => Some(Self::Drop(reason)),
                None => Some(Self::Drop(DropReason::Internal)),
            },
            (code::RESET, _) => Some(Self::Reset),
            (code::HOST_UNREACHABLE, _) => Some(Self::Icmp(IcmpError::HostUnreachable)),
            (code::TIME_EXCEEDED, _) => Some(Self::Icmp(IcmpError::TimeExceeded)),
            (code::TOO_BIG, mtu) => Some(Self::Icmp(IcmpError::TooBig(mtu as u16))),
            _ => None,
        }
    }
}

/// What the code of a refusal or [`code::GOOD`] means.
#[inline(always)]
pub(super) const fn checked(code: u64) -> Result<(), Refusal> {
    match Refusal::from_code(code) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
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
    l4.kind != Kind::Tcp || l4.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
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
/// comes from none.
#[inline(always)]
pub(super) fn follow<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> Result<bool, Refusal> {
    let Some(entry) = env.flow(key) else { return Ok(false) };
    let unusual = {
        let mut scratch = env.scratch().ok_or(DropReason::Internal)?;
        entry.read_into(&mut scratch.flow);
        // The entry may have been deleted and used again while it was read.
        if !entry.word().same_flow(scratch.flow.word) {
            return Ok(false);
        }
        is_unusual(env, parsed, &scratch.flow, source_generation)
    };
    if unusual {
        let settled = settle(env, &entry, parsed, key, source_generation);
        checked(settled)?;
        if settled == code::MISS {
            return Ok(false);
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
    (flow.is_reply == 0 && reopens(flow.word, &parsed.l4))
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

/// Changes the state of a flow, decides again on what it rests on, ends it: all that is not a
/// plain hit, out of the way of those that are. A [`code`].
#[inline(never)]
fn settle<F: Family, E: Env<F>>(
    env: &E,
    entry: &E::Entry,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    source_generation: u32,
) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    let flow = &mut scratch.flow;
    if flow.is_reply == 0 && reopens(flow.word, &parsed.l4) {
        table::end_either(env, key, entry, flow);
        return code::MISS;
    }
    if !table::step(env, entry, flow, &parsed.l4) {
        return code::MISS;
    }
    match is_still_so(env, entry, parsed, key, flow, source_generation) {
        Ok(true) => code::GOOD,
        Ok(false) => {
            env.count(Event::FlowRedecided);
            table::end_either(env, key, entry, flow);
            if opens(&parsed.l4) { code::MISS } else { code::RESET }
        }
        Err(refusal) => refusal.code(),
    }
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
                entry.restamp(flow);
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
    let carried = decide_and_apply(env, packet, parsed, key);
    let ifindex = match split(carried) {
        (code::PEER, ifindex) => return Ok(Verdict::Peer { ifindex }),
        (code::DEVICE, ifindex) => return Ok(Verdict::Device { ifindex }),
        (code::INGRESS, ifindex) => return Ok(Verdict::Ingress { ifindex }),
        (code::NEIGHBOUR, ifindex) => ifindex,
        _ => return Err(Refusal::from_code(carried).unwrap_or(Refusal::Drop(DropReason::Internal))),
    };
    let next_hop = env.scratch().ok_or(DropReason::Internal)?.flow.next_hop;
    Ok(Verdict::Neighbour { ifindex, next_hop })
}

/// The body of [`carry`], with a stack frame of its own. A [`code`].
#[inline(never)]
fn decide_and_apply<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
) -> u64 {
    let Some(scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    match decide(env, packet, parsed, key, &scratch.flow) {
        Ok(decision) => enact(env, packet, parsed, &decision),
        Err(refusal) => refusal.code(),
    }
}

/// Changes the packet as decided. A [`code`].
#[inline(always)]
fn enact<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &mut P, parsed: &Parsed<F>, decision: &Decision<F>) -> u64 {
    let verdict = match carry_direct(env, packet, parsed, decision) {
        Ok(verdict) => verdict,
        Err(refusal) => return refusal.code(),
    };
    match verdict {
        Verdict::Peer { ifindex } => code::PEER | u64::from(ifindex),
        Verdict::Device { ifindex } => code::DEVICE | u64::from(ifindex),
        Verdict::Ingress { ifindex } => code::INGRESS | u64::from(ifindex),
        Verdict::Neighbour { ifindex, .. } => code::NEIGHBOUR | u64::from(ifindex),
        Verdict::Drop(reason) => Refusal::Drop(reason).code(),
        Verdict::Pass => Refusal::Drop(DropReason::Internal).code(),
    }
}

/// Sends a packet that needs no flow on its way.
#[inline(always)]
pub(super) fn carry_direct<F: Family, E: Env<F>, P: Packet>(
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
    if parsed.l4.kind == Kind::EchoReply && key.scope == Scope::Uplink as u16 {
        // The host gets it too, see `uplink`, and gets it whole.
        decision.rewrite.hop = false;
    }
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
