//! Everything a container sends.

use super::broadcast::{broadcast, is_for_many};
use super::decide::{
    carry, carry_direct, check_destination, code_into, fits, fits_device, is_addressed, survives_hop, verdict,
};
use super::family::IcmpError;
use super::follow::{self, Way, follow, leave, opens, way_out};
use super::make::{Leg, make};
use super::refusal::{Refusal, checked, code};
use super::refuse::{Teller, refuse};
use super::{
    Env, Family, Packet, Parsed, Scratch, V4, V6, Verdict, World, errors, fragments, mapping, neighbour, parse,
    publish, siit,
};
use crate::abi::{
    DropReason, ENDPOINT_SLOTS, Endpoint, FlowKey, GatewayMode, Network, NetworkFlags, Scope, Transport, generation,
};
use crate::wire::{Address as _, Be16, Ethernet, Kind, protocol};

/// TC ingress of an endpoint's host-side device.
#[inline(always)]
pub fn egress<P: Packet, E: Env<V4> + Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    match egress_v4(packet, env) {
        Verdict::HandOver => egress_v6(packet, env),
        verdict => verdict,
    }
}

/// The part for whatever is not IPv6, which sees all frames first.
#[inline(always)]
pub fn egress_v4<P: Packet, E: Env<V4>>(packet: &mut P, env: &E) -> Verdict {
    let Some(endpoint) = sender(packet, env) else { return Verdict::Drop(DropReason::UnknownDevice) };
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Drop(DropReason::Malformed) };
    if packet.has_vlan_tag() || ethernet.is_tagged() {
        return Verdict::Drop(DropReason::VlanTag);
    }
    if ethernet.src != endpoint.mac {
        return Verdict::Drop(DropReason::SpoofedMac);
    }
    let code = match ethernet.ethertype {
        Ethernet::IPV4 if siit::is_for_translator(packet, env) => siit::widen(packet, env, ethernet, endpoint),
        Ethernet::IPV4 => ip::<V4, P, E>(packet, env, ethernet, endpoint),
        Ethernet::IPV6 => siit::pass_on(packet),
        Ethernet::ARP => neighbour::answer_request(packet, env, &ethernet, endpoint),
        _ => Refusal::Drop(DropReason::UnsupportedProtocol).code(),
    };
    verdict::<V4, E>(env, code)
}

/// The part for IPv6.
#[inline(always)]
pub fn egress_v6<P: Packet, E: Env<V4> + Env<V6>>(packet: &mut P, env: &E) -> Verdict {
    let Some(endpoint) = sender(packet, env) else { return Verdict::Drop(DropReason::UnknownDevice) };
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::Drop(DropReason::Malformed) };
    let has_crossed = packet.has_crossed();
    let ethertype = if has_crossed { Ethernet::IPV4 } else { Ethernet::IPV6 };
    let code = ip::<V6, P, E>(packet, env, Ethernet { ethertype, ..ethernet }, endpoint);
    let code = if has_crossed { siit::tell(packet, env, env.forget(code), endpoint) } else { code };
    verdict::<V6, E>(env, code)
}

/// The endpoint behind the device that a packet is on.
#[inline(always)]
fn sender<'a, P: Packet, E: World>(packet: &P, env: &'a E) -> Option<&'a Endpoint> {
    let slot = slot_of_device(packet.ifindex());
    env.endpoint(slot).filter(|e| e.generation != 0 && e.ifindex == packet.ifindex())
}

/// An IP packet of either family. A [`code`].
#[inline(always)]
fn ip<F: Family, P: Packet, E: Env<F>>(packet: &mut P, env: &E, ethernet: Ethernet, endpoint: &Endpoint) -> u64 {
    let Some(mut parsed) = env.parsed() else { return Refusal::Drop(DropReason::Internal).code() };
    if let Err(reason) = parse(packet, env, ethernet, &mut parsed) {
        return Refusal::Drop(reason).code();
    }
    let code = env.forget(Refusal::either(route(packet, env, &mut parsed, endpoint)));
    match Refusal::or(code) {
        Ok(code) => code,
        // The container does not know this family.
        Err(_) if parsed.ethernet.ethertype != F::ETHERTYPE => code,
        Err(_) => answer(packet, env, &parsed, code, endpoint),
    }
}

/// Answers a packet that does not go on, in the gateway's name. A [`code`].
#[inline(never)]
fn answer<F: Family, P: Packet, E: Env<F>>(
    packet: &mut P,
    env: &E,
    parsed: &Parsed<F>,
    code: u64,
    endpoint: &Endpoint,
) -> u64 {
    let Err(refusal) = Refusal::or(code) else { return code };
    let gateway = env.network(endpoint.network).map(|n| F::subnet_of(n).gateway).unwrap_or_default();
    let teller = Teller { gateway, to: endpoint.mac, from: env.config().gateway_mac, is_on_wire: false };
    refuse(env, packet, parsed, refusal, &teller, code_into(endpoint))
}

