//! What the sender of a refused packet is told.

use super::family::IcmpError;
use super::follow::Refusal;
use super::{Env, Family, Packet, Parsed, Verdict};
use crate::abi::{DropReason, Event};
use crate::wire::{Ethernet, Kind, Mac, tcp_flags};

impl Refusal {
    /// The reason this is counted under.
    #[inline(always)]
    pub(super) fn reason(self) -> DropReason {
        match self {
            Self::Drop(reason) => reason,
            Self::Icmp(IcmpError::HostUnreachable) => DropReason::NoEndpoint,
            Self::Icmp(IcmpError::TimeExceeded) => DropReason::TtlExceeded,
            Self::Icmp(IcmpError::TooBig(_)) => DropReason::TooBig,
            Self::Reset => DropReason::StaleFlow,
        }
    }
}

/// Who is told, and in whose name.
pub(super) struct Teller<A> {
    /// Address the answer comes from.
    pub(super) gateway: A,
    /// MAC address of the packet's sender.
    pub(super) to: Mac,
}

/// Turns the packet into the answer its sender gets, which then takes the way `back`, or drops it.
#[inline(always)]
pub(super) fn refuse<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    refusal: Refusal,
    teller: &Teller<F::Addr>,
    back: Verdict,
) -> Verdict {
    let answerable = match refusal {
        Refusal::Drop(_) => false,
        // No error about an error, nor about a fragment (RFC 1122 section 3.2.2).
        Refusal::Icmp(_) => parsed.l4.kind != Kind::Icmp && !parsed.ip.is_fragment,
        // No reset about a reset (RFC 9293 section 3.5.2).
        Refusal::Reset => parsed.l4.tcp_flags & tcp_flags::RST == 0,
    };
    if answerable && answer(env, packet, parsed, &refusal, teller) {
        env.count_drop(refusal.reason());
        back
    } else {
        Verdict::Drop(refusal.reason())
    }
}

/// Makes the answer of the packet; whether it could be made.
#[inline(never)]
fn answer<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    refusal: &Refusal,
    teller: &Teller<F::Addr>,
) -> bool {
    let made = match *refusal {
        Refusal::Icmp(error) => {
            env.count(Event::IcmpMade);
            F::icmp_error(packet, &parsed.ip, teller.gateway, error)
        }
        _ => {
            env.count(Event::ResetMade);
            F::reset(packet, &parsed.ip)
        }
    };
    let ethernet = Ethernet { dst: teller.to, src: env.config().gateway_mac, ethertype: parsed.ethernet.ethertype };
    made.and_then(|()| packet.write(0, ethernet)).is_some()
}
