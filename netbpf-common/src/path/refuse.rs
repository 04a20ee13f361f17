//! What the sender of a refused packet is told.

use super::refusal::Refusal;
use super::{Env, Family, Packet, Parsed, Part, Verdict};
use crate::abi::Event;
use crate::wire::{Ethernet, Kind, Mac, tcp_flags};

/// Who is told, and in whose name.
pub(super) struct Teller<A> {
    /// Address the answer comes from.
    pub(super) gateway: A,
    /// MAC address of the packet's sender.
    pub(super) to: Mac,
    /// MAC address that the answer comes from.
    pub(super) from: Mac,
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
        // No error about an error, nor about a fragment that is not the first (RFC 1122 section 3.2.2).
        Refusal::Icmp(_) => !matches!(parsed.l4.kind, Kind::Error | Kind::Icmp) && parsed.ip.part != Part::Later,
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
    let ethernet = Ethernet { dst: teller.to, src: teller.from, ethertype: parsed.ethernet.ethertype };
    made.and_then(|()| packet.write(0, ethernet)).is_some()
}
