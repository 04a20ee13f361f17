//! Conversations with the world of [`crate::world`], told by who says what.

use std::net::{IpAddr, SocketAddr};

use netbpf_common::abi::{DropReason, Life};
use netbpf_common::path::Verdict;

use crate::family::{Dual, TestFamily};
use crate::fixture::Hook;
use crate::headers::Headers;
use crate::journey::{Arrival, Record, Speech, Tuple, answer, entry, send};
use crate::memory::Memory;
use crate::packet::IcmpError;
use crate::world::Container;

/// An address with a port.
pub const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
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
    from: SocketAddr,
    to: SocketAddr,
}

impl<E: Dual + Copy> Talk<E> {
    /// Of a container with somebody.
    pub const fn of(env: E, container: Container, port: u16, to: SocketAddr) -> Self {
        Self { env, hook: egress(container), from: at(container.ip_like(to.ip()), port), to }
    }

    /// A process of the host that wants port 8080 of 127.0.0.1 or ::1.
    pub const fn of_host<F: TestFamily>(env: E, port: u16) -> Self {
        Self { env, hook: Hook::Host, from: at(F::GATEWAY, port), to: at(F::VIRTUAL_LOOPBACK, F::WEB.port()) }
    }

    /// What the side that the originator sees as `seen` says in the same flow.
    pub const fn server_of(env: E, container: Container, seen: Tuple) -> Self {
        Self { env, hook: egress(container), from: seen.to, to: seen.from }
    }

    /// Of somebody outside with an address of the host.
    pub const fn from_outside(env: E, from: SocketAddr, to: SocketAddr) -> Self {
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
    pub fn flow(&self, speech: Speech) -> Option<Record> {
        entry(self.env, self.hook, &Tuple::new(speech, self.from, self.to))
    }
}

/// A container is told at once that something is used up (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1), and that is counted.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_exhausted(memory: &Memory, container: Container, arrival: &Arrival, reason: DropReason) {
    assert_eq!(arrival.verdict, peer(container), "the sender is told");
    assert_told(&arrival.bytes, IcmpError::PROHIBITED);
    assert!(memory.drops(reason) > 0, "{}", reason.name());
}

/// A frame is an ICMP error that says this.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_told(frame: &[u8], what: IcmpError) {
    let Headers { source, transport, .. } = Headers::read(frame).expect("an IP packet");
    assert_eq!(frame.get(transport.start..transport.start + 2), Some(&what.kind_and_code(source)[..]));
}
