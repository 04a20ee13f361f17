//! Frames between two machines: what is sent at one end, and what arrives at both.
//!
//! A datagram that goes to and fro behind them tells that all of them have arrived: what is observed does not depend
//! on a time. Who uses this stays on one CPU, so that nothing overtakes.

use std::net::{IpAddr, UdpSocket};

use etherparse::IpNumber;
use netbpf_tests::craft;
use netbpf_tests::headers::Headers;
use netbpf_tests::link::Link;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::server::{Server, ask_udp};
use netbpf_tests::sight;
use netbpf_tests::version::Version;
use netbpf_tests::wait::soon;

use super::record::SILENT;
use super::site::{C2, EXT, HOST, at, name};
use super::stage::{FENCE, Machine, Stage, pattern};

/// The devices of ext, c1 and c2.
pub(super) struct Watch {
    pub(super) version: Version,
    ends: [End; 3],
    _servers: [Server; 3],
}

struct End {
    machine: Machine,
    link: Link,
    ethernet: Ethernet,
    fence: UdpSocket,
}

/// Frames that have arrived.
pub(super) type Frames = Vec<Vec<u8>>;

/// What arrived at the other end, and what came back to the sender.
pub(super) struct Arrived {
    pub(super) there: Frames,
    pub(super) back: Frames,
}

impl Watch {
    pub(super) fn new(stage: &Stage<'_>) -> Self {
        let machines = [Machine::Ext, Machine::C1, Machine::C2];
        let servers = machines.map(|machine| Server::udp(stage.place(machine), "fence", FENCE));
        let ends = machines.map(|machine| {
            let link = stage.link(machine);
            let ethernet = stage.towards_host(machine, &link);
            End { machine, link, ethernet, fence: stage.place(machine).any_udp() }
        });
        let watch = Self { version: stage.version, ends, _servers: servers };
        // All of them know each other's MAC address from now on.
        for (from, to) in [(Machine::Ext, Machine::C1), (Machine::C1, Machine::Ext), (Machine::C1, Machine::C2)] {
            watch.settle(from, to);
        }
        watch
    }

    fn end(&self, machine: Machine) -> &End {
        self.ends.iter().find(|end| end.machine == machine).expect("the host is not watched")
    }

    /// How a machine addresses its frames: to the host.
    pub(super) fn ethernet(&self, machine: Machine) -> Ethernet {
        self.end(machine).ethernet
    }

    /// How c1 addresses its frames to c2.
    pub(super) fn to_neighbour(&self) -> Ethernet {
        Ethernet { to: self.end(Machine::C2).link.mac, ..self.ethernet(Machine::C1) }
    }

    pub(super) fn send(&self, from: Machine, frame: &[u8]) {
        self.end(from).link.send(frame);
    }

    /// What has arrived at `there` and at `from` since this was asked last.
    pub(super) fn settle(&self, from: Machine, there: Machine) -> Arrived {
        let fence = match (from, there) {
            (Machine::Ext, Machine::C1) => at(HOST, FENCE),
            (_, Machine::Ext) => at(EXT, FENCE),
            (_, Machine::C2) => at(C2, FENCE),
            other => unreachable!("nobody watches {other:?}"),
        };
        let asker = self.end(from);
        ask_udp(&asker.fence, fence.of(self.version)).expect("answered");
        Arrived { there: until_fence(&self.end(there).link), back: until_fence(&asker.link) }
    }

    /// Sends a frame and gives what it leads to.
    pub(super) fn probe(&self, from: Machine, there: Machine, frame: &[u8]) -> Arrived {
        self.send(from, frame);
        self.settle(from, there)
    }
}

/// Frames that came in before the datagram of the fence, that one apart.
fn until_fence(link: &Link) -> Frames {
    let mut frames = Vec::new();
    let fenced = link.find(soon(), |frame| {
        if frame[..6] != link.mac {
            return None;
        }
        let ip = Headers::read(frame)?;
        let at = ip.transport.start;
        let port = |at: usize| frame.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
        let is_whole_udp = ip.protocol == IpNumber::UDP && !ip.is_fragment;
        let is_fence = is_whole_udp && [at, at + 2].iter().any(|at| port(*at) == Some(FENCE));
        if !is_fence {
            frames.push(frame.to_vec());
        }
        is_fence.then_some(())
    });
    assert!(fenced.is_some(), "the datagram of the fence was answered");
    frames
}

/// Tells frames, in the order they came.
pub(super) fn told(frames: &[Vec<u8>]) -> String {
    let lines: Vec<String> = frames.iter().filter_map(|frame| sight::describe(frame, &name)).collect();
    if lines.is_empty() { SILENT.into() } else { lines.join(" | ") }
}

/// An ICMP echo of ten bytes.
pub(super) fn echo(from: IpAddr, to: IpAddr, is_request: bool, id: u16) -> Vec<u8> {
    let kind = match (Version::of(from), is_request) {
        (Version::V4, true) => 8,
        (Version::V4, false) => 0,
        (Version::V6, true) => 128,
        (Version::V6, false) => 129,
    };
    let [high, low] = id.to_be_bytes();
    craft::icmp(from, to, [kind, 0], [high, low, 0, 1], &pattern(10))
}
