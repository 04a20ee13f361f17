//! Everything the host sends to containers.

use super::decide::{ANY_NETWORK, carry, carry_direct, fits_receiver, verdict};
use super::family::IcmpError;
use super::follow::{answers, follow, opens};
use super::make::{Leg, NewFlow, make};
use super::refusal::{Refusal, checked, code};
use super::refuse::{Teller, refuse};
use super::{Env, Family, Packet, Parsed, V4, V6, Verdict, errors, fragments, parse, publish};
use crate::abi::{DropReason, FlowKey, Scope, Transport};
use crate::wire::{Address, Ethernet, Kind};

/// TC egress of netbpf0.
#[inline(always)]
pub fn host<P: Packet, E: Env<V4> + Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    match host_v4(packet, env) {
        Verdict::HandOver => host_v6(packet, env),
        verdict => verdict,
    }
}

/// The part for whatever is not IPv6, which sees all frames first.
#[inline(always)]
pub fn host_v4<P: Packet, E: Env<V4>>(packet: &mut P, env: &E) -> Verdict {
    if packet.ingress_ifindex() != 0 {
        return Verdict::Drop(DropReason::Forwarded);
    }
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Drop(DropReason::Malformed) };
    let code = match ethernet.ethertype {
        Ethernet::IPV4 => ip::<V4, P, E>(packet, env, ethernet),
        Ethernet::IPV6 => code::HAND_OVER,
        _ => Refusal::Drop(DropReason::UnsupportedProtocol).code(),
    };
    verdict::<V4, E>(env, code)
}

/// The part for IPv6.
#[inline(always)]
pub fn host_v6<P: Packet, E: Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Drop(DropReason::Malformed) };
    let code = ip::<V6, P, E>(packet, env, ethernet);
    verdict::<V6, E>(env, code)
}

/// An IP packet of either family. A [`code`].
#[inline(always)]
fn ip<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, ethernet: Ethernet) -> u64 {
    let Some(mut parsed) = env.parsed() else { return Refusal::Drop(DropReason::Internal).code() };
    if let Err(reason) = parse(packet, env, ethernet, &mut parsed) {
        return Refusal::Drop(reason).code();
    }
    let code = env.forget(Refusal::either(route(packet, env, &mut parsed)));
    match Refusal::or(code) {
        Ok(code) => code,
        Err(_) => answer(packet, env, &parsed, code),
    }
}

/// Answers a packet that does not go on, in the name of who could not be reached: the host takes nothing from its own
/// addresses. A [`code`].
#[inline(never)]
fn answer<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, parsed: &Parsed<F>, code: u64) -> u64 {
    let Err(refusal) = Refusal::or(code) else { return code };
    let config = env.config();
    let teller = Teller { gateway: parsed.ip.dst, to: config.gateway_mac, from: config.gateway_mac, is_on_wire: false };
    refuse(env, packet, parsed, refusal, &teller, code::INGRESS | u64::from(config.host_ifindex))
}

#[inline(always)]
fn route<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, parsed: &mut Parsed<F>) -> Result<u64, Refusal> {
    if !parsed.ip.dst.is_unicast() {
        return Err(DropReason::Multicast.into());
    }
    if parsed.l4.kind == Kind::Icmp {
        return Refusal::or(carry_direct(env, packet, parsed, Scope::Host, ANY_NETWORK));
    }
    if !fragments::settle(env, packet, parsed, Scope::Host)? {
        return Err(DropReason::Fragment.into());
    }
    errors::find_key(env, packet, parsed, Scope::Host).ok_or(DropReason::IcmpError)?;
    let (parsed, key) = (&*parsed, &parsed.key);
    if !follow(env, parsed, key, 0)? {
        match parsed.l4.kind {
            Kind::Error => return Err(DropReason::IcmpError.into()),
            Kind::Fragment => return Err(DropReason::Fragment.into()),
            _ => {}
        }
        checked(env.forget(plan(env, parsed, key)))?;
        fits_receiver(env, packet, parsed, Scope::Host)?;
        checked(env.forget(make(env, parsed, key))).map_err(Refusal::prompt)?;
    }
    carry(env, packet, parsed, key)
}

/// Decides on a flow that a socket of the host opens: to a container's address, or to a virtual
/// address that stands for a published port.
/// It is left in [`Env::scratch`]. A code.
#[inline(never)]
fn plan<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    match choose(env, parsed, key, &mut scratch.new) {
        Ok(()) => code::GOOD,
        Err(refusal) => refusal.code(),
    }
}

#[inline(always)]
fn choose<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    new: &mut NewFlow<F>,
) -> Result<(), Refusal> {
    if answers(&parsed.l4) {
        return Err(DropReason::NoFlow.into());
    }
    if !opens(&parsed.l4) {
        // The host was there before any container: who has the address may not be who the connection began with.
        return Err(Refusal::Reset);
    }
    let slot = env.slot_of(key.dst);
    if slot != 0 {
        let endpoint = env.endpoint(slot).ok_or(DropReason::NoEndpoint)?;
        new.set(key, Leg::endpoint(slot, endpoint), Leg::HOST);
        if !F::is_own(endpoint, key.dst) {
            // By the address that it has outside, of which it knows nothing.
            new.dst = F::address_of(endpoint);
        }
        return Ok(());
    }
    let rule = env
        .behind_virtual(key.dst)
        .zip(Transport::from_protocol(key.proto))
        .and_then(|(address, transport)| publish::find(env, address, transport, key.dport.get()))
        .ok_or(Refusal::Icmp(IcmpError::HostUnreachable))?;
    new.set(key, Leg::endpoint(rule.slot, rule.endpoint), Leg::HOST);
    new.publish(&rule, env.config());
    Ok(())
}
