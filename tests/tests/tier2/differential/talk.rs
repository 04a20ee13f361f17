//! A conversation of frames across the host, spoken by nobody's kernel.

use std::net::SocketAddr;

use etherparse::IpNumber;
use netbpf_common::wire::tcp_flags::{ACK, FIN, RST, SYN};
use netbpf_tests::craft::{self, Ip, PSH};
use netbpf_tests::packet::icmp;

use super::site::{C1, EXT, HOST, at};
use super::stage::{Machine, QUIET_EXT, QUIET_INSIDE, pattern};
use super::watch::{Arrived, Watch, echo};

/// Which way the host translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From ext to c1, by a published port.
    Published,
    /// From c1 to ext, masqueraded.
    Masqueraded,
}

/// Who opens the conversation, and who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Opener,
    Responder,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Opener => Self::Responder,
            Self::Responder => Self::Opener,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Opener => "opener",
            Self::Responder => "responder",
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    /// Masqueraded alone: nobody publishes it.
    Echo,
}

/// Sequence numbers beyond any window.
pub(super) const BEYOND: u32 = 1_000_000;

/// How a TCP connection begins: who says what.
pub(super) const OPENING: [(Side, u8); 3] = [(Side::Opener, SYN), (Side::Responder, SYN | ACK), (Side::Opener, ACK)];
/// An orderly end by the opener.
pub(super) const CLOSING: [(Side, u8); 3] =
    [(Side::Opener, FIN | ACK), (Side::Responder, FIN | ACK), (Side::Opener, ACK)];

/// Two ends, by [`Side`].
pub(super) struct Talk<'a> {
    watch: &'a Watch,
    protocol: Protocol,
    machines: [Machine; 2],
    /// Where each sends from and to.
    ends: [(SocketAddr, SocketAddr); 2],
    /// The next sequence number of each.
    next: [u32; 2],
}

impl<'a> Talk<'a> {
    /// A conversation with a number of its own among those of its way.
    pub(super) fn new(watch: &'a Watch, way: Way, protocol: Protocol, number: u16) -> Self {
        let (machines, ends) = match way {
            Way::Published => {
                let port = if protocol == Protocol::Udp { 5390 } else { 8090 };
                let client = at(EXT, QUIET_EXT + 1 + number);
                ([Machine::Ext, Machine::C1], [(client, at(HOST, port)), (at(C1, QUIET_INSIDE), client)])
            }
            Way::Masqueraded => {
                let (own, server) = (QUIET_INSIDE + 1 + number, at(EXT, QUIET_EXT));
                ([Machine::C1, Machine::Ext], [(at(C1, own), server), (server, at(HOST, own))])
            }
        };
        let ends = ends.map(|(from, to)| (from.of(watch.version), to.of(watch.version)));
        Self { watch, protocol, machines, ends, next: [1000, 5000] }
    }

    pub(super) fn machine(&self, side: Side) -> Machine {
        self.machines[side as usize]
    }

    /// A segment that keeps to the order, or is `off` by something; what it leads to.
    pub(super) fn segment(&mut self, side: Side, flags: u8, off: u32, length: usize) -> Arrived {
        let ((from, to), next) = (self.ends[side as usize], self.next[side as usize]);
        let ack = if flags & ACK != 0 { self.next[side.other() as usize] } else { 0 };
        let segment = craft::tcp(from, to, flags, next.wrapping_add(off), ack, &pattern(length));
        if off == 0 && flags & RST == 0 {
            let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            self.next[side as usize] = next + length as u32 + controls;
        }
        self.send(side, IpNumber::TCP, &segment)
    }

    /// A segment that nobody is to believe: what follows is in order as if it had not been said.
    pub(super) fn stray(&mut self, side: Side, flags: u8, off: u32, length: usize) -> Arrived {
        let next = self.next;
        let arrived = self.segment(side, flags, off, length);
        self.next = next;
        arrived
    }

    /// Says some segments in order.
    pub(super) fn say_all(&mut self, segments: &[(Side, u8)]) {
        for (side, flags) in segments {
            self.segment(*side, *flags, 0, 0);
        }
    }

    /// Opens the conversation with a word of each and one more of the opener; what arrived last at opener and
    /// responder.
    pub(super) fn open(&mut self) -> [Option<Vec<u8>>; 2] {
        let last = |arrived: Arrived| arrived.there.into_iter().next_back();
        let there = last(self.data(Side::Opener));
        match self.protocol {
            Protocol::Tcp | Protocol::Udp => {
                let back = last(self.data(Side::Responder));
                let there = last(self.data(Side::Opener)).or(there);
                [back, there]
            }
            Protocol::Echo => {
                // The kernel at the other end has answered.
                let again = self.data(Side::Opener);
                [again.back.into_iter().next_back(), again.there.into_iter().next_back().or(there)]
            }
        }
    }

    /// Ten bytes of one side.
    pub(super) fn data(&mut self, side: Side) -> Arrived {
        let (from, to) = self.ends[side as usize];
        match self.protocol {
            Protocol::Tcp => self.segment(side, PSH | ACK, 0, 10),
            Protocol::Udp => self.send(side, IpNumber::UDP, &craft::udp(from, to, &pattern(10))),
            Protocol::Echo => {
                let message = echo(from.ip(), to.ip(), true, from.port());
                self.send(side, icmp(from.ip()), &message)
            }
        }
    }

    fn send(&self, side: Side, protocol: IpNumber, payload: &[u8]) -> Arrived {
        let (from, to) = self.ends[side as usize];
        let (machine, other) = (self.machine(side), self.machine(side.other()));
        let frame = Ip::new(from.ip(), to.ip()).frame(self.watch.ethernet(machine), protocol, payload);
        self.watch.probe(machine, other, &frame)
    }
}
