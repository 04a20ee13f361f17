//! Stateless translation between the families (RFC 7915): how an IPv6 client reaches a published port of a container with
//! IPv4 alone.
//!
//! Flows of such clients are IPv6 flows like others, in which the container has the IPv6 address that stands for its own
//! (RFC 6052), and the client that of the translator: a virtual address of the host, with a port of its own. A packet
//! gets the header of the other family as the last thing on its way into the container, and as the first on its way out.
//! The prefix is such that no checksum of a transport changes by that.

use super::decide::code_into;
use super::family::IcmpError;
use super::refusal::{Refusal, code};
use super::refuse::{Teller, finish_error, refuse};
use super::{Env, Family, Ip, Packet, Parsed, Part, V4, V6, parse};
use crate::abi::{DropReason, Endpoint};
use crate::wire::checksum::Sum;
use crate::wire::{Be16, Be32, Ethernet, Extension, Icmp, IcmpV4, IcmpV6, Ipv4, Ipv6, Kind, Udp, V4Addr, V6Addr};

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
pub(super) fn pass_on<P: Packet>(packet: &mut P) -> u64 {
    packet.mark_crossed(false);
    code::HAND_OVER
}

/// Gives a container's answer an IPv6 header, and hands it over. A [`code`].
#[inline(never)]
pub(super) fn widen<P: Packet, E: Env<V4>>(packet: &mut P, env: &E, ethernet: Ethernet, endpoint: &Endpoint) -> u64 {
    match widened(packet, env, ethernet, endpoint) {
        Ok(()) => {
            packet.mark_crossed(true);
            code::HAND_OVER
        }
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
    parse::<V4, _, _>(packet, env, ethernet, &mut parsed)?;
    let ip = &parsed.ip;
    if !V4::is_own(endpoint, ip.src) {
        return Err(DropReason::SpoofedAddress);
    }
    if V4::has_options(ip) {
        return Err(DropReason::IpOption);
    }
    if !V4::is_intact(packet, Ethernet::LEN) {
        return Err(DropReason::Malformed);
    }
    if ip.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    fits_header(ip)?;
    if parsed.l4.kind == Kind::Error {
        let at = parsed.l4_at();
        let made = widen_error(packet, at).ok_or(DropReason::IcmpError)?;
        return made.write(packet, ethernet).ok_or(DropReason::Internal);
    }
    let is_summed = match parsed.l4.kind {
        Kind::Tcp => true,
        // IPv6 wants a checksum, and nobody adds up the whole packet here.
        Kind::Udp => {
            let at = packet.reach(parsed.l4_at(), Udp::LEN);
            parsed.checksum().and_then(|sum| packet.read::<Be16>(at + sum.at)) != Some(Be16::ZERO)
        }
        _ => false,
    };
    if !is_summed {
        return Err(DropReason::UnsupportedProtocol);
    }
    let mut header = V6::header(ip.proto, ip.payload_len() as u16, V6Addr::of_v4(ip.src), V6Addr::of_v4(ip.dst));
    header.hop_limit = ip.ttl;
    header.first = Be32::new(header.first.get() | u32::from(ip.tos) << 20);
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

/// Whether a client's packet can get an IPv4 header.
#[inline(always)]
pub(super) fn may_narrow(parsed: &Parsed<V6>) -> Result<(), DropReason> {
    // Of the fragments of a packet the numbers would not fit.
    if parsed.ip.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    if parsed.ip.header_len != V6::HEADER_LEN {
        return Err(DropReason::ExtensionHeaders);
    }
    fits_header(&parsed.ip)
}

/// Whether a header of either family can say how long a packet is. The two say it in different ways of one that is longer.
#[inline(always)]
fn fits_header<A>(ip: &Ip<A>) -> Result<(), DropReason> {
    if ip.total_len > u32::from(u16::MAX) { Err(DropReason::UnsupportedProtocol) } else { Ok(()) }
}

#[inline(always)]
fn narrowed<P: Packet>(packet: &mut P, parsed: &Parsed<V6>) -> Result<(), DropReason> {
    if parsed.l4.kind == Kind::Error {
        let ethernet: Ethernet = packet.read(0).ok_or(DropReason::Internal)?;
        let made = narrow_error(packet, parsed.l4_at()).ok_or(DropReason::IcmpError)?;
        return made.write(packet, ethernet).ok_or(DropReason::Internal);
    }
    may_narrow(parsed)?;
    let ethernet: Ethernet = packet.read(0).ok_or(DropReason::Internal)?;
    let header: Ipv6 = packet.read(Ethernet::LEN).ok_or(DropReason::Internal)?;
    let ends = header.src.as_v4().zip(header.dst.as_v4());
    let (src, dst) = ends.ok_or(DropReason::Internal)?;
    let narrow = V4::header(parsed.ip.proto, parsed.ip.payload_len() as u16, src, dst);
    let narrow = narrow.with(header.traffic_class(), header.hop_limit);
    packet.change_header::<V4>(&narrow).ok_or(DropReason::UnsupportedProtocol)?;
    packet.write(0, Ethernet { ethertype: V4::ETHERTYPE, ..ethernet }).ok_or(DropReason::Internal)
}

/// An ICMP error in a family, and the packet that it quotes: as much of that as RFC 792 asks for.
struct Quoting<F: Family> {
    src: F::Addr,
    dst: F::Addr,
    icmp: Icmp,
    about: F::Header,
    transport: [Be32; 2],
}

impl<F: Family> Quoting<F> {
    /// Becomes the packet.
    #[inline(always)]
    fn write<P: Packet>(&self, packet: &mut P, ethernet: Ethernet) -> Option<()> {
        let quoted = F::HEADER_LEN + size_of_val(&self.transport) as u32;
        let at = Ethernet::LEN + F::HEADER_LEN + Icmp::LEN;
        packet.change_header::<F>(&F::header(F::ICMP, (Icmp::LEN + quoted) as u16, self.src, self.dst))?;
        packet.resize(at + quoted)?;
        packet.write(at, self.about)?;
        packet.write(at + F::HEADER_LEN, self.transport)?;
        finish_error::<F, _>(packet, self.icmp, quoted, self.sum(), self.src, self.dst)?;
        packet.write(0, Ethernet { ethertype: F::ETHERTYPE, ..ethernet })
    }

    /// What the quoted packet sums up to.
    #[inline(always)]
    fn sum(&self) -> Sum {
        let [first, second] = self.transport;
        let words = bytemuck::bytes_of(&self.about).chunks_exact(size_of::<u16>());
        words.fold(Sum::ZERO.add32(first).add32(second), |sum, word| {
            sum.add16(Be16::from_raw(u16::from_ne_bytes([word[0], word[1]])))
        })
    }
}

/// The ICMP error at `at` in IPv4 (RFC 7915 section 5.2). A router outside has no IPv4 address: it is the translator that
/// speaks (RFC 6791).
#[inline(always)]
fn narrow_error<P: Packet>(packet: &P, at: u32) -> Option<Quoting<V4>> {
    let outer: Ipv6 = packet.read(Ethernet::LEN)?;
    let icmp: Icmp = packet.read(at)?;
    let about: Ipv6 = packet.read(at + Icmp::LEN)?;
    let transport = packet.read(at + Icmp::LEN + Ipv6::LEN)?;
    if Extension::is(about.next_header) {
        return None;
    }
    let (kind, code, value) = match (icmp.kind, icmp.code) {
        (IcmpV6::UNREACHABLE, IcmpV6::PORT_UNREACHABLE) => (IcmpV4::UNREACHABLE, IcmpV4::PORT_UNREACHABLE, 0),
        (IcmpV6::PARAMETER_PROBLEM, IcmpV6::UNKNOWN_NEXT_HEADER) => {
            (IcmpV4::UNREACHABLE, IcmpV4::PROTOCOL_UNREACHABLE, 0)
        }
        (IcmpV6::UNREACHABLE, IcmpV6::PROHIBITED) => (IcmpV4::UNREACHABLE, IcmpV4::HOST_PROHIBITED, 0),
        (IcmpV6::UNREACHABLE, _) => (IcmpV4::UNREACHABLE, IcmpV4::HOST_UNREACHABLE, 0),
        (IcmpV6::TOO_BIG, _) => {
            // All clients share one address towards the container: none may press the others below what IPv6 can rely on.
            let mtu = if icmp.id == Be16::ZERO { icmp.sequence.get() } else { u16::MAX };
            let mtu = mtu.max(Ipv6::LEAST_MTU) - LONGER;
            (IcmpV4::UNREACHABLE, IcmpV4::FRAGMENTATION_NEEDED, mtu)
        }
        (IcmpV6::TIME_EXCEEDED, code) => (IcmpV4::TIME_EXCEEDED, code, 0),
        _ => return None,
    };
    let (from, to) = (about.src.as_v4()?, about.dst.as_v4()?);
    Some(Quoting {
        src: outer.src.as_v4().unwrap_or(to),
        dst: outer.dst.as_v4()?,
        icmp: Icmp { kind, code, sequence: Be16::new(value), ..Icmp::default() },
        about: V4::header(about.next_header, about.payload_len.get(), from, to),
        transport,
    })
}

/// The ICMP error at `at` in IPv6 (RFC 7915 section 4.2).
#[inline(always)]
fn widen_error<P: Packet>(packet: &mut P, at: u32) -> Option<Quoting<V6>> {
    let at = packet.reach(at, Icmp::LEN + Ipv4::LEN + Icmp::LEN);
    let outer: Ipv4 = packet.read(Ethernet::LEN)?;
    let icmp: Icmp = packet.read(at)?;
    let about: Ipv4 = packet.read(at + Icmp::LEN)?;
    let transport = packet.read(at + Icmp::LEN + Ipv4::LEN)?;
    if about.header_len() != Ipv4::LEN || about.has_more() || about.offset() != 0 {
        return None;
    }
    let (kind, code, value) = match (icmp.kind, icmp.code) {
        (IcmpV4::UNREACHABLE, IcmpV4::PORT_UNREACHABLE) => (IcmpV6::UNREACHABLE, IcmpV6::PORT_UNREACHABLE, 0),
        (IcmpV4::UNREACHABLE, IcmpV4::PROTOCOL_UNREACHABLE) => {
            (IcmpV6::PARAMETER_PROBLEM, IcmpV6::UNKNOWN_NEXT_HEADER, Ipv6::NEXT_HEADER_AT)
        }
        (IcmpV4::UNREACHABLE, IcmpV4::FRAGMENTATION_NEEDED) => {
            (IcmpV6::TOO_BIG, 0, icmp.sequence.get().saturating_add(LONGER))
        }
        (IcmpV4::UNREACHABLE, IcmpV4::NETWORK_PROHIBITED | IcmpV4::HOST_PROHIBITED | IcmpV4::PROHIBITED) => {
            (IcmpV6::UNREACHABLE, IcmpV6::PROHIBITED, 0)
        }
        (IcmpV4::UNREACHABLE, _) => (IcmpV6::UNREACHABLE, IcmpV6::NO_ROUTE, 0),
        (IcmpV4::TIME_EXCEEDED, code) => (IcmpV6::TIME_EXCEEDED, code, 0),
        _ => return None,
    };
    let payload_len = about.total_len.get().saturating_sub(Ipv4::LEN as u16);
    let (from, to) = (V6Addr::of_v4(about.src), V6Addr::of_v4(about.dst));
    Some(Quoting {
        src: V6Addr::of_v4(outer.src),
        dst: V6Addr::of_v4(outer.dst),
        icmp: Icmp { kind, code, sequence: Be16::new(value), ..Icmp::default() },
        about: V6::header(about.protocol, payload_len, from, to),
        transport,
    })
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
    // Another program may have read it into another room, while a new agent takes over.
    if !V4::is_own(endpoint, ip.src) || ip.dst != env.config().translator() {
        return Refusal::Drop(refusal.reason()).code();
    }
    let before = V4::header(ip.proto, ip.payload_len() as u16, ip.src, ip.dst).with(ip.tos, ip.ttl);
    if packet.change_header::<V4>(&before).is_none() {
        return Refusal::Drop(DropReason::Internal).code();
    }
    let gateway = env.network(endpoint.network).map(|network| network.v4.gateway).unwrap_or_default();
    let teller = Teller { gateway, to: endpoint.mac, from: env.config().gateway_mac, is_on_wire: false };
    refuse(env, packet, &parsed, refusal, &teller, code_into(endpoint))
}
