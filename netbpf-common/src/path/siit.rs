//! Stateless translation between the families (RFC 7915): how an IPv6 client reaches a published port of a container with
//! IPv4 alone.
//!
//! Flows of such clients are IPv6 flows like others, in which the container has the IPv6 address that stands for its own
//! (RFC 6052), and the client that of the translator: a virtual address of the host, with a port of its own. A packet
//! gets the header of the other family as the last thing on its way into the container, and as the first on its way out.
//! The prefix is such that no checksum of a transport changes by that.

use super::family::IcmpError;
use super::refusal::{Refusal, code};
use super::refuse::{Teller, refuse};
use super::{Env, Family, Packet, Parsed, Part, V4, V6, parse};
use crate::abi::{DropReason, Endpoint};
use crate::wire::{Be16, Be32, Ethernet, Ipv4, Ipv6, Kind, V4Addr, V6Addr};

/// By how much packets are longer in IPv6.
const LONGER: u16 = (Ipv6::LEN - Ipv4::LEN) as u16;

/// Whether an IPv4 frame is an answer to an IPv6 client.
#[inline(always)]
pub(super) fn is_for_translator<P: Packet, E: Env<V4>>(packet: &P, env: &E) -> bool {
    const DESTINATION: u32 = Ethernet::LEN + core::mem::offset_of!(Ipv4, dst) as u32;
    packet.read::<V4Addr>(DESTINATION) == Some(env.config().translator())
}

/// Hands an IPv6 packet over as it came. A [`code`].
#[inline(always)]
pub(super) fn pass_on<E: Env<V4>>(env: &E) -> u64 {
    let Some(mut parsed) = env.parsed() else { return Refusal::Drop(DropReason::Internal).code() };
    parsed.crosses = false;
    code::HAND_OVER
}

/// Whether the packet that was handed over is a container's answer in IPv4.
#[inline(always)]
pub(super) fn has_crossed<E: Env<V4>>(env: &E) -> bool {
    env.parsed().is_some_and(|parsed| parsed.crosses)
}

/// Gives a container's answer an IPv6 header, and hands it over. A [`code`].
#[inline(never)]
pub(super) fn widen<P: Packet, E: Env<V4>>(packet: &mut P, env: &E, ethernet: Ethernet, endpoint: &Endpoint) -> u64 {
    match widened(packet, env, ethernet, endpoint) {
        Ok(()) => code::HAND_OVER,
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn widened<P: Packet, E: Env<V4>>(
    packet: &mut P,
    env: &E,
    ethernet: Ethernet,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let mut parsed = env.parsed().ok_or(DropReason::Internal)?;
    parse::<V4, P>(packet, ethernet, &mut parsed)?;
    let ip = &parsed.ip;
    if !V4::is_own(endpoint, ip.src) {
        return Err(DropReason::SpoofedAddress);
    }
    if V4::has_options(ip) {
        return Err(DropReason::IpOption);
    }
    if !ip.is_intact {
        return Err(DropReason::Malformed);
    }
    if ip.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    let is_summed = match parsed.l4.kind {
        Kind::Tcp => true,
        // IPv6 wants a checksum, and nobody adds up the whole packet here.
        Kind::Udp => parsed.checksum().and_then(|sum| packet.read::<Be16>(parsed.l4_at() + sum.at)) != Some(Be16::ZERO),
        _ => false,
    };
    if !is_summed {
        return Err(DropReason::UnsupportedProtocol);
    }
    let mut header = V6::header(ip.proto, ip.payload_len() as u16, V6Addr::of_v4(ip.src), V6Addr::of_v4(ip.dst));
    header.hop_limit = ip.ttl;
    header.first = Be32::new(header.first.get() | u32::from(ip.tos) << 20);
    parsed.crosses = true;
    packet.change_header::<V6>(&header).ok_or(DropReason::UnsupportedProtocol)?;
    packet.write(0, Ethernet { ethertype: V6::ETHERTYPE, ..ethernet }).ok_or(DropReason::Internal)
}

/// Gives a client's packet, whose addresses stand for IPv4 addresses now, an IPv4 header. A [`code`].
#[inline(never)]
pub(super) fn narrow<P: Packet>(packet: &mut P, parsed: &Parsed<V6>) -> u64 {
    match narrowed(packet, parsed) {
        Ok(()) => code::GOOD,
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn narrowed<P: Packet>(packet: &mut P, parsed: &Parsed<V6>) -> Result<(), DropReason> {
    if parsed.l4.kind == Kind::Error {
        return Err(DropReason::IcmpError);
    }
    // Of the fragments of a packet the numbers would not fit.
    if parsed.ip.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    if parsed.ip.header_len != V6::HEADER_LEN {
        return Err(DropReason::ExtensionHeaders);
    }
    let ethernet: Ethernet = packet.read(0).ok_or(DropReason::Internal)?;
    let header: Ipv6 = packet.read(Ethernet::LEN).ok_or(DropReason::Internal)?;
    let ends = header.src.as_v4().zip(header.dst.as_v4());
    let (src, dst) = ends.ok_or(DropReason::Internal)?;
    let narrow = V4::header(parsed.ip.proto, parsed.ip.payload_len() as u16, src, dst);
    let narrow = narrow.with(header.traffic_class(), header.hop_limit);
    packet.change_header::<V4>(&narrow).ok_or(DropReason::UnsupportedProtocol)?;
    packet.write(0, Ethernet { ethertype: V4::ETHERTYPE, ..ethernet }).ok_or(DropReason::Internal)
}

/// Tells a container in IPv4 why its answer does not go on, if a [`code`] says so; what was read of that before it was
/// widened is still there. A [`code`].
#[inline(never)]
pub(super) fn tell<P: Packet, E: Env<V4>>(packet: &mut P, env: &E, code: u64, endpoint: &Endpoint) -> u64 {
    let refusal = match Refusal::or(code) {
        Ok(_) | Err(Refusal::Drop(_)) => return code,
        Err(refusal) => refusal,
    };
    let Some(parsed) = env.parsed() else { return Refusal::Drop(DropReason::Internal).code() };
    let refusal = match refusal {
        Refusal::Icmp(IcmpError::TooBig(mtu)) => Refusal::Icmp(IcmpError::TooBig(mtu.saturating_sub(LONGER))),
        other => other,
    };
    let ip = &parsed.ip;
    let before = V4::header(ip.proto, ip.payload_len() as u16, ip.src, ip.dst).with(ip.tos, ip.ttl);
    if packet.change_header::<V4>(&before).is_none() {
        return Refusal::Drop(DropReason::Internal).code();
    }
    let gateway = env.network(endpoint.network).map(|network| network.v4.gateway).unwrap_or_default();
    let teller = Teller { gateway, to: endpoint.mac, from: env.config().gateway_mac };
    refuse(env, packet, &parsed, refusal, &teller, code::PEER | u64::from(endpoint.ifindex))
}
