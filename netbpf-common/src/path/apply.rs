//! The one place where a packet changes.

use super::{Family, Headers, Parsed};
use crate::abi::{Flow, FlowKey};
use crate::wire::checksum::{Delta, Sum};
use crate::wire::{Address, Be16, Ethernet, Icmp, Kind, Mac, Ports};

/// New addresses and ports of a packet, and what that does to its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// Change of the addresses.
    pub addresses: Delta,
    /// Change of the ports.
    pub ports: Delta,
}

impl<A: Address> Translation<A> {
    /// Of packets of a flow: they leave with the tuple of the other entry, turned round.
    #[inline(always)]
    pub fn of(flow: &Flow<A>) -> Self {
        Self {
            src: flow.other.dst,
            dst: flow.other.src,
            sport: flow.other.dport,
            dport: flow.other.sport,
            addresses: flow.address_delta,
            ports: flow.port_delta,
        }
    }
}

/// What turns packets with the tuple of `from` into packets with the tuple of `to`: the changes of
/// addresses and of ports.
#[inline(always)]
pub(super) fn deltas<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> (Delta, Delta) {
    let addresses = |key: &FlowKey<A>| key.src.sum().add(key.dst.sum());
    let ports = |key: &FlowKey<A>| Sum::ZERO.add16(key.sport).add16(key.dport);
    (addresses(to).delta_from(addresses(from)), ports(to).delta_from(ports(from)))
}

/// How a packet changes.
#[derive(Debug)]
pub struct Rewrite<F: Family> {
    /// New Ethernet destination; the source becomes the gateway's.
    pub ethernet: Option<Mac>,
    /// New addresses and ports.
    pub translation: Option<Translation<F::Addr>>,
    /// Whether the packet is routed here: one hop less to live.
    pub hop: bool,
    /// What a SYN announces as its maximum segment size is held down to this; 0 leaves it.
    pub mss: u16,
}

impl<F: Family> Rewrite<F> {
    /// The packet stays as it is.
    pub const NONE: Self = Self { ethernet: None, translation: None, hop: false, mss: 0 };
}

impl<F: Family> Clone for Rewrite<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Rewrite<F> {}

/// Changes the packet. Headers are written directly; checksums come last, since in the kernel each
/// update invalidates what is known of the packet.
#[inline(always)]
pub fn apply<F: Family, P: Headers>(
    packet: &mut P,
    parsed: &Parsed<F>,
    rewrite: &Rewrite<F>,
    gateway: Mac,
) -> Option<()> {
    if let Some(dst) = rewrite.ethernet {
        packet.write(0, Ethernet { dst, src: gateway, ethertype: F::ETHERTYPE })?;
    }
    let l4 = parsed.l4_at();
    let mut changed = (Delta::NONE, Delta::NONE);
    match &rewrite.translation {
        Some(t) => {
            F::rewrite(packet, Ethernet::LEN, t.src, t.dst, t.addresses, rewrite.hop)?;
            write_ports(packet, l4, parsed.l4.kind, Ports { sport: t.sport, dport: t.dport })?;
            changed = (t.addresses, t.ports);
        }
        None if rewrite.hop => {
            F::rewrite(packet, Ethernet::LEN, parsed.ip.src, parsed.ip.dst, Delta::NONE, true)?;
        }
        None => {}
    }
    if rewrite.mss != 0 {
        changed.1 = changed.1.and(clamp(packet, parsed, rewrite.mss)?);
    }
    match parsed.checksum() {
        Some(checksum) if changed != (Delta::NONE, Delta::NONE) => {
            packet.update_checksum::<F>(l4, checksum, changed.0, changed.1)
        }
        _ => Some(()),
    }
}

/// Writes ports, or the identifier of an echo.
#[inline(always)]
pub(super) fn write_ports<P: Headers>(packet: &mut P, l4: u32, kind: Kind, ports: Ports) -> Option<()> {
    match kind {
        Kind::Tcp | Kind::Udp => packet.write(l4, ports),
        Kind::EchoRequest | Kind::EchoReply => {
            packet.write(l4 + Icmp::ID_AT, Be16::from_raw(ports.sport.raw() | ports.dport.raw()))
        }
        Kind::Sctp | Kind::Error | Kind::Icmp | Kind::Link | Kind::Fragment | Kind::Other => Some(()),
    }
}

/// Holds the maximum segment size of a SYN down (RFC 9293 section 3.7.1); what that does to the checksum.
#[inline(always)]
fn clamp<F: Family, P: Headers>(packet: &mut P, parsed: &Parsed<F>, mss: u16) -> Option<Delta> {
    let offset = u32::from(parsed.l4.mss_at);
    if offset == 0 {
        return Some(Delta::NONE);
    }
    let at = parsed.l4_at() + offset;
    let announced: Be16 = packet.read(at)?;
    if announced.get() <= mss {
        return Some(Delta::NONE);
    }
    let clamped = Be16::new(mss);
    packet.write(at, clamped)?;
    // At an odd offset its bytes lie in two words of the sum, each in the other half (RFC 1071 section 2 B).
    let word = |value: Be16| if offset % 2 == 0 { value } else { Be16::from_raw(value.raw().swap_bytes()) };
    Some(Sum::ZERO.add16(word(clamped)).delta_from(Sum::ZERO.add16(word(announced))))
}
