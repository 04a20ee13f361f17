//! What the sender of a refused packet is told.

use super::family::IcmpError;
use super::refusal::Refusal;
use super::{Env, Family, Packet, Parsed, Part, World};
use crate::abi::Event;
use crate::wire::checksum::{Sum, pseudo_header};
use crate::wire::{Address as _, Be16, Ethernet, Icmp, Kind, Mac, Tcp, protocol, tcp_flags};

/// No word of an error begins beyond this, in bytes: for the verifier.
const ERROR_END: u32 = 0x7ff;

/// Who is told, and in whose name.
pub(super) struct Teller<A> {
    /// Address the answer comes from.
    pub(super) gateway: A,
    /// MAC address of the packet's sender.
    pub(super) to: Mac,
    /// MAC address that the answer comes from.
    pub(super) from: Mac,
    /// Whether it leaves by a device, which then writes the checksum that the packet leaves to it.
    pub(super) is_on_wire: bool,
}

/// Turns the packet into the answer its sender gets, which then takes the way `back`, or drops it. A
/// [`code`](super::refusal::code), as `back` is.
#[inline(always)]
pub(super) fn refuse<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    refusal: Refusal,
    teller: &Teller<F::Addr>,
    back: u64,
) -> u64 {
    let answerable = match refusal {
        Refusal::Drop(_) => false,
        // No error about an error, nor about a fragment that is not the first (RFC 1122 section 3.2.2).
        Refusal::Icmp(_) => {
            !matches!(parsed.l4.kind, Kind::Error | Kind::Icmp | Kind::Link) && parsed.ip.part != Part::Later
        }
        // No reset about a reset (RFC 9293 section 3.5.2).
        Refusal::Reset => parsed.l4.tcp_flags & tcp_flags::RST == 0,
    };
    if answerable && answer(env, packet, parsed, &refusal, teller) {
        env.count_drop(refusal.reason());
        back
    } else {
        Refusal::Drop(refusal.reason()).code()
    }
}

/// Makes the answer of the packet; whether it could be made.
#[inline(always)]
fn answer<F: Family, E: Env<F>, P: Packet>(
    env: &E,
    packet: &mut P,
    parsed: &Parsed<F>,
    refusal: &Refusal,
    teller: &Teller<F::Addr>,
) -> bool {
    let at = parsed.l4_at();
    let is_left = teller.is_on_wire && parsed.checksum().is_some() && packet.is_left_to_device(at);
    let made = match *refusal {
        Refusal::Icmp(error) => {
            env.count(Event::IcmpMade);
            icmp_error(env, packet, parsed, teller.gateway, error, is_left)
        }
        _ => {
            env.count(Event::ResetMade);
            reset(packet, parsed, is_left)
        }
    };
    let ethernet = Ethernet { dst: teller.to, src: teller.from, ethertype: F::ETHERTYPE };
    made.and_then(|()| packet.write(0, ethernet)).is_some()
}

/// Makes of the packet an ICMP error about it, from `gateway` to its sender: with as much of the packet as one may have (RFC
/// 1812 section 4.3.2.3, RFC 4443 section 2.4). Ethernet addresses are left to the caller.
#[inline(always)]
fn icmp_error<F: Family, P: Packet, W: World>(
    world: &W,
    packet: &mut P,
    parsed: &Parsed<F>,
    gateway: F::Addr,
    error: IcmpError,
    is_left: bool,
) -> Option<()> {
    let (ip, added) = (&parsed.ip, F::HEADER_LEN + Icmp::LEN);
    let quoted = ip.total_len.min(F::LONGEST_ERROR - added) & !3;
    packet.resize(Ethernet::LEN + quoted)?;
    packet.insert_header(added)?;
    let at = packet.reach(Ethernet::LEN + added, quoted);

    let (kind, code) = F::icmp_error(error);
    let mtu = if let IcmpError::TooBig(mtu) = error { mtu.max(F::LEAST_MTU) } else { 0 };
    let icmp = Icmp { kind, code, sequence: Be16::new(mtu), ..Icmp::default() };
    let quote = match parsed.checksum().filter(|_| is_left) {
        None => sum_of(world, packet, at, quoted)?,
        // From the transport header on it sums up to the complement of what lies in the checksum field, once the device has
        // written that.
        Some(checksum) => {
            let pseudo: Be16 = packet.read(ip.payload_at(at) + checksum.at)?;
            sum_of(world, packet, at, ip.header_len)?.add16(Be16::from_raw(!pseudo.raw()))
        }
    };
    finish_error::<F, _>(packet, icmp, quoted, quote, gateway, ip.src)
}

