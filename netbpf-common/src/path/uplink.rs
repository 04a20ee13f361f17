//! Everything from outside.

use super::apply::deltas;
use super::decide::{carry, fits_receiver, is_for_host_too, survives_hop, verdict};
use super::family::IcmpError;
use super::follow::{answers, epoch, follow, opens};
use super::make::{Leg, NewFlow, make};
use super::refusal::{Refusal, checked, code, split};
use super::refuse::{Teller, refuse};
use super::{
    Env, Family, HostSocket, Packet, Parsed, Part, Rewrite, RouteQuery, Scratch, Translation, V4, V6, Verdict, apply,
    errors, fragments, mapping, parse, publish,
};
use crate::abi::{
    ConfigFlags, DropReason, Endpoint, Flow, FlowKey, GatewayMode, NetworkFlags, Scope, Transport, generation,
};
use crate::flow::PortRange;
use crate::wire::{Address, Ethernet, Kind};

/// TC ingress of an uplink. What is not ours passes on untouched: tagged frames and frames for
/// another MAC too, and malformed ones, which the host's stack judges.
#[inline(always)]
pub fn uplink<P: Packet, E: Env<V4> + Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    match uplink_v4(packet, env) {
        Verdict::HandOver => uplink_v6(packet, env),
        verdict => verdict,
    }
}

/// The part for whatever is not IPv6, which sees all frames first.
#[inline(always)]
pub fn uplink_v4<P: Packet, E: Env<V4>>(packet: &mut P, env: &E) -> Verdict {
    if packet.has_vlan_tag() || !packet.is_for_us() {
        return Verdict::Pass;
    }
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Pass };
    let code = match ethernet.ethertype {
        Ethernet::IPV4 => ip::<V4, P, E>(packet, env, ethernet),
        Ethernet::IPV6 => code::HAND_OVER,
        _ => code::PASS,
    };
    verdict::<V4, E>(env, code)
}

/// The part for IPv6.
#[inline(always)]
pub fn uplink_v6<P: Packet, E: Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Pass };
    let code = ip::<V6, P, E>(packet, env, ethernet);
    verdict::<V6, E>(env, code)
}

/// An IP packet of either family. A [`code`].
#[inline(always)]
fn ip<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, ethernet: Ethernet) -> u64 {
    let Some(mut parsed) = env.parsed() else { return Refusal::Drop(DropReason::Internal).code() };
    match parse(packet, env, ethernet, &mut parsed) {
        Ok(()) => {}
        Err(DropReason::TinyFragment) => return tiny(env, &parsed),
        Err(_) => return code::PASS,
    }
    if env.is_virtual(parsed.ip.src) {
        // To the host's sockets it would look as if it came from the address that this one stands for.
        return Refusal::Drop(DropReason::Martian).code();
    }
    // The host's stack knows what to do with options; source routing is not for containers.
    if parsed.ip.dst.is_loopback() || F::has_options(&parsed.ip) {
        return code::PASS;
    }
    let code = env.forget(Refusal::either(route(packet, env, &mut parsed)));
    match Refusal::or(code) {
        Ok(code) => code,
        // The connection is no more, and no socket of the host has it: its stack says so.
        Err(Refusal::Reset) if !is_reachable(env, parsed.ip.dst) => {
            env.count_drop(DropReason::StaleFlow);
            code::PASS
        }
        // Its sender may be anybody: no more than some of these a second.
        Err(Refusal::Icmp(_) | Refusal::Reset) if env.may_multiply(0) => answer(packet, env, &parsed, code),
        Err(refusal) => Refusal::Drop(refusal.reason()).code(),
    }
}

/// Answers a packet that does not go on. A [`code`].
#[inline(never)]
fn answer<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, parsed: &Parsed<F>, code: u64) -> u64 {
    let Err(refusal) = Refusal::or(code) else { return code };
    let ethernet = &parsed.ethernet;
    let gateway = asked(env, packet.ifindex(), parsed.ip.dst);
    if gateway == F::Addr::default() {
        // Nobody would be believed who says it.
        return Refusal::Drop(refusal.reason()).code();
    }
    let teller = Teller { gateway, to: ethernet.src, from: ethernet.dst, is_on_wire: true };
    let back = code::DEVICE | u64::from(packet.ifindex());
    refuse(env, packet, parsed, refusal, &teller, back)
}

/// A first fragment without a whole transport header. No stack makes one, and it would hide from who looks at ports (RFC
/// 1858 section 3).
#[inline(always)]
fn tiny<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> u64 {
    let dst = parsed.ip.dst;
    let is_ours = env.is_local(dst) || is_reachable(env, dst);
    if is_ours { Refusal::Drop(DropReason::TinyFragment).code() } else { code::PASS }
}

