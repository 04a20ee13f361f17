//! The short way in, ahead of the host's stack.

use super::decide::{decide_and_apply, survives_hop, verdict};
use super::follow::{find, note};
use super::uplink::concerns_us;
use super::{Env, Family, Headers, Parsed, Part, V4, V6, Verdict, parse};
use crate::abi::{Event, Flow, Scope, TargetKind};
use crate::wire::{Ethernet, Kind, tcp_flags};

#[cfg(doc)]
use super::uplink;

/// XDP at an uplink, ahead of [`uplink()`]: takes what a known flow leads into a container and what changes nothing of that flow. All
/// else goes on to [`uplink()`], untouched: what opens a flow or ends one, errors, fragments, what is for the host.
#[inline(always)]
pub fn express<P: Headers, E: Env<V4> + Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Pass };
    match ethernet.ethertype {
        Ethernet::IPV4 => ip::<V4, P, E>(packet, env, ethernet),
        Ethernet::IPV6 => ip::<V6, P, E>(packet, env, ethernet),
        _ => Verdict::Pass,
    }
}

/// An IP packet of either family. Who is of a known flow has passed what [`uplink()`] looks at before it makes one.
#[inline(always)]
fn ip<F: Family, P: Headers, E: Env<F>>(packet: &mut P, env: &E, ethernet: Ethernet) -> Verdict {
    const CHANGES: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    let Some(mut parsed) = env.parsed() else { return Verdict::Pass };
    if parse(packet, env, ethernet, &mut parsed).is_err() {
        return Verdict::Pass;
    }
    let l4 = &parsed.l4;
    let is_plain = matches!(l4.kind, Kind::Tcp | Kind::Udp) && l4.tcp_flags & CHANGES == 0;
    if !is_plain || parsed.ip.part != Part::Whole || F::has_options(&parsed.ip) || survives_hop(&parsed).is_err() {
        return Verdict::Pass;
    }
    if concerns_us(env, &parsed).is_none() {
        return Verdict::Pass;
    }
    let is_for_us = env.uplink(packet.ifindex()).is_some_and(|uplink| uplink.mac == ethernet.dst);
    parsed.key = parsed.own_key(Scope::Uplink);
    let (parsed, key) = (&*parsed, &parsed.key);
    if !is_for_us {
        return Verdict::Pass;
    }
    let Some((entry, false)) = find(env, parsed, key, 0) else { return Verdict::Pass };
    if !env.scratch().is_some_and(|scratch| takes(env, parsed, &scratch.flow)) {
        return Verdict::Pass;
    }
    note(env, &entry, parsed);
    env.count(Event::Express);
    verdict::<F, E>(env, decide_and_apply(env, packet, parsed, key))
}

/// Whether a flow leads to who takes this packet by this way, and keeps its family. What is longer than the device says that it
/// takes is lost on this way alone (net/core/dev.c, xdp_ok_fwd_dev).
#[inline(always)]
fn takes<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, flow: &Flow<F::Addr>) -> bool {
    flow.target_kind == TargetKind::Endpoint as u8
        && !F::is_translated(flow.other.src)
        && env.takes_express(flow.target)
        && env.endpoint(flow.target).is_some_and(|endpoint| parsed.ip.total_len <= u32::from(endpoint.mtu))
}
