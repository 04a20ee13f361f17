//! Who has an address: ARP and neighbour discovery, answered in the datapath.

use super::decide::code_into;
use super::refusal::Refusal;
use super::{Env, Family, Packet, Parsed, V4, V6, World};
use crate::abi::{DropReason, Endpoint, Event};
use crate::wire::checksum::pseudo_header;
use crate::wire::{
    Address as _, Advertisement, Arp, Ethernet, Icmp, IcmpV6, Ipv6, Mac, Solicitation, V4Addr, V6Addr, protocol,
};

/// Answers a container's ARP request for the gateway or for a neighbour. A probe or announcement
/// of its own address (RFC 5227) is left unanswered; so is a question about an address nobody has.
///
/// A [`code`](super::refusal::code).
#[inline(never)]
pub(super) fn answer_request<E: Env<V4>, P: Packet>(
    packet: &mut P,
    env: &E,
    ethernet: &Ethernet,
    asker: &Endpoint,
) -> u64 {
    answered(env, asker, reply(packet, env, ethernet, asker))
}

#[inline(always)]
fn reply<E: Env<V4>, P: Packet>(
    packet: &mut P,
    env: &E,
    ethernet: &Ethernet,
    asker: &Endpoint,
) -> Result<(), DropReason> {
    let arp: Arp = packet.read(Ethernet::LEN).ok_or(DropReason::Malformed)?;
    let probes = arp.sender() == V4Addr::default();
    if !arp.is_ipv4()
        || !arp.is_request()
        || arp.sender_mac() != asker.mac
        || !(probes || V4::is_own(asker, arp.sender()))
    {
        return Err(DropReason::SpoofedNeighbour);
    }
    let mac = mac_of::<V4, E>(env, asker, arp.target()).ok_or(DropReason::NoEndpoint)?;
    let reply = Ethernet { dst: ethernet.src, src: mac, ethertype: Ethernet::ARP };
    packet.write(Ethernet::LEN, arp.answer(mac)).ok_or(DropReason::Internal)?;
    packet.write(0, reply).ok_or(DropReason::Internal)
}

/// Answers a container's neighbour solicitation for the gateway or for a neighbour. Duplicate address detection of its own
/// address (RFC 4862 section 5.4) is left unanswered; so is a question about an address nobody has. Nothing else that
/// is meant for a link goes anywhere: what a container advertises is believed by nobody.
///
/// A [`code`](super::refusal::code).
#[inline(never)]
pub(super) fn answer_solicitation<E: Env<V6>, P: Packet>(
    packet: &mut P,
    env: &E,
    parsed: &Parsed<V6>,
    asker: &Endpoint,
) -> u64 {
    answered(env, asker, advertise(packet, env, parsed, asker))
}

#[inline(always)]
fn advertise<E: Env<V6>, P: Packet>(
    packet: &mut P,
    env: &E,
    parsed: &Parsed<V6>,
    asker: &Endpoint,
) -> Result<(), DropReason> {
    let (ip, at) = (&parsed.ip, parsed.l4_at());
    let Icmp { kind, .. } = packet.read(at).ok_or(DropReason::Malformed)?;
    if kind != IcmpV6::NEIGHBOUR_SOLICITATION {
        let asks = matches!(kind, IcmpV6::ROUTER_SOLICITATION | IcmpV6::LISTENER_DONE | IcmpV6::LISTENER_REPORT);
        let reports = matches!(kind, IcmpV6::LISTENER_QUERY..=IcmpV6::LISTENER_DONE);
        return Err(if asks || reports { DropReason::Multicast } else { DropReason::SpoofedNeighbour });
    }
    let at = packet.reach(at, Solicitation::LEN);
    let message: Solicitation = packet.read(at).ok_or(DropReason::Malformed)?;
    let probes = ip.src == V6Addr::default();
    if !probes && !V6::is_own(asker, ip.src) || asker.v6 == V6Addr::default() {
        return Err(DropReason::SpoofedNeighbour);
    }
    let target = message.target;
    if ip.ttl != Solicitation::HOP_LIMIT
        || message.code != 0
        || ip.payload_len() < Solicitation::LEN
        || target.is_group()
        || probes && !ip.dst.is_group()
    {
        return Err(DropReason::Malformed);
    }
    let mac = mac_of::<V6, E>(env, asker, target).ok_or(DropReason::NoEndpoint)?;
    // Who probes has no address to answer to: all nodes (RFC 4861 section 7.2.4).
    let dst = if probes { V6Addr::ALL_NODES } else { ip.src };
    let length = Advertisement::LEN as u16;
    let pseudo = pseudo_header(protocol::ICMPV6, length).add(target.sum()).add(dst.sum());
    let is_router = mac == env.config().gateway_mac;
    let answer = Advertisement::new(target, mac, is_router, !probes).with_checksum(pseudo);
    let header = Ipv6 { hop_limit: Solicitation::HOP_LIMIT, ..Ipv6::new(protocol::ICMPV6, length, target, dst) };
    let ethernet = Ethernet { dst: parsed.ethernet.src, src: mac, ethertype: Ethernet::IPV6 };
    packet
        .resize(Ethernet::LEN + Ipv6::LEN + Advertisement::LEN)
        .and_then(|()| packet.write(Ethernet::LEN, header))
        .and_then(|()| packet.write(Ethernet::LEN + Ipv6::LEN, answer))
        .and_then(|()| packet.write(0, ethernet))
        .ok_or(DropReason::Internal)
}

/// What a function with a stack frame of its own tells of an answer that goes back to who asked.
#[inline(always)]
fn answered<E: World>(env: &E, asker: &Endpoint, answer: Result<(), DropReason>) -> u64 {
    match answer {
        Ok(()) => {
            env.count(Event::NeighbourAnswered);
            code_into(asker)
        }
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn mac_of<F: Family, E: Env<F>>(env: &E, asker: &Endpoint, target: F::Addr) -> Option<Mac> {
    if F::is_own(asker, target) {
        return None;
    }
    if F::subnet_of(env.network(asker.network)?).gateway == target {
        return Some(env.config().gateway_mac);
    }
    let slot = env.slot_of(target);
    let neighbour = env.endpoint(slot)?;
    (slot != 0 && neighbour.network == asker.network && F::is_own(neighbour, target)).then_some(neighbour.mac)
}