#[inline(always)]
fn route<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, parsed: &mut Parsed<F>) -> Result<u64, Refusal> {
    if parsed.ip.part != Part::Whole && !env.is_local(parsed.ip.dst) && !is_reachable(env, parsed.ip.dst) {
        return Ok(code::PASS);
    }
    let Some(held) = fragments::look(env, parsed, Scope::Uplink)? else {
        // The host's, for all that is known of it. A copy waits for what the first one says.
        fragments::hold(env, packet, parsed, Scope::Uplink);
        return Ok(code::PASS);
    };
    if concerns_us(env, parsed).is_none() || errors::find_key(env, packet, parsed, Scope::Uplink).is_none() {
        return Ok(code::PASS);
    }
    let (parsed, key) = (&*parsed, &parsed.key);
    if !follow(env, parsed, key, 0)? {
        if parsed.l4.kind == Kind::Error && errors::is_ours(env, key) {
            return Err(DropReason::IcmpError.into());
        }
        // Asked once more, not kept: the verifier would walk all that lies between for either answer.
        let may_open = concerns_us(env, parsed) == Some(true);
        let planned = if may_open { env.forget(plan(env, parsed, key, packet.ifindex())) } else { code::PASS };
        if planned == code::PASS {
            return Ok(code::PASS);
        }
        checked(planned)?;
        // A packet that cannot take the way of the flow it opens opens none.
        fits_receiver(env, packet, parsed, Scope::Uplink)?;
        survives_hop(parsed)?;
        checked(env.forget(make(env, parsed, key)))?;
    }
    fragments::follow_first(env, packet, parsed, Scope::Uplink, held)?;
    let carried = carry(env, packet, parsed, key)?;
    match split(carried) {
        (code::PEER | code::DEVICE, ifindex) if P::HAS_ETHERNET && is_for_host_too(env, parsed) => {
            if share(env, packet, parsed, key, ifindex) { Ok(code::PASS) } else { Err(DropReason::Internal.into()) }
        }
        _ => Ok(carried),
    }
}

/// An echo reply goes to the container as a copy, and to the host: a process of the host may have
/// asked with the same identifier, which no table tells. Who has not asked ignores it. Whether that could be done.
#[inline(never)]
fn share<F: Family, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    ifindex: u32,
) -> bool {
    let Some(translated) = env.scratch().map(|scratch| scratch.flow.other.reversed(Scope::Uplink)) else {
        return false;
    };
    let (addresses, ports) = deltas(&translated, key);
    let translation = Translation { src: key.src, dst: key.dst, sport: key.sport, dport: key.dport, addresses, ports };
    let back = Rewrite::<F> { translation: Some(translation), ..Rewrite::NONE };
    packet
        .send_copy(ifindex)
        .and_then(|()| apply(packet, parsed, &back, parsed.ethernet.src))
        .and_then(|()| packet.write(0, parsed.ethernet))
        .is_some()
}

/// Whether the packet can be one of ours at all, from array reads alone: all other traffic of the
/// host pays for this and no more. `Some(true)`: it may open a flow.
#[inline(always)]
pub(super) fn concerns_us<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>) -> Option<bool> {
    if is_reachable(env, parsed.ip.dst) {
        return (!matches!(parsed.l4.kind, Kind::Icmp | Kind::Link)).then_some(true);
    }
    match parsed.l4.kind {
        Kind::Icmp | Kind::Link | Kind::EchoRequest => None,
        Kind::Error => (env.is_local(parsed.ip.dst) && is_stranger(env, parsed.ip.src)).then_some(false),
        Kind::EchoReply | Kind::Other | Kind::Fragment => Some(false),
        Kind::Tcp | Kind::Udp | Kind::Sctp => {
            let port = parsed.l4.ports.dport.get();
            let index = Transport::from_protocol(parsed.ip.proto)?.port_index(port);
            let published = env.published(index);
            if published.wildcard != 0 || published.specific != 0 {
                return Some(true);
            }
            is_nat_port(env, index, port).then_some(env.config().flags & ConfigFlags::MAPPINGS != 0)
        }
    }
}

/// Whether a port (host order) may be one that masquerading has given out.
#[inline(always)]
pub(super) fn is_nat_port<F: Family, E: Env<F>>(env: &E, index: u32, port: u16) -> bool {
    let config = env.config();
    PortRange::new(config.nat_first, config.nat_last).contains(port) || env.is_kept(index)
}

/// Whether an address is one by which a container is reached from outside, other than the host's.
#[inline(always)]
pub(super) fn is_reachable<F: Family, E: Env<F>>(env: &E, address: F::Addr) -> bool {
    env.config().flags & ConfigFlags::REACHABLE != 0 && env.slot_of(address) != 0
}

/// In whose name somebody outside is told that his packet cannot go on: of the address he asked, if that is the host's.
#[inline(always)]
fn asked<F: Family, E: Env<F>>(env: &E, ifindex: u32, address: F::Addr) -> F::Addr {
    if env.config().flags & ConfigFlags::REACHABLE == 0 || env.is_local(address) {
        return address;
    }
    env.uplink(ifindex).map(F::uplink_address).unwrap_or_default()
}

