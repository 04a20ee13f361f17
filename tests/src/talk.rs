//! Conversations with the world of [`crate::world`], told by who says what.

use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_common::abi::{DropReason, Flow, Life};
use netbpf_common::path::{Env, V4, Verdict};
use netbpf_common::wire::V4Addr;

use crate::fixture::Hook;
use crate::journey::{Arrival, Speech, Tuple, answer, entry, send};
use crate::memory::Memory;
use crate::world::{Container, FAR, GATEWAY, HOST, OUTSIDE, VIRTUAL_LOOPBACK};

/// A server in the world.
pub const SERVER: SocketAddrV4 = at(FAR, 443);
/// A machine that is pinged: an echo has its identifier at the asking side.
pub const PINGED: SocketAddrV4 = at(FAR, 0);
/// A client outside.
pub const CLIENT: SocketAddrV4 = at(OUTSIDE, 40_000);
/// The published TCP port of C1.
pub const WEB: SocketAddrV4 = at(HOST, 8080);
/// The published UDP port of C2.
pub const DNS: SocketAddrV4 = at(HOST, 5353);

/// An address with a port.
pub const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Where a container sends.
pub const fn egress(container: Container) -> Hook {
    Hook::Egress(container.device())
}

/// Into a container.
pub const fn peer(container: Container) -> Verdict {
    Verdict::Peer { ifindex: container.device() }
}

/// A conversation as its originator has it.
#[derive(Clone, Copy)]
pub struct Talk<E> {
    env: E,
    hook: Hook,
    from: SocketAddrV4,
    to: SocketAddrV4,
}

impl<E: Env<V4> + Copy> Talk<E> {
    /// Of a container with somebody.
    pub const fn of(env: E, container: Container, port: u16, to: SocketAddrV4) -> Self {
        Self { env, hook: egress(container), from: at(container.ip, port), to }
    }

    /// A process of the host that wants 127.0.0.1:8080.
    pub const fn of_host(env: E, port: u16) -> Self {
        Self { env, hook: Hook::Host, from: at(GATEWAY, port), to: at(VIRTUAL_LOOPBACK, WEB.port()) }
    }

    /// What the side that the originator sees as `seen` says in the same flow.
    pub const fn server_of(env: E, container: Container, seen: Tuple) -> Self {
        Self { env, hook: egress(container), from: seen.to, to: seen.from }
    }

    /// Of somebody outside with an address of the host.
    pub const fn from_outside(env: E, from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self { env, hook: Hook::Uplink, from, to }
    }

    /// Says something.
    pub fn say(&self, speech: Speech) -> Arrival {
        send(self.env, self.hook, speech, self.from, self.to)
    }

    /// Asks, is answered, and asks again: a confirmed flow. What the other side sees.
    ///
    /// # Panics
    /// When the flow does not come about.
    #[track_caller]
    pub fn establish(&self, speech: Speech) -> Tuple {
        let there = self.say(speech);
        answer(self.env, &there, speech.answer());
        self.say(speech.next());
        assert_eq!(self.flow(speech).expect("a flow").word.life(), Life::Established);
        there.tuple()
    }

    /// The entry that what the originator says finds.
    pub fn flow(&self, speech: Speech) -> Option<Flow<V4Addr>> {
        entry(self.env, self.hook, &Tuple::new(speech, self.from, self.to))
    }
}

/// A container is told at once that something is used up (ICMP 3/13), and that is counted.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_exhausted(memory: &Memory, container: Container, arrival: &Arrival, reason: DropReason) {
    const ICMP: std::ops::Range<usize> = 34..36;
    assert_eq!(arrival.verdict, peer(container), "the sender is told");
    assert_eq!(arrival.bytes.get(ICMP), Some(&[3, 13][..]));
    assert!(memory.drops(reason) > 0, "{}", reason.name());
}
