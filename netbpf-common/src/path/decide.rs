//! What a flow says of a packet: where it goes, and how it changes on the way.

use super::family::IcmpError;
use super::refusal::{Refusal, checked, code, split};
use super::uplink::is_reachable;
use super::{Decision, Env, Family, FlowEntry, Headers, Packet, Parsed, Rewrite, Translation, Verdict, apply, errors};
use crate::abi::{DropReason, Endpoint, EndpointFlags, Flow, FlowKey, NetworkFlags, Scope, TargetKind};
use crate::wire::{Address, Kind, Mac, Tcp};

/// Decides on a packet by the flow in [`Env::scratch`], and changes it accordingly. A [`code`].
#[inline(always)]
pub(super) fn carry<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
) -> Result<u64, Refusal> {
    let carried = if parsed.l4.kind == Kind::Error {
        errors::carry(env, packet, parsed, key)
    } else {
        decide_and_apply(env, packet, parsed, key)
    };
    let carried = Refusal::or(env.forget(carried))?;
    // A header with a checksum shows what was written into it; one without must not be left to a place of the sender's choice.
    let leaves = !F::HEADER_HAS_CHECKSUM && split(carried).0 == code::NEIGHBOUR && key.scope == Scope::Container as u16;
    if leaves && !packet.is_summed_in(parsed.l4_at(), parsed.checksum()) {
        return Err(DropReason::Malformed.into());
    }
    if !crosses::<F, E>(env) {
        return Ok(carried);
    }
    checked(env.forget(F::cross(packet, parsed)))?;
    Ok(carried)
}

/// Whether a packet of the flow in [`Env::scratch`] gets the header of the other family at the end of its way.
#[inline(always)]
fn crosses<F: Family, E: Env<F>>(env: &E) -> bool {
    env.scratch().is_some_and(|scratch| {
        scratch.flow.target_kind == TargetKind::Endpoint as u8 && F::is_translated(scratch.flow.other.src)
    })
}

/// The verdict that a [`code`] stands for, on a packet of the flow in [`Env::scratch`]. The one place where a path ends: the
/// verifier follows the payload of a verdict even where it has none.
#[inline(always)]
pub(super) fn verdict<F: Family, E: Env<F>>(env: &E, code: u64) -> Verdict {
    let code = env.forget(code);
    let (which, ifindex) = split(code);
    match which {
        code::PASS => Verdict::Pass,
        code::DONE => Verdict::Done,
        code::HAND_OVER => Verdict::HandOver,
        code::PEER => Verdict::Peer { ifindex },
        code::DEVICE => Verdict::Device { ifindex },
        code::INGRESS => Verdict::Ingress { ifindex },
        code::NEIGHBOUR => match env.scratch() {
            Some(scratch) => Verdict::Neighbour { ifindex, next_hop: scratch.flow.next_hop },
            None => Verdict::Drop(DropReason::Internal),
        },
        _ => Verdict::Drop(Refusal::from_code(code).map_or(DropReason::Internal, Refusal::reason)),
    }
}

/// The body of [`carry`], with a stack frame of its own. A [`code`].
#[inline(never)]
pub(super) fn decide_and_apply<F: Family, E: Env<F>, P: Headers>(
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
fn enact<F: Family, E: Env<F>, P: Headers>(env: &E, packet: &mut P, parsed: &Parsed<F>, decision: &Decision<F>) -> u64 {
    match apply(packet, parsed, &decision.rewrite, env.config().gateway_mac) {
        Some(()) => code_of(decision.verdict),
        None => Refusal::Drop(DropReason::Internal).code(),
    }
}

/// The [`code`] that stands for a verdict.
#[inline(always)]
pub(super) fn code_of(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Peer { ifindex } => code::PEER | u64::from(ifindex),
        Verdict::Device { ifindex } => code::DEVICE | u64::from(ifindex),
        Verdict::Ingress { ifindex } => code::INGRESS | u64::from(ifindex),
        Verdict::Neighbour { ifindex, .. } => code::NEIGHBOUR | u64::from(ifindex),
        Verdict::Drop(reason) => Refusal::Drop(reason).code(),
        Verdict::Pass => code::PASS,
        Verdict::Done => code::DONE,
        Verdict::HandOver => code::HAND_OVER,
    }
}

