//! Who has an address: ARP, answered in the datapath.

use super::refusal::{Refusal, code};
use super::{Env, Packet, V4};
use crate::abi::{DropReason, Endpoint, Event};
use crate::wire::{Arp, Ethernet, Mac, V4Addr};

/// Answers a container's ARP request for the gateway or for a neighbour. A probe or announcement
/// of its own address (RFC 5227) is left unanswered; so is a question about an address nobody has.
///
/// A [`code`].
#[inline(never)]
pub(super) fn answer<E: Env<V4>, P: Packet>(packet: &mut P, env: &E, ethernet: &Ethernet, endpoint: &Endpoint) -> u64 {
    match reply(packet, env, ethernet, endpoint) {
        Ok(()) => code::PEER | u64::from(endpoint.ifindex),
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn reply<E: Env<V4>, P: Packet>(
    packet: &mut P,
    env: &E,
    ethernet: &Ethernet,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let arp: Arp = packet.read(Ethernet::LEN).ok_or(DropReason::Malformed)?;
    let probes = arp.sender() == V4Addr::default();
    if !arp.is_ipv4()
        || !arp.is_request()
        || arp.sender_mac() != endpoint.mac
        || !(probes || arp.sender() == endpoint.v4)
    {
        return Err(DropReason::SpoofedNeighbour);
    }
    let mac = mac_of(env, endpoint, arp.target()).ok_or(DropReason::NoEndpoint)?;
    let reply = Ethernet { dst: ethernet.src, src: mac, ethertype: Ethernet::ARP };
    packet.write(Ethernet::LEN, arp.answer(mac)).ok_or(DropReason::Internal)?;
    packet.write(0, reply).ok_or(DropReason::Internal)?;
    env.count(Event::ArpAnswered);
    Ok(())
}

#[inline(always)]
fn mac_of<E: Env<V4>>(env: &E, asker: &Endpoint, target: V4Addr) -> Option<Mac> {
    if target == asker.v4 {
        return None;
    }
    if env.network(asker.network)?.v4.gateway == target {
        return Some(env.config().gateway_mac);
    }
    let slot = env.slot_of(target);
    let neighbour = env.endpoint(slot)?;
    (slot != 0 && neighbour.network == asker.network && neighbour.v4 == target).then_some(neighbour.mac)
}
