//! Everything from outside.

use super::apply::deltas;
use super::follow::{Refusal, carry, checked, follow, opens};
use super::make::{Leg, NewFlow, make};
use super::{Env, Family, HostSocket, Packet, Parsed, Rewrite, Translation, V4, Verdict, apply, parse, publish};
use crate::abi::{DropReason, FlowKey, Scope, Transport};
use crate::flow::PortRange;
use crate::wire::{Address, Be16, Ethernet, Kind};

/// TC ingress of an uplink. What is not ours passes on untouched: tagged frames and frames for
/// another MAC too, and malformed ones, which the host's stack judges.
#[inline(always)]
pub fn uplink<P: Packet, E: Env<V4>>(packet: &mut P, env: &E) -> Verdict {
    if packet.has_vlan_tag() || !packet.is_for_us() {
        return Verdict::Pass;
    }
    match packet.read::<Ethernet>(0) {
        Some(ethernet) if ethernet.ethertype == Ethernet::IPV4 => ip::<V4, P, E>(packet, env, ethernet),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn ip<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, ethernet: Ethernet) -> Verdict {
    let Ok(parsed) = parse::<F, P>(packet, ethernet) else { return Verdict::Pass };
    if env.is_virtual(parsed.ip.src) {
        // To the host's sockets it would look as if it came from the address that this one stands for.
        return Verdict::Drop(DropReason::Martian);
    }
    let Some(published) = concerns_us(env, &parsed) else { return Verdict::Pass };
    let key = parsed.key(Scope::Uplink);
    let carried = match follow(env, &parsed, &key, 0) {
        Ok(true) => carry(env, packet, &parsed, &key),
        Ok(false) => {
            if !published || !plan(env, &parsed, &key) {
                return Verdict::Pass;
            }
            checked(make(env, &parsed, &key)).and_then(|()| carry(env, packet, &parsed, &key))
        }
        Err(refusal) => Err(refusal),
    };
    match carried {
        Ok(Verdict::Peer { ifindex }) if P::HAS_ETHERNET && parsed.l4.kind == Kind::EchoReply => {
            share(env, packet, &parsed, &key, ifindex)
        }
        Ok(verdict) => verdict,
        // The connection is no more, and no socket of the host has it: its stack says so.
        Err(Refusal::Reset) => {
            env.count_drop(DropReason::StaleFlow);
            Verdict::Pass
        }
        Err(refusal) => Verdict::Drop(refusal.reason()),
    }
}

/// An echo reply goes to the container as a copy, and to the host: a process of the host may have
/// asked with the same identifier, which no table tells. Who has not asked ignores it.
#[inline(never)]
fn share<F: Family, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    ifindex: u32,
) -> Verdict {
    let Some(translated) = env.scratch().map(|scratch| scratch.flow.other.reversed(Scope::Uplink)) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let (addresses, ports) = deltas(&translated, key);
    let translation = Translation { src: key.src, dst: key.dst, sport: key.sport, dport: key.dport, addresses, ports };
    let back = Rewrite::<F> { translation: Some(translation), ..Rewrite::NONE };
    let restored = packet
        .send_copy(ifindex)
        .and_then(|()| apply(packet, parsed, &back, parsed.ethernet.src))
        .and_then(|()| packet.write(0, parsed.ethernet));
    if restored.is_some() { Verdict::Pass } else { Verdict::Drop(DropReason::Internal) }
}

/// Whether the packet can be one of ours at all, from array reads alone: all other traffic of the
/// host pays for this and no more. `Some(true)`: its port is published.
#[inline(always)]
fn concerns_us<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> Option<bool> {
    // The host's stack knows what to do with options; source routing is not for containers.
    if parsed.ip.is_fragment || parsed.ip.dst.is_loopback() || parsed.ip.header_len > F::HEADER_LEN {
        return None;
    }
    match parsed.l4.kind {
        Kind::Icmp | Kind::EchoRequest => None,
        Kind::EchoReply | Kind::Other => Some(false),
        Kind::Tcp | Kind::Udp | Kind::Sctp => {
            let port = parsed.l4.ports.dport.get();
            let index = Transport::from_protocol(parsed.ip.proto)?.port_index(port);
            let published = env.published(index);
            if published.wildcard != 0 || published.specific != 0 {
                return Some(true);
            }
            let config = env.config();
            let ours = PortRange::new(config.nat_first, config.nat_last).contains(port) || env.is_kept(index);
            ours.then_some(false)
        }
    }
}

/// Decides on a flow that somebody outside opens; it is left in [`Env::scratch`]. False: the packet
/// is the host's own affair.
#[inline(never)]
fn plan<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> bool {
    let Some(transport) = Transport::from_protocol(key.proto) else { return false };
    // Nobody outside has an address of ours; the host's stack drops these as martians.
    let martian = !key.src.is_unicast() || env.is_local(key.src) || env.slot_of(key.src) != 0;
    if martian || !env.is_local(key.dst) || !opens(&parsed.l4) {
        return false;
    }
    // A UDP socket of the host that has the port was given it by the kernel, which asks no hook then: what
    // comes is its answer. Of TCP a listener would not be there, and answers are for connected sockets.
    let socket = env.host_socket(key);
    if socket == HostSocket::Connected || socket == HostSocket::Listening && parsed.l4.kind == Kind::Udp {
        return false;
    }
    let Some(rule) = publish::find(env, key.dst, transport, key.dport.get()) else { return false };
    let Some(network) = env.network(rule.endpoint.network) else { return false };
    if F::subnet_of(network).contains(key.src) {
        return false;
    }
    let Some(mut scratch) = env.scratch() else { return false };
    scratch.new = NewFlow {
        dst: F::address_of(rule.endpoint),
        dport: Be16::new(rule.port),
        owner: rule.stamp,
        ..NewFlow::plain(key, Leg::endpoint(rule.slot, rule.endpoint), Leg::UNKNOWN_WORLD)
    };
    true
}
