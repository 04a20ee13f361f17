//! ICMP errors of both ends, and of a router between, about all that is translated.

use std::net::IpAddr;

use etherparse::IpNumber;
use netbpf_tests::craft::{self, Ip};
use netbpf_tests::packet::{addresses, icmp};
use netbpf_tests::version::Version;

use super::record::SILENT;
use super::site::{C1, EXT, HOST, ROUTER, at};
use super::stage::{Machine, Stage};
use super::talk::{OPENING, Protocol, Side, Talk, Way};
use super::watch::{Watch, told};

/// The first number of a conversation here; those below are the segments'.
const FIRST: u16 = 1500;
/// Type, code, and the MTU of a "fragmentation needed".
const V4: [(u8, u8, u16); 11] = [
    (3, 0, 0),
    (3, 1, 0),
    (3, 2, 0),
    (3, 3, 0),
    (3, 4, 1300),
    (3, 13, 0),
    (4, 0, 0),
    (5, 1, 0),
    (11, 0, 0),
    (11, 1, 0),
    (12, 0, 0),
];
/// The same of IPv6, where a redirect is no error, and there is no source quench. The last is of a type that is not known: such
/// errors reach whom they are about (RFC 4443 section 2.4).
const V6: [(u8, u8, u16); 11] = [
    (1, 0, 0),
    (1, 1, 0),
    (1, 3, 0),
    (1, 4, 0),
    (1, 5, 0),
    (2, 0, 1300),
    (3, 0, 0),
    (3, 1, 0),
    (4, 0, 0),
    (4, 1, 0),
    (100, 0, 0),
];

const fn errors(version: Version) -> [(u8, u8, u16); 11] {
    match version {
        Version::V4 => V4,
        Version::V6 => V6,
    }
}

/// An error about a packet of a conversation.
pub(super) struct Exchange {
    pub(super) name: String,
    way: Way,
    protocol: Protocol,
    number: u16,
    /// Who has got the packet and complains.
    side: Side,
    by_router: bool,
    error: (u8, u8, u16),
    /// How much of the packet is quoted, its IP header included.
    quoted: usize,
}

/// All of them.
pub(super) fn generate(version: Version) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    for (way, protocol) in [
        (Way::Published, Protocol::Tcp),
        (Way::Published, Protocol::Udp),
        (Way::Masqueraded, Protocol::Tcp),
        (Way::Masqueraded, Protocol::Udp),
        (Way::Masqueraded, Protocol::Echo),
    ] {
        for side in [Side::Opener, Side::Responder] {
            let is_outside = (way == Way::Published) == (side == Side::Opener);
            for by_router in if is_outside { &[false, true][..] } else { &[false] } {
                for error in errors(version) {
                    for (length, quoted) in [("eight bytes", version.header_len() + 8), ("all", usize::MAX)] {
                        let (kind, code, _) = error;
                        let by = if *by_router { "a router" } else { side.name() };
                        exchanges.push(Exchange {
                            name: format!(
                                "quote, {way:?} {protocol:?}: type {kind} code {code} of the {by} to the {} with {length}",
                                side.other().name()
                            ),
                            way,
                            protocol,
                            number: FIRST + exchanges.len() as u16,
                            side,
                            by_router: *by_router,
                            error,
                            quoted,
                        });
                    }
                }
            }
        }
    }
    exchanges
}

/// Sends it and notes what arrives, and whether the conversation goes on.
pub(super) fn run(stage: &mut Stage<'_>, watch: &Watch, exchange: &Exchange) {
    let Exchange { name, way, protocol, number, side, by_router, error, quoted } = exchange;
    let mut talk = Talk::new(watch, *way, *protocol, *number);
    if *protocol == Protocol::Tcp {
        talk.say_all(&OPENING);
    }
    let last = talk.open();
    let Some(frame) = &last[*side as usize] else {
        return stage.record.note(name, "the packet it is about", SILENT);
    };
    let (sender, own) = addresses(frame).expect("an IP packet");
    let packet = &frame[14..];
    let from = if *by_router { ROUTER.of(stage.version) } else { own };
    let (machine, other) = (talk.machine(*side), talk.machine(side.other()));
    let error = message(from, sender, *error, &packet[..packet.len().min(*quoted)]);
    let frame = Ip::new(from, sender).frame(watch.ethernet(machine), icmp(from), &error);
    let arrived = watch.probe(machine, other, &frame);
    stage.record.note(name, "arrives", told(&arrived.there));
    stage.record.note(name, "comes back", told(&arrived.back));
    stage.record.note(name, "then data of the opener", told(&talk.data(Side::Opener).there));
}

fn message(from: IpAddr, to: IpAddr, (kind, code, mtu): (u8, u8, u16), about: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    craft::icmp(from, to, [kind, code], [0, 0, high, low], about)
}

/// Errors about what nobody has sent.
pub(super) fn about_nothing(stage: &mut Stage<'_>, watch: &Watch) {
    let version = stage.version;
    for error in errors(version) {
        let (kind, code, _) = error;
        for (word, machine, other, from, to, server) in [
            ("from ext", Machine::Ext, Machine::C1, EXT, HOST, at(EXT, 9)),
            ("from c1", Machine::C1, Machine::Ext, C1, EXT, at(C1, 9)),
        ] {
            let name = format!("quote, no flow: type {kind} code {code} {word}");
            let datagram = craft::udp(at(to, 24_000).of(version), server.of(version), b"never sent");
            let (from, to) = (from.of(version), to.of(version));
            let about = Ip::new(to, from).packet(IpNumber::UDP, &datagram);
            let message = message(from, to, error, &about);
            let frame = Ip::new(from, to).frame(watch.ethernet(machine), icmp(from), &message);
            let arrived = watch.probe(machine, other, &frame);
            stage.record.note(&name, "arrives", told(&arrived.there));
            stage.record.note(&name, "comes back", told(&arrived.back));
        }
    }
}
