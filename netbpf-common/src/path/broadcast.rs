//! Broadcast and multicast of a container: to the members of its network, and to nobody else.

use super::decide::fits;
use super::refusal::{Refusal, code};
use super::{Env, Family, Packet, Parsed, Part};
use crate::abi::{DropReason, Endpoint, Event, Subnet};
use crate::wire::{Address, Kind, protocol};

/// Most members that get a broadcast.
const MEMBERS: u32 = 1024;

/// Sends copies to the other members of the endpoint's network. A [`code`].
#[inline(always)]
pub(super) fn broadcast<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    endpoint: &Endpoint,
    subnet: &Subnet<F::Addr>,
    slot: u32,
) -> Result<u64, Refusal> {
    // Who is in which group nobody needs to know: every member gets everything.
    if !is_for_many::<F>(parsed.ip.dst, subnet) || parsed.ip.proto == protocol::IGMP {
        return Err(DropReason::Multicast.into());
    }
    // An error is about what its receiver has sent, and Linux believes one of IPv6 that was sent to a group.
    let is_message = matches!(parsed.l4.kind, Kind::Error | Kind::Icmp)
        || parsed.ip.part != Part::Whole && parsed.ip.proto == F::ICMP;
    if is_message {
        return Err(DropReason::IcmpError.into());
    }
    if !env.may_multiply(slot) {
        return Err(DropReason::BroadcastRate.into());
    }
    replicate(env, packet, parsed, slot, u32::from(endpoint.network));
    Ok(code::DONE)
}

/// Whether an address is that of a group, or of everybody in the subnet (RFC 919).
#[inline(always)]
pub(super) fn is_for_many<F: Family>(dst: F::Addr, subnet: &Subnet<F::Addr>) -> bool {
    dst.is_group() || F::HAS_BROADCAST && subnet.contains(dst) && dst.or(subnet.mask) == F::Addr::ONES
}

/// Sends the copies. A number that says nothing, since that is what BPF functions return.
#[inline(never)]
fn replicate<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    slot: u32,
    network: u32,
) -> u32 {
    let first = env.next_member(slot);
    let mut next = first;
    env.repeat(MEMBERS, |turn| {
        // Round, also for a newcomer whom nobody points to yet.
        if next == slot || next == 0 || turn != 0 && next == first {
            return false;
        }
        // A member that has just left leads no further: its neighbours point past it already.
        let Some(member) = env.endpoint(next) else { return false };
        if member.generation != 0 && u32::from(member.network) == network {
            // Copies go out of devices, which drop without a word what is larger than they take.
            if fits(packet, parsed, member.mtu).is_err() {
                env.count_drop(DropReason::TooBig);
            } else if packet.send_copy(member.ifindex).is_some() {
                env.count(Event::Replicated);
            }
        }
        next = env.next_member(next);
        true
    });
    0
}