/// Sends a packet that needs no flow into the endpoint in a slot, if that is of this network. A [`code`].
#[inline(never)]
pub(super) fn carry_direct<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    scope: Scope,
    network: u32,
) -> u64 {
    let slot = env.slot_of(parsed.ip.dst);
    let is_whose = |endpoint: &&Endpoint| slot != 0 && endpoint.generation != 0 && F::is_own(endpoint, parsed.ip.dst);
    let Some(endpoint) = env.endpoint(slot).filter(is_whose) else {
        return Refusal::Drop(DropReason::NoEndpoint).code();
    };
    if network != ANY_NETWORK && network != u32::from(endpoint.network) {
        return Refusal::Drop(DropReason::Isolated).code();
    }
    match into_endpoint(env, packet, parsed, scope as u16, endpoint) {
        Ok(decision) => enact(env, packet, parsed, &decision),
        Err(refusal) => refusal.code(),
    }
}

/// To [`carry_direct`]: whichever network the endpoint is of.
pub(super) const ANY_NETWORK: u32 = u32::MAX;

/// What a flow entry says of a packet.
#[inline(always)]
pub(super) fn decide<F: Family, E: Env<F>, P: Headers>(
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
            into_endpoint(env, packet, parsed, key.scope, endpoint)?
        }
        Some(TargetKind::Host) => {
            is_addressed(env, parsed, key.scope, env.config().gateway_mac)?;
            into_host(env, parsed)
        }
        Some(TargetKind::World) => {
            is_addressed(env, parsed, key.scope, env.config().gateway_mac)?;
            fits(packet, parsed, flow.mtu)?;
            let verdict = Verdict::Neighbour { ifindex: flow.uplink, next_hop: flow.next_hop };
            Decision { rewrite: Rewrite { hop: true, ..Rewrite::NONE }, verdict }
        }
        None => return Err(Refusal::Drop(DropReason::Internal)),
    };
    if P::HAS_ETHERNET && key.scope == Scope::Uplink as u16 && is_for_host_too(env, parsed) {
        // The host gets it too, see `uplink`, and gets it whole.
        decision.rewrite.hop = false;
    }
    if decision.rewrite.hop {
        survives_hop(parsed)?;
    }
    if !same {
        decision.rewrite.translation = Some(translation);
    }
    if parsed.l4.mss_at != 0 {
        decision.rewrite.mss = largest_segment(env, flow);
    }
    Ok(decision)
}

/// Whether a container's frame is for the gateway or for its receiver itself, as on a wire. Frames of others were looked at
/// before.
#[inline(always)]
pub(super) fn is_addressed<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    scope: u16,
    receiver: Mac,
) -> Result<(), Refusal> {
    let dst = parsed.ethernet.dst;
    if scope != Scope::Container as u16 || dst == env.config().gateway_mac || dst == receiver {
        return Ok(());
    }
    Err(Refusal::Drop(DropReason::ForeignMac))
}

/// Whether every segment of a packet fits a way out of this MTU; 0 takes any.
#[inline(always)]
pub(super) fn fits<F: Family, P: Headers>(packet: &P, parsed: &Parsed<F>, mtu: u16) -> Result<(), Refusal> {
    if mtu != 0 && parsed.segment_len(packet.gso_size()) > u32::from(mtu) {
        return Err(Refusal::Icmp(IcmpError::TooBig(mtu)));
    }
    Ok(())
}

/// Whether a packet may be routed here.
#[inline(always)]
pub(super) fn survives_hop<F: Family>(parsed: &Parsed<F>) -> Result<(), Refusal> {
    if parsed.ip.ttl <= 1 { Err(Refusal::Icmp(IcmpError::TimeExceeded)) } else { Ok(()) }
}