/// Puts the headers of an ICMP error before the `quoted` bytes that it quotes, for which there is room; `quote` is what those sum
/// up to.
#[inline(always)]
pub(super) fn finish_error<F: Family, P: Packet>(
    packet: &mut P,
    mut icmp: Icmp,
    quoted: u32,
    quote: Sum,
    src: F::Addr,
    dst: F::Addr,
) -> Option<()> {
    let length = (Icmp::LEN + quoted) as u16;
    let mut sum = icmp.sum().add(quote);
    if F::ICMP_HAS_PSEUDO_HEADER {
        sum = sum.add(pseudo_header(F::ICMP, length)).add(src.sum()).add(dst.sum());
    }
    icmp.checksum = sum.checksum();
    packet.write(Ethernet::LEN, F::header(F::ICMP, length, src, dst))?;
    packet.write(Ethernet::LEN + F::HEADER_LEN, icmp)
}

/// The sum of so many bytes at `at`, whole words; nothing if they are not there.
#[inline(always)]
pub(super) fn sum_of<P: Packet, W: World>(world: &W, packet: &P, at: u32, len: u32) -> Option<Sum> {
    let folded = folded_sum(world, packet, at, len);
    Some(Sum::ZERO.add16(Be16::from_raw(u16::try_from(folded).ok()?)))
}

/// The body of [`sum_of`], with a stack frame of its own: a number of more than 16 bits says that they are not there.
#[inline(never)]
fn folded_sum<P: Packet, W: World>(world: &W, packet: &P, at: u32, len: u32) -> u32 {
    let mut adding = Adding { packet, sum: Sum::ZERO, at, is_there: true };
    world.repeat(len / 4, |word| adding.add(word));
    if adding.is_there { adding.sum.fold().into() } else { u32::MAX }
}

/// The sum of the words of a packet so far. One value: of several each would take the stack a pointer more.
struct Adding<'a, P> {
    packet: &'a P,
    sum: Sum,
    at: u32,
    is_there: bool,
}

impl<P: Packet> Adding<'_, P> {
    /// Adds the word with this number; whether it is there.
    #[inline(always)]
    fn add(&mut self, word: u32) -> bool {
        match self.packet.read((self.at + word * 4) & ERROR_END) {
            Some(word) => self.sum = self.sum.add32(word).reduced(),
            None => self.is_there = false,
        }
        self.is_there
    }
}

/// Makes of the TCP segment a reset in the name of its destination. Ethernet addresses are left to the caller.
#[inline(always)]
fn reset<F: Family, P: Packet>(packet: &mut P, parsed: &Parsed<F>, is_left: bool) -> Option<()> {
    const LEN: u16 = Tcp::LEN as u16;

    let ip = &parsed.ip;
    let segment: Tcp = packet.read(parsed.l4_at())?;
    let mut reset = segment.reset(parsed.payload_len());
    let pseudo = pseudo_header(protocol::TCP, LEN).add(ip.src.sum()).add(ip.dst.sum());
    reset.checksum = if is_left { Be16::from_raw(pseudo.fold()) } else { reset.sum().add(pseudo).checksum() };
    if is_left && ip.header_len != F::HEADER_LEN {
        // The device would write it where the old header was.
        return None;
    }

    packet.resize(Ethernet::LEN + F::HEADER_LEN + Tcp::LEN)?;
    packet.write(Ethernet::LEN, F::header(protocol::TCP, LEN, ip.dst, ip.src))?;
    packet.write(Ethernet::LEN + F::HEADER_LEN, reset)
}