#[inline(always)]
fn route<F: Family, P: Packet, E: Env<F>>(
    packet: &mut P,
    env: &E,
    parsed: &mut Parsed<F>,
    endpoint: &Endpoint,
) -> Result<u64, Refusal> {
    if parsed.l4.kind == Kind::Link {
        return Refusal::or(F::answer_link(packet, env, parsed, endpoint));
    }
    // What has crossed over was looked at before.
    let has_crossed = parsed.ethernet.ethertype != F::ETHERTYPE;
    if !has_crossed && !F::is_own(endpoint, parsed.ip.src) {
        return Err(DropReason::SpoofedAddress.into());
    }
    if F::has_options(&parsed.ip) {
        return Err(DropReason::IpOption.into());
    }
    // A rewrite carries damage along (RFC 1624), and a container that may leave checksums to the device
    // could have it repaired on the way out, in favour of an address of its choice.
    if !F::is_intact(packet, Ethernet::LEN) {
        return Err(DropReason::Malformed.into());
    }
    if parsed.ethernet.dst.is_group() {
        let network = env.network(endpoint.network).ok_or(DropReason::UnknownDevice)?;
        return broadcast(env, packet, parsed, endpoint, F::subnet_of(network), slot_of_device(endpoint.ifindex));
    }
    if parsed.l4.kind == Kind::Icmp {
        return Err(DropReason::IcmpError.into());
    }
    if !fragments::settle(env, packet, parsed, Scope::Container)? {
        // Its ports are not known; a neighbour is reached without.
        let carried = carry_direct(env, packet, parsed, Scope::Container, u32::from(endpoint.network));
        return match Refusal::or(carried) {
            // It is for somebody else; its first one tells.
            Err(Refusal::Drop(DropReason::NoEndpoint | DropReason::Isolated)) => {
                Refusal::or(fragments::hold(env, packet, parsed, Scope::Container))
            }
            // What does not fit now will not fit later.
            settled => settled,
        };
    }
    errors::find_key(env, packet, parsed, Scope::Container).ok_or(DropReason::IcmpError)?;
    let (parsed, key) = (&*parsed, &parsed.key);
    if key.src != parsed.ip.src {
        // An error about what others were sent, of which a container knows nothing.
        return Err(DropReason::IcmpError.into());
    }
    if !follow(env, parsed, key, endpoint.generation)? {
        if has_crossed {
            return Err(match parsed.l4.kind {
                Kind::Error => DropReason::IcmpError.into(),
                _ if opens(&parsed.l4) => DropReason::NoFlow.into(),
                _ => Refusal::Reset,
            });
        }
        open(env, packet, parsed, key, endpoint).map_err(Refusal::prompt)?;
    }
    carry(env, packet, parsed, key)
}

/// Makes the flow that a packet opens.
#[inline(always)]
fn open<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), Refusal> {
    match parsed.l4.kind {
        Kind::Error => Err(DropReason::IcmpError.into()),
        Kind::Fragment => Err(DropReason::Fragment.into()),
        _ => {
            let planned = env.forget(plan(env, parsed, key, endpoint));
            checked(planned)?;
            takes_the_way(env, packet, parsed)?;
            if planned == code::MAPPED {
                checked(mapping::adopt(env, key, slot_of_device(endpoint.ifindex), endpoint.generation))?;
            }
            checked(env.forget(make(env, parsed, key)))
        }
    }
}

/// A packet that cannot take the way of the flow it opens, as it is decided on in [`Env::scratch`], opens none.
#[inline(always)]
fn takes_the_way<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &P, parsed: &Parsed<F>) -> Result<(), Refusal> {
    let scratch = env.scratch().ok_or(DropReason::Internal)?;
    let receiver = match scratch.new.forward.slot() {
        0 => env.config().gateway_mac,
        slot => {
            let endpoint = env.endpoint(slot).ok_or(DropReason::NoEndpoint)?;
            fits_device(packet, parsed, Scope::Container as u16, endpoint)?;
            endpoint.mac
        }
    };
    is_addressed(env, parsed, Scope::Container as u16, receiver)?;
    if !scratch.new.forward.leaves() {
        return Ok(());
    }
    fits(packet, parsed, scratch.flow.mtu)?;
    survives_hop(parsed)
}

/// Decides on a flow that a container opens; it is left in [`Env::scratch`]. A code.
#[inline(never)]
fn plan<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>, endpoint: &Endpoint) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    let Some(network) = env.network(endpoint.network) else {
        return Refusal::Drop(DropReason::UnknownDevice).code();
    };
    if let Err(refusal) = choose(env, parsed, key, endpoint, network, &mut scratch) {
        return refusal.code();
    }
    let new = &mut scratch.new;
    if new.forward.slot() == slot_of_device(endpoint.ifindex) {
        // A container that reaches itself must not see its own address as the sender.
        new.src = F::subnet_of(network).gateway;
    }
    let is_mapped = new.forward.leaves() && mapping::has_mappings(key.proto) && is_cone::<F>(network);
    if is_mapped { code::MAPPED } else { code::GOOD }
}

