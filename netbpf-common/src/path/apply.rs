//! The one place where a packet changes.

use super::{Family, Packet, Parsed};
use crate::abi::{Flow, FlowKey};
use crate::wire::checksum::{Delta, Sum};
use crate::wire::{Address, Be16, Ethernet, Kind, Mac, Ports};

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
}

impl<F: Family> Rewrite<F> {
    /// The packet stays as it is.
    pub const NONE: Self = Self { ethernet: None, translation: None, hop: false };
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
pub fn apply<F: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<F>,
    rewrite: &Rewrite<F>,
    gateway: Mac,
) -> Option<()> {
    if let Some(dst) = rewrite.ethernet {
        packet.write(0, Ethernet { dst, src: gateway, ethertype: parsed.ethernet.ethertype })?;
    }
    match &rewrite.translation {
        Some(t) => {
            F::rewrite(packet, Ethernet::LEN, t.src, t.dst, t.addresses, rewrite.hop)?;
            let l4 = parsed.l4_at();
            match parsed.l4.kind {
                Kind::Tcp | Kind::Udp => packet.write(l4, Ports { sport: t.sport, dport: t.dport })?,
                Kind::EchoRequest | Kind::EchoReply => {
                    packet.write(l4 + 4, Be16::from_raw(t.sport.raw() | t.dport.raw()))?
                }
                Kind::Sctp | Kind::Icmp | Kind::Other => {}
            }
            match parsed.l4.checksum() {
                Some(checksum) => packet.update_checksum(l4, checksum, t.addresses, t.ports),
                None => Some(()),
            }
        }
        None if rewrite.hop => F::rewrite(packet, Ethernet::LEN, parsed.ip.src, parsed.ip.dst, Delta::NONE, true),
        None => Some(()),
    }
}
