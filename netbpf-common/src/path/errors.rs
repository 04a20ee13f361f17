//! ICMP errors: about a packet of a flow, which they quote. Outer and inner packet are translated as the flow says, so
//! that who sent the packet knows it again (RFC 5508 section 4).

use super::apply::{deltas, write_ports};
use super::decide::{code_of, decide};
use super::parse::quoted_transport;
use super::refusal::Refusal;
use super::uplink::is_nat_port;
use super::{Env, Family, HostSocket, Ip, Packet, Parsed, Part, Rewrite, Translation};
use crate::abi::{DropReason, Event, FlowKey, Scope, Transport};
use crate::wire::checksum::{Delta, Sum};
use crate::wire::{Address, Be16, Checksum, Ethernet, Icmp, Kind, L4, Mac, Ports, Tcp};

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote<F: Family> {
    ip: Ip<F::Addr>,
    l4: L4,
}

impl<F: Family> Default for Quote<F> {
    fn default() -> Self {
        Self { ip: Ip::default(), l4: L4::new(Kind::Other, Ports::default()) }
    }
}

impl<F: Family> Quote<F> {
    /// Offset of the quoted packet's IP header.
    #[inline(always)]
    fn at(parsed: &Parsed<F>) -> u32 {
        parsed.l4_at() + Icmp::LEN
    }

    #[inline(always)]
    fn read<P: Packet>(&mut self, packet: &mut P, parsed: &Parsed<F>) -> Option<()> {
        let at = packet.reach(Self::at(parsed), F::HEADER_LEN + Tcp::LEN);
        F::read(packet, at, &mut self.ip).ok()?;
        let ip = &self.ip;
        // What lies behind the error is padding. RFC 792 asks for eight bytes behind the header. Ports are in the first
        // fragment alone. Who has sent the packet is told, and nobody else.
        if ip.part == Part::Later
            || ip.src != parsed.ip.dst
            || F::has_options(ip)
            || ip.payload_at(at) + Icmp::LEN > Ethernet::LEN + parsed.ip.total_len
        {
            return None;
        }
        self.l4 = quoted_transport::<F, P>(packet, ip.proto, ip.payload_at(at))?;
        Some(())
    }

    /// The key of answers to it: of the flow's packets that take the error's way.
    #[inline(always)]
    fn answer(&self, scope: Scope) -> FlowKey<F::Addr> {
        let Ports { sport, dport } = self.l4.ports;
        FlowKey::new(scope, self.ip.proto, self.ip.dst, dport, self.ip.src, sport)
    }
}

/// Finds the key of the flow that a packet belongs to, or that the error is about; what that quotes is left in
/// [`Env::scratch`]. Nothing if an error quotes what can be of no flow.
#[inline(always)]
pub(super) fn find_key<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &mut Parsed<F>,
    scope: Scope,
) -> Option<()> {
    if parsed.l4.kind != Kind::Error {
        parsed.key = parsed.own_key(scope);
        return Some(());
    }
    if !read(env, packet, parsed) {
        return None;
    }
    parsed.key = env.scratch()?.quote.answer(scope);
    Some(())
}

#[inline(never)]
fn read<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &mut P, parsed: &Parsed<F>) -> bool {
    env.scratch().is_some_and(|mut scratch| scratch.quote.read(packet, parsed).is_some())
}

/// Sends an error the way of the flow in [`Env::scratch`]; `key` is that of answers to what it quotes. A code.
#[inline(always)]
pub(super) fn carry<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
) -> u64 {
    let planned = env.forget(plan(env, packet, parsed, key));
    match Refusal::or(planned) {
        Ok(_) if translate(env, packet, parsed) => planned,
        Ok(_) => Refusal::Drop(DropReason::Internal).code(),
        Err(_) => planned,
    }
}

/// Decides on an error by the flow in [`Env::scratch`]; how it changes is left there. A code.
#[inline(never)]
fn plan<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &P, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> u64 {
    let Some(mut scratch) = env.scratch() else { return Refusal::Drop(DropReason::Internal).code() };
    match decide(env, packet, parsed, key, &scratch.flow) {
        Ok(decision) => {
            scratch.rewrite = decision.rewrite;
            code_of(decision.verdict)
        }
        Err(refusal) => refusal.code(),
    }
}

