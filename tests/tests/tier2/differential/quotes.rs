//! ICMP errors of both ends, and of a router between, about all that is translated.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{Icmpv4Type, IpNumber};
use netbpf_tests::craft::{self, Ip};
use netbpf_tests::packet::addresses;

use super::record::SILENT;
use super::stage::{C1, EXT, HOST, Machine, Stage, at};
use super::talk::{OPENING, Protocol, Side, Talk, Way};
use super::watch::{Watch, told};

/// On the wire between ext and the host.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);
/// The first number of a conversation here; those below are the segments'.
const FIRST: u16 = 1500;
/// Type, code, and the MTU of a "fragmentation needed".
const ERRORS: [(u8, u8, u16); 11] = [
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
pub(super) fn generate() -> Vec<Exchange> {
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
                for error in ERRORS {
                    for (length, quoted) in [("eight bytes", 28), ("all", usize::MAX)] {
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
    let Some((IpAddr::V4(sender), IpAddr::V4(own))) = addresses(frame) else { panic!("no IPv4: {frame:02x?}") };
    let packet = &frame[14..];
    let from = if *by_router { ROUTER } else { own };
    let (machine, other) = (talk.machine(*side), talk.machine(side.other()));
    let error = message(*error, &packet[..packet.len().min(*quoted)]);
    let frame = Ip::new(from, sender).frame(watch.ethernet(machine), IpNumber::ICMP, &error);
    let arrived = watch.probe(machine, other, &frame);
    stage.record.note(name, "arrives", told(&arrived.there));
    stage.record.note(name, "comes back", told(&arrived.back));
    stage.record.note(name, "then data of the opener", told(&talk.data(Side::Opener).there));
}

fn message((kind, code, mtu): (u8, u8, u16), about: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    craft::icmp(Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: [0, 0, high, low] }, about)
}

/// Errors about what nobody has sent.
pub(super) fn about_nothing(stage: &mut Stage<'_>, watch: &Watch) {
    for error in ERRORS {
        let (kind, code, _) = error;
        for (word, machine, other, from, to, server) in [
            ("from ext", Machine::Ext, Machine::C1, EXT, HOST, at(EXT, 9)),
            ("from c1", Machine::C1, Machine::Ext, C1, EXT, at(C1, 9)),
        ] {
            let name = format!("quote, no flow: type {kind} code {code} {word}");
            let about = Ip::new(to, from).packet(IpNumber::UDP, &craft::udp(at(to, 24_000), server, b"never sent"));
            let frame = Ip::new(from, to).frame(watch.ethernet(machine), IpNumber::ICMP, &message(error, &about));
            let arrived = watch.probe(machine, other, &frame);
            stage.record.note(&name, "arrives", told(&arrived.there));
            stage.record.note(&name, "comes back", told(&arrived.back));
        }
    }
}