/// What a SYN of this flow may announce as its maximum segment size, if its network wants that held down: what the way
/// to the world takes, whichever side announces it. 0 for anything.
#[inline(always)]
fn largest_segment<F: Family, E: Env<F>>(env: &E, flow: &Flow<F::Addr>) -> u16 {
    let network = env.endpoint(flow.payer).and_then(|endpoint| env.network(endpoint.network));
    if network.is_none_or(|network| network.flags & NetworkFlags::CLAMP_MSS == 0) {
        return 0;
    }
    let way_out = if flow.target_kind == TargetKind::World as u8 {
        flow.mtu
    } else {
        env.flow(&flow.other).map_or(0, |other| other.mtu())
    };
    let headers = (F::HEADER_LEN + Tcp::LEN) as u16;
    way_out.saturating_sub(headers)
}

/// Whether a packet from outside may as well be an answer to the host: nothing tells whose identifier an echo bears, nor
/// does a later fragment of one. An address that a container has for itself is not the host's.
#[inline(always)]
pub(super) fn is_for_host_too<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> bool {
    let is_echo = parsed.l4.kind == Kind::EchoReply || parsed.l4.kind == Kind::Fragment && parsed.ip.proto == F::ICMP;
    is_echo && !is_reachable(env, parsed.ip.dst)
}

/// Whether what goes out of an endpoint's device fits it. Into a namespace everything goes, as large as it is.
#[inline(always)]
pub(super) fn fits_device<F: Family, P: Headers>(
    packet: &P,
    parsed: &Parsed<F>,
    scope: u16,
    endpoint: &Endpoint,
) -> Result<(), Refusal> {
    if has_way_in(scope, endpoint) { Ok(()) } else { fits(packet, parsed, endpoint.mtu) }
}

/// Whether a packet fits the device of whom the flow leads to that it opens, as it is decided on in [`Env::scratch`]: one that does
/// not opens none.
#[inline(always)]
pub(super) fn fits_receiver<F: Family, E: Env<F>, P: Headers>(
    env: &E,
    packet: &P,
    parsed: &Parsed<F>,
    scope: Scope,
) -> Result<(), Refusal> {
    let slot = env.scratch().ok_or(DropReason::Internal)?.new.forward.slot();
    let endpoint = env.endpoint(slot).ok_or(DropReason::NoEndpoint)?;
    fits_device(packet, parsed, scope as u16, endpoint)
}

/// Whether packets go into the namespace behind an endpoint's device past that device: redirect_peer works at ingress only, so not
/// at netbpf0's egress.
#[inline(always)]
fn has_way_in(scope: u16, endpoint: &Endpoint) -> bool {
    scope != Scope::Host as u16 && endpoint.flags & EndpointFlags::NO_PEER == 0
}

/// Into a container's namespace. A neighbour's frame already has the right Ethernet addresses.
#[inline(always)]
fn into_endpoint<F: Family, E: Env<F>, P: Headers>(
    env: &E,
    packet: &P,
    parsed: &Parsed<F>,
    scope: u16,
    endpoint: &Endpoint,
) -> Result<Decision<F>, Refusal> {
    is_addressed(env, parsed, scope, endpoint.mac)?;
    fits_device(packet, parsed, scope, endpoint)?;
    let addressed = scope == Scope::Container as u16 && parsed.ethernet.dst == endpoint.mac;
    let ethernet = if addressed { None } else { Some(endpoint.mac) };
    let ifindex = endpoint.ifindex;
    let verdict = if has_way_in(scope, endpoint) { Verdict::Peer { ifindex } } else { Verdict::Device { ifindex } };
    Ok(Decision { rewrite: Rewrite { ethernet, hop: scope == Scope::Uplink as u16, ..Rewrite::NONE }, verdict })
}

/// Into the endpoint that a packet has come from, at the ingress of its device. A [`code`].
#[inline(always)]
pub(super) fn code_into(endpoint: &Endpoint) -> u64 {
    let way = if endpoint.flags & EndpointFlags::NO_PEER == 0 { code::PEER } else { code::DEVICE };
    way | u64::from(endpoint.ifindex)
}

/// Into the host's stack.
#[inline(always)]
fn into_host<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> Decision<F> {
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
    } else if dst.words()[0].get() >> 31 == 0 {
        // Unspecified, loopback and the like stand before all addresses of machines, groups behind them.
        Err(DropReason::Martian)
    } else {
        Err(DropReason::Multicast)
    }
}
