//! Tier 0: the flow engine against a NAT that is naive: a list of who speaks with whom under which port. Whatever is said in whatever
//! order, both deliver the same to the same, and what is delivered is what was said.

use std::net::SocketAddr;

use netbpf_common::path::Verdict;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::headers::is_transport_sound;
use netbpf_tests::journey::{Arrival, Speech, TTL, collect, flows, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{at, egress};
use netbpf_tests::world::{CONTAINERS, Container, NAT_FIRST, NAT_LAST};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

for_both!(what_a_naive_nat_would_deliver_is_delivered_and_nothing_else);

/// A conversation as the naive NAT knows it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    container: Container,
    inner: SocketAddr,
    outer: SocketAddr,
    remote: SocketAddr,
    is_replied: bool,
    is_confirmed: bool,
    seen: u64,
}

impl Entry {
    /// Seconds that it may be silent (RFC 4787 REQ-5, as nf_conntrack has it).
    const fn patience(&self) -> u64 {
        if self.is_confirmed { 120 } else { 30 }
    }
}

/// The naive NAT.
#[derive(Debug, Default)]
struct Reference {
    entries: Vec<Entry>,
    clock: u64,
}

impl Reference {
    fn expire(&mut self) {
        let clock = self.clock;
        self.entries.retain(|entry| clock - entry.seen <= entry.patience());
    }

    fn outbound(&mut self, inner: SocketAddr, remote: SocketAddr) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.inner == inner && entry.remote == remote)
    }

    fn inbound(&mut self, remote: SocketAddr, outer: SocketAddr) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.outer == outer && entry.remote == remote)
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    /// A container sends.
    Out {
        container: Container,
        port: u16,
        remote: SocketAddr,
    },
    /// A machine outside sends to a port that somebody may have.
    In {
        remote: SocketAddr,
        of: Index,
        stray: Option<u16>,
    },
    Sleep(u64),
    Collect,
}

fn remotes<F: TestFamily>() -> impl Strategy<Value = SocketAddr> {
    select(vec![at(F::FAR, 443), at(F::FAR, 53), at(F::OUTSIDE, 53)])
}

fn happenings<F: TestFamily>() -> impl Strategy<Value = Happening> {
    let ports = select(vec![20_000, 20_001, 5060, 40_000]);
    prop_oneof![
        5 => (select(&CONTAINERS[..]), ports, remotes::<F>())
            .prop_map(|(container, port, remote)| Happening::Out { container, port, remote }),
        4 => (remotes::<F>(), any::<Index>(), proptest::option::weighted(0.1, NAT_FIRST..=NAT_LAST))
            .prop_map(|(remote, of, stray)| Happening::In { remote, of, stray }),
        1 => select(vec![1_u64, 20, 31, 100, 121]).prop_map(Happening::Sleep),
        1 => Just(Happening::Collect),
    ]
}

/// Sends a datagram with a text of its own.
fn say(memory: &Memory, hook: Hook, from: SocketAddr, to: SocketAddr, text: &str) -> Arrival {
    let mut frame = frame_on(hook, Speech::Udp.frame(link_on(hook), from, to, TTL, text.as_bytes()));
    let verdict = travel(memory, hook, &mut frame);
    Arrival::new(verdict, frame)
}

fn check_text(arrival: &Arrival, text: &str) -> Result<(), TestCaseError> {
    prop_assert!(is_transport_sound(&arrival.bytes));
    prop_assert!(arrival.bytes.ends_with(text.as_bytes()), "what is delivered is what was said");
    Ok(())
}

fn happens<F: TestFamily>(
    memory: &Memory,
    nat: &mut Reference,
    number: usize,
    happening: &Happening,
) -> Result<(), TestCaseError> {
    let text = format!("message {number}");
    match happening {
        Happening::Out { container, port, remote } => {
            let inner = at(container.ip::<F>(), *port);
            let arrival = say(memory, egress(*container), inner, *remote, &text);
            check_text(&arrival, &text)?;
            let seen = arrival.tuple();
            prop_assert_eq!((seen.from.ip(), seen.to), (F::HOST, *remote));
            let clock = nat.clock;
            if let Some(entry) = nat.outbound(inner, *remote) {
                prop_assert_eq!(seen.from, entry.outer, "one port for one conversation");
                entry.is_confirmed |= entry.is_replied;
                entry.seen = clock;
                return Ok(());
            }
            let is_free = nat.inbound(*remote, at(F::HOST, *port)).is_none();
            prop_assert_eq!(seen.from.port() == *port, is_free, "a port is kept when it is free");
            prop_assert!(nat.inbound(*remote, seen.from).is_none(), "a port that another has");
            nat.entries.push(Entry {
                container: *container,
                inner,
                outer: seen.from,
                remote: *remote,
                is_replied: false,
                is_confirmed: false,
                seen: clock,
            });
        }
        Happening::In { remote, of, stray } => {
            let known = (!nat.entries.is_empty()).then(|| of.get(&nat.entries).outer);
            let Some(outer) = stray.map(|port| at(F::HOST, port)).or(known) else { return Ok(()) };
            let arrival = say(memory, Hook::Uplink, *remote, outer, &text);
            let clock = nat.clock;
            match nat.inbound(*remote, outer) {
                Some(entry) => {
                    check_text(&arrival, &text)?;
                    let seen = arrival.tuple();
                    prop_assert_eq!(arrival.way_back(), Some(egress(entry.container)));
                    prop_assert_eq!((seen.from, seen.to), (*remote, entry.inner));
                    entry.is_replied = true;
                    entry.seen = clock;
                }
                None => prop_assert_eq!(arrival.verdict, Verdict::Pass, "the host's affair"),
            }
        }
        Happening::Sleep(seconds) => {
            memory.sleep(*seconds);
            nat.clock += seconds;
            // Who is silent for too long may be met again before the collector comes: for the comparison it comes at once.
            collect(memory);
            nat.expire();
        }
        Happening::Collect => {
            collect(memory);
        }
    }
    prop_assert_eq!(flows(memory).len(), nat.entries.len());
    Ok(())
}

fn what_a_naive_nat_would_deliver_is_delivered_and_nothing_else<F: TestFamily>() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(happenings in vec(happenings::<F>(), 1..200))| {
        let memory = Memory::new(1024);
        let mut nat = Reference::default();
        for (number, happening) in happenings.iter().enumerate() {
            happens::<F>(&memory, &mut nat, number, happening)?;
        }
    });
}