#[inline(always)]
fn is_cone<F: Family>(network: &Network) -> bool {
    network.flags & NetworkFlags::FULL_CONE != 0 && F::subnet_of(network).mode == GatewayMode::Masquerade as u32
}

/// Port of a resolver.
const DNS: Be16 = Be16::new(53);

/// Whether a network's containers meet those of others.
#[inline(always)]
fn is_open(network: &Network) -> bool {
    network.flags & NetworkFlags::OPEN != 0
}

#[inline(always)]
fn choose<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    endpoint: &Endpoint,
    network: &Network,
    scratch: &mut Scratch<F>,
) -> Result<(), Refusal> {
    let Scratch { flow, mapping, new, query, route, .. } = scratch;
    let slot = slot_of_device(endpoint.ifindex);
    check_destination(key.dst)?;
    if follow::answers(&parsed.l4) {
        return Err(DropReason::NoFlow.into());
    }
    let back = Leg::endpoint(slot, endpoint);
    let subnet = F::subnet_of(network);

    let target = env.slot_of(key.dst);
    if target != 0 {
        let neighbour = env.endpoint(target).ok_or(DropReason::NoEndpoint)?;
        if neighbour.network != endpoint.network {
            let is_between_links = key.src.stays_on_link() || key.dst.stays_on_link();
            if is_between_links || !is_open(network) || !env.network(neighbour.network).is_some_and(is_open) {
                return Err(DropReason::Isolated.into());
            }
        }
        if neighbour.generation > endpoint.generation && !opens(&parsed.l4) {
            // Who has come after the sender may not be who the connection began with.
            return Err(Refusal::Reset);
        }
        new.set(key, Leg::endpoint(target, neighbour), back);
        if !F::is_own(neighbour, key.dst) {
            // By the address that it has outside: both are to see each other under those (RFC 6296 section 4.1).
            if subnet.mode == GatewayMode::Prefix as u32 {
                new.src.move_into(&subnet.mask, &subnet.external);
            }
            new.dst = F::address_of(neighbour);
        }
        return Ok(());
    }
    if key.src.stays_on_link() || key.dst.stays_on_link() {
        return Err(DropReason::Martian.into());
    }
    if key.dst == subnet.gateway {
        let asks = matches!(key.proto, protocol::UDP | protocol::TCP) && key.dport == DNS;
        if asks && env.config().dns_port != 0 {
            new.set(key, Leg::HOST, back);
            new.dport = Be16::new(env.config().dns_port);
            return Ok(());
        }
    }
    if network.flags & NetworkFlags::INTERNAL != 0 {
        if key.dst != subnet.gateway || parsed.l4.kind != Kind::EchoRequest {
            return Err(Refusal::Icmp(IcmpError::Prohibited(DropReason::Isolated)));
        }
        new.set(key, Leg::HOST, back);
        return Ok(());
    }
    if env.is_local(key.dst) {
        let rule = Transport::from_protocol(key.proto)
            .and_then(|transport| publish::find(env, key.dst, transport, key.dport.get()));
        let Some(rule) = rule else {
            if opens(&parsed.l4) && mapping::find(env, key, mapping, new).is_some() {
                new.back = back;
                return Ok(());
            }
            new.set(key, Leg::HOST, back);
            new.owner = follow::epoch(env, generation::PUBLISH_EPOCH);
            return Ok(());
        };
        if !opens(&parsed.l4) {
            return Err(Refusal::Reset);
        }
        if !rule.is_for(env, key.src, 0) {
            return Err(Refusal::Icmp(IcmpError::Prohibited(DropReason::NotAllowed)));
        }
        new.set(key, Leg::endpoint(rule.slot, rule.endpoint), back);
        new.publish(&rule, env.config());
        return Ok(());
    }
    if is_for_many::<F>(key.dst, subnet) {
        return Err(DropReason::Multicast.into());
    }
    if subnet.contains(key.dst) {
        return Err(Refusal::Icmp(IcmpError::HostUnreachable));
    }
    let is_masqueraded = subnet.mode == GatewayMode::Masquerade as u32;
    if is_masqueraded && matches!(key.proto, protocol::DCCP | protocol::UDP_LITE) {
        // Their checksums cover the addresses.
        return Err(DropReason::UnsupportedProtocol.into());
    }
    query.src = if is_masqueraded { F::Addr::default() } else { key.src };
    query.dst = key.dst;
    (query.proto, query.tos) = (key.proto, parsed.ip.tos);
    let uplink = way_out(env, &mut Way { query, route }, flow)?;
    new.set(key, Leg::world(flow.uplink), back);
    Ok(leave(env, subnet, uplink, &mut new.src)?)
}

/// The slot of the endpoint behind a host-side device.
#[inline(always)]
const fn slot_of_device(ifindex: u32) -> u32 {
    ifindex & (ENDPOINT_SLOTS - 1)
}
