//! Every kind of TCP segment at every point of a connection, from both sides, in and out of the window.

use netbpf_common::wire::tcp_flags::{ACK, FIN, RST, SYN};
use netbpf_tests::craft::{PSH, URG};

use super::stage::Stage;
use super::talk::{BEYOND, CLOSING, OPENING, Protocol, Side, Talk, Way};
use super::watch::{Watch, told};

/// Where a connection stands: a name, and how it comes there.
const POINTS: [(&str, &[(Side, u8)]); 8] = [
    ("nothing", &[]),
    ("syn", &[OPENING[0]]),
    ("syn-ack", &[OPENING[0], OPENING[1]]),
    ("established", &OPENING),
    ("opener's fin", &[OPENING[0], OPENING[1], OPENING[2], CLOSING[0]]),
    ("closed", &[OPENING[0], OPENING[1], OPENING[2], CLOSING[0], CLOSING[1], CLOSING[2]]),
    ("opener's reset", &[OPENING[0], OPENING[1], OPENING[2], (Side::Opener, RST)]),
    ("responder's reset", &[OPENING[0], OPENING[1], OPENING[2], (Side::Responder, RST)]),
];

/// What is sent there: a name, control bits, length.
const PROBES: [(&str, u8, usize); 11] = [
    ("SYN", SYN, 0),
    ("SYN-ACK", SYN | ACK, 0),
    ("ACK", ACK, 0),
    ("data", PSH | ACK, 10),
    ("FIN", FIN | ACK, 0),
    ("RST", RST, 0),
    ("RST-ACK", RST | ACK, 0),
    ("no flag", 0, 0),
    ("SYN-FIN", SYN | FIN, 0),
    ("SYN-RST", SYN | RST, 0),
    ("FIN-PSH-URG", FIN | PSH | URG, 0),
];

/// A probe.
pub(super) struct Exchange {
    pub(super) name: String,
    way: Way,
    number: u16,
    opening: &'static [(Side, u8)],
    side: Side,
    flags: u8,
    length: usize,
    off: u32,
}

/// All of them.
pub(super) fn generate() -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    for way in [Way::Published, Way::Masqueraded] {
        for (point, opening) in POINTS {
            for side in [Side::Opener, Side::Responder] {
                for (probe, flags, length) in PROBES {
                    for (order, off) in [("in order", 0), ("beyond the window", BEYOND)] {
                        exchanges.push(Exchange {
                            name: format!("segment, {way:?}, {point}: {probe} of the {} {order}", side.name()),
                            way,
                            number: exchanges.len() as u16,
                            opening,
                            side,
                            flags,
                            length,
                            off,
                        });
                    }
                }
            }
        }
    }
    exchanges
}

/// Sends it and notes what arrives, and whether the connection still lives.
pub(super) fn run(stage: &mut Stage<'_>, watch: &Watch, exchange: &Exchange) {
    let Exchange { name, way, number, opening, side, flags, length, off } = exchange;
    let mut talk = Talk::new(watch, *way, Protocol::Tcp, *number);
    talk.say_all(opening);
    let is_ordinary = matches!(*flags, flags if flags == PSH | ACK || flags == FIN | ACK);
    let arrived = match is_ordinary && *off == 0 {
        true => talk.segment(*side, *flags, *off, *length),
        false => talk.stray(*side, *flags, *off, *length),
    };
    stage.record.note(name, "arrives", told(&arrived.there));
    stage.record.note(name, "comes back", told(&arrived.back));
    if opening.len() == OPENING.len() {
        for side in [Side::Opener, Side::Responder] {
            let arrived = talk.data(side);
            stage.record.note(name, format!("then data of the {}", side.name()), told(&arrived.there));
        }
    }
}
