//! Datagrams in fragments, well and badly cut.

use etherparse::IpNumber;
use netbpf_common::wire::tcp_flags::SYN;
use netbpf_tests::craft::{self, Ip};

use super::site::{C1, EXT, HOST, at};
use super::stage::{FRAGMENTS, Machine, QUIET_EXT, QUIET_INSIDE, Stage, failure, pattern};
use super::watch::{Watch, told};

/// A datagram's bytes, UDP header included.
const WHOLE: usize = 3000;

/// A fragment: from where, to where.
type Cut = (usize, usize);

/// How it is cut, in the order it is sent.
const CUTS: [(&str, &[Cut]); 10] = [
    ("in order", &[(0, 1440), (1440, 2880), (2880, WHOLE)]),
    ("reversed", &[(2880, WHOLE), (1440, 2880), (0, 1440)]),
    ("the middle last", &[(0, 1440), (2880, WHOLE), (1440, 2880)]),
    ("one of them twice", &[(0, 1440), (1440, 2880), (1440, 2880), (2880, WHOLE)]),
    ("the first missing", &[(1440, 2880), (2880, WHOLE)]),
    ("the middle missing", &[(0, 1440), (2880, WHOLE)]),
    ("the last missing", &[(0, 1440), (1440, 2880)]),
    ("overlapping", &[(0, 1440), (1360, 2800), (2800, WHOLE)]),
    ("a first one of the UDP header alone", &[(0, 8), (8, 1440), (1440, 2880), (2880, WHOLE)]),
    ("many small ones", &[(0, 64), (64, 128), (128, 192), (192, 1632), (1632, WHOLE)]),
];

/// Sends all of them both ways and notes what sockets hear.
pub(super) fn datagrams(stage: &mut Stage<'_>, watch: &Watch) {
    let everywhere = stage.version.everywhere(FRAGMENTS);
    let mut id = 100;
    for (way, machine, other, from, to) in [
        ("published", Machine::Ext, Machine::C1, at(EXT, QUIET_EXT + 3990), at(HOST, FRAGMENTS)),
        ("masqueraded", Machine::C1, Machine::Ext, at(C1, QUIET_INSIDE + 3990), at(EXT, FRAGMENTS)),
    ] {
        let (from, to) = (from.of(stage.version), to.of(stage.version));
        let socket = stage.place(other).udp(everywhere).expect("the port is free");
        socket.set_nonblocking(true).expect("an option");
        for (cut, pieces) in CUTS {
            let name = format!("fragments, {way}: {cut}");
            id += 1;
            let datagram = craft::udp(from, to, &pattern(WHOLE - 8));
            for (start, end) in pieces {
                let ip = Ip { id, offset: *start as u16, more: *end < WHOLE, ..Ip::new(from.ip(), to.ip()) };
                watch.send(machine, &ip.frame(watch.ethernet(machine), IpNumber::UDP, &datagram[*start..*end]));
            }
            let arrived = watch.settle(machine, other);
            let mut buffer = [0; 65_536];
            let heard = match socket.recv(&mut buffer) {
                Ok(length) if buffer[..length] == pattern(length) => format!("{length} bytes"),
                Ok(length) => format!("{length} other bytes"),
                Err(error) => failure(&error),
            };
            stage.record.note(&name, "the socket hears", heard);
            stage.record.note(&name, "frames", told(&arrived.there));
            stage.record.note(&name, "comes back", told(&arrived.back));
        }
    }
}

/// A SYN whose control bits are in the second fragment (RFC 1858), or are written over by it (RFC 3128).
pub(super) fn segments(stage: &mut Stage<'_>, watch: &Watch) {
    let mut id = 200;
    for (way, machine, other, from, to) in [
        ("published", Machine::Ext, Machine::C1, at(EXT, QUIET_EXT + 3991), at(HOST, 8090)),
        ("masqueraded", Machine::C1, Machine::Ext, at(C1, QUIET_INSIDE + 3991), at(EXT, QUIET_EXT)),
    ] {
        let (from, to) = (from.of(stage.version), to.of(stage.version));
        let segment = craft::tcp(from, to, SYN, 1000, 0, &pattern(100));
        let length = segment.len();
        for (cut, pieces) in [
            ("a SYN with its flags in the second", &[(0, 8), (8, length)][..]),
            ("a SYN whose second writes over its flags", &[(0, 24), (8, length)]),
        ] {
            let name = format!("fragments, {way}: {cut}");
            id += 1;
            for (start, end) in pieces {
                let ip = Ip { id, offset: *start as u16, more: *end < length, ..Ip::new(from.ip(), to.ip()) };
                watch.send(machine, &ip.frame(watch.ethernet(machine), IpNumber::TCP, &segment[*start..*end]));
            }
            let arrived = watch.settle(machine, other);
            stage.record.note(&name, "arrives", told(&arrived.there));
        }
    }
}