/// Changes an error as was decided on; whether that could be done.
#[inline(never)]
fn translate<F: Family, E: Env<F>, P: Packet>(env: &E, packet: &mut P, parsed: &Parsed<F>) -> bool {
    let Some(scratch) = env.scratch() else { return false };
    let applied = apply(packet, parsed, &scratch.quote, &scratch.rewrite, env.config().gateway_mac);
    if applied.is_some() {
        env.count(Event::ErrorTranslated);
    }
    applied.is_some()
}

/// Whether only a flow of ours can have sent what an error from outside is about: by a port that masquerading gives out or
/// that is published, which no socket of the host has.
#[inline(never)]
pub(super) fn is_ours<F: Family, E: Env<F>>(env: &E, answer: &FlowKey<F::Addr>) -> bool {
    let Some(transport) = Transport::from_protocol(answer.proto) else { return false };
    let port = answer.dport.get();
    let index = transport.port_index(port);
    let published = env.published(index);
    let is_port_of_ours = published.wildcard != 0 || published.specific != 0 || is_nat_port(env, index, port);
    is_port_of_ours && env.is_local(answer.dst) && env.host_socket(answer) == HostSocket::None
}

/// Changes the error. What a router on the way has sent keeps its sender.
#[inline(always)]
fn apply<F: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<F>,
    quote: &Quote<F>,
    rewrite: &Rewrite<F>,
    gateway: Mac,
) -> Option<()> {
    let Some(t) = &rewrite.translation else { return super::apply(packet, parsed, rewrite, gateway) };
    if let Some(dst) = rewrite.ethernet {
        packet.write(0, Ethernet { dst, src: gateway, ethertype: F::ETHERTYPE })?;
    }
    let src = if parsed.ip.src == quote.ip.dst { t.src } else { parsed.ip.src };
    let sum = |a: F::Addr, b: F::Addr| a.sum().add(b.sum());
    let outer = sum(src, t.dst).delta_from(sum(parsed.ip.src, parsed.ip.dst));
    F::rewrite(packet, Ethernet::LEN, src, t.dst, outer, rewrite.hop)?;

    let end = Ethernet::LEN + parsed.ip.total_len;
    let at = Quote::at(parsed);
    let inside = quoted(packet, quote, t, at, end)?;
    let checksum = Checksum { at: Icmp::CHECKSUM_AT, pseudo_header: F::ICMP_HAS_PSEUDO_HEADER, optional: false };
    packet.update_checksum::<F>(parsed.l4_at(), checksum, outer, inside)
}

/// Gives the quoted packet at `at` the addresses and ports that it was sent with; what that does to the sum of the error, which
/// ends at `end`. Its own checksums follow: that of the IP header makes up for the addresses.
#[inline(always)]
fn quoted<F: Family, P: Packet>(
    packet: &mut P,
    quote: &Quote<F>,
    t: &Translation<F::Addr>,
    at: u32,
    end: u32,
) -> Option<Delta> {
    let Ports { sport, dport } = quote.l4.ports;
    // It went the other way: what answers leave with as their source it has as its destination.
    let sent = FlowKey::new(Scope::Uplink, quote.ip.proto, t.dst, t.dport, t.src, t.sport);
    let seen = FlowKey::new(Scope::Uplink, quote.ip.proto, quote.ip.src, sport, quote.ip.dst, dport);
    let (addresses, ports) = deltas(&seen, &sent);
    F::rewrite(packet, at, sent.src, sent.dst, addresses, false)?;
    let l4 = quote.ip.payload_at(at);
    write_ports(packet, l4, quote.l4.kind, Ports { sport: sent.sport, dport: sent.dport })?;

    let header = if F::HEADER_HAS_CHECKSUM { Delta::NONE } else { addresses };
    let change = header.and(ports);
    let Some(checksum) = quote.l4.checksum(F::ICMP_HAS_PSEUDO_HEADER) else { return Some(change) };
    // Of TCP the checksum may be cut off (RFC 792: eight bytes are quoted); behind the error lies padding.
    if l4 + checksum.at + size_of::<Be16>() as u32 > end {
        return Some(change);
    }
    let old: Be16 = packet.read(l4 + checksum.at)?;
    if checksum.optional && old == Be16::ZERO {
        return Some(change);
    }
    let delta = if checksum.pseudo_header { addresses.and(ports) } else { ports };
    let mut new = delta.apply(old);
    if checksum.optional && new == Be16::ZERO {
        new = Be16::from_raw(0xffff);
    }
    packet.write(l4 + checksum.at, new)?;
    Some(change.and(Sum::ZERO.add16(new).delta_from(Sum::ZERO.add16(old))))
}