/// Whether an address can be somebody's outside: the host's stack drops the others as martians, and routes none that stays on
/// its link.
#[inline(always)]
fn is_stranger<F: Family, E: Env<F>>(env: &E, address: F::Addr) -> bool {
    address.is_unicast() && !address.stays_on_link() && !env.is_local(address) && env.slot_of(address) == 0
}

/// Decides on a flow that somebody outside opens; it is left in [`Env::scratch`]. A [`code`]: [`code::PASS`] if the packet
/// is the host's own affair.
#[inline(never)]
fn plan<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>, ifindex: u32) -> u64 {
    if !is_stranger(env, key.src) {
        return code::PASS;
    }
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    let Scratch { new, mapping, query, route, .. } = &mut *scratch;
    let planned = if is_reachable(env, key.dst) {
        plan_direct(env, parsed, key, new)
    } else if opens(&parsed.l4) {
        plan_published(env, parsed, key, new, mapping, ifindex)
    } else {
        code::PASS
    };
    let network = env.endpoint(new.forward.slot()).and_then(|endpoint| env.network(endpoint.network));
    let is_clamped = network.is_some_and(|network| network.flags & NetworkFlags::CLAMP_MSS != 0);
    if planned == code::GOOD && is_clamped && parsed.l4.mss_at != 0 {
        // The SYN is held down to it already.
        *query = RouteQuery { src: key.dst, dst: key.src, proto: key.proto, tos: parsed.ip.tos };
        if env.route(query, route).is_ok() {
            new.back_mtu = route.mtu;
        }
    }
    planned
}

/// For a port that is published, or mapped. A [`code`].
#[inline(always)]
fn plan_published<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    new: &mut NewFlow<F>,
    mapping: &mut Flow<F::Addr>,
    ifindex: u32,
) -> u64 {
    let Some(transport) = Transport::from_protocol(key.proto).filter(|_| env.is_local(key.dst)) else {
        return code::PASS;
    };
    // A UDP socket of the host that has the port was given it by the kernel, which asks no hook then: what
    // comes is its answer. Of TCP a listener would not be there, and answers are for connected sockets.
    let socket = env.host_socket(key);
    if socket == HostSocket::Connected || socket == HostSocket::Listening && parsed.l4.kind == Kind::Udp {
        return code::PASS;
    }
    let Some(rule) = publish::find(env, key.dst, transport, key.dport.get()) else {
        return if mapping::find(env, key, mapping, new).is_some() { code::GOOD } else { code::PASS };
    };
    let Some(network) = env.network(rule.endpoint.network) else { return code::PASS };
    if F::subnet_of(network).contains(key.src) || network.flags & NetworkFlags::INTERNAL != 0 {
        return code::PASS;
    }
    if !rule.is_for(env, key.src, ifindex) {
        return Refusal::Icmp(IcmpError::Prohibited(DropReason::NotAllowed)).code();
    }
    new.set(key, Leg::endpoint(rule.slot, rule.endpoint), Leg::UNKNOWN_WORLD);
    new.publish(&rule, env.config());
    code::GOOD
}

/// For a container that is reached by an address of its own. A [`code`].
#[inline(always)]
fn plan_direct<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>, new: &mut NewFlow<F>) -> u64 {
    let is_answer = answers(&parsed.l4) || matches!(parsed.l4.kind, Kind::Error | Kind::Fragment);
    let Some((slot, endpoint)) = reached_directly(env, key).filter(|_| !is_answer) else { return code::PASS };
    if !opens(&parsed.l4) {
        // Who has the address may not be who the connection began with.
        return Refusal::Reset.code();
    }
    new.set(key, Leg::endpoint(slot, endpoint), Leg::UNKNOWN_WORLD);
    new.dst = F::address_of(endpoint);
    new.owner = epoch(env, generation::PUBLISH_EPOCH);
    code::GOOD
}

/// The container, by slot, that somebody outside reaches by an address of its own.
#[inline(always)]
pub(super) fn reached_directly<'a, F: Family, E: Env<F>>(
    env: &'a E,
    key: &FlowKey<F::Addr>,
) -> Option<(u32, &'a Endpoint)> {
    let slot = env.slot_of(key.dst);
    let endpoint = env.endpoint(slot)?;
    let subnet = env.network(endpoint.network).map(F::subnet_of)?;
    let mut outside = F::address_of(endpoint);
    match GatewayMode::from_u32(subnet.mode) {
        GatewayMode::Routed => {}
        GatewayMode::Prefix => outside.move_into(&subnet.mask, &subnet.external),
        GatewayMode::Closed | GatewayMode::Masquerade | GatewayMode::Plain => return None,
    }
    // Whoever has an address of the subnet sends by another way.
    (key.dst == outside && !subnet.contains(key.src)).then_some((slot, endpoint))
}
