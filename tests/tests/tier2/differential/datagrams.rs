//! UDP and echo of real sockets, small and in fragments, and what is told of those that do not arrive.

use std::net::UdpSocket;
use std::time::Duration;

use netbpf_tests::ping::Pinger;
use netbpf_tests::place::{forbid_fragments, set_hops};
use netbpf_tests::told::{Told, listen_for_errors, next_error, path_mtu};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{poll, scaled, silence, uninterrupted};
use nix::errno::Errno;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::record::SILENT;
use super::site::{C1, C2, EXT, FAR, GATEWAY, HOST, LOOPBACK, NOBODY, PROHIBITED, Site, Spot, UNREACHABLE, at, name};
use super::stage::{Machine, Stage, failure, is_way, named, own_port, pattern, seen_as};

const SCRIPTS: usize = 4;
/// A kernel that looks for a neighbour in vain gives up after three seconds.
const NEIGHBOUR: Duration = Duration::from_secs(4);

/// The last that goes whole is the last of the small ones.
fn small(version: Version) -> Vec<usize> {
    vec![0, 1, 512, 1400, 1492 - version.header_len()]
}

fn large(version: Version) -> Vec<usize> {
    vec![1493 - version.header_len(), 2960, 4000, 8000]
}

type Way = (&'static str, Machine, Spot, (Machine, u16));

const WAYS: [Way; 14] = {
    use Machine::{C1 as One, C2 as Two, Ext, Host};
    [
        ("c1 to ext", One, at(EXT, 53), (Ext, 53)),
        ("c1 to c2", One, at(C2, 53), (Two, 53)),
        ("c2 to c1", Two, at(C1, 53), (One, 53)),
        ("ext to a published port", Ext, at(HOST, 5353), (One, 53)),
        ("ext to a published port of c2", Ext, at(HOST, 9053), (Two, 53)),
        ("c2 to a published port of c1", Two, at(HOST, 5353), (One, 53)),
        ("c2 to a published port of c1 by the gateway", Two, at(GATEWAY, 5353), (One, 53)),
        ("c1 to its own published port", One, at(HOST, 5353), (One, 53)),
        ("host to a published port", Host, at(HOST, 5353), (One, 53)),
        ("host to a published port at 127.0.0.1", Host, at(LOOPBACK, 5353), (One, 53)),
        ("host to c1", Host, at(C1, 53), (One, 53)),
        ("c1 to the host", One, at(HOST, 71), (Host, 71)),
        ("c1 to the gateway", One, at(GATEWAY, 71), (Host, 71)),
        ("ext to c1's own address", Ext, at(C1, 53), (One, 53)),
    ]
};

/// Questions and answers of a client and a server.
pub(super) struct Exchange {
    pub(super) name: String,
    client: Machine,
    port: u16,
    to: Spot,
    server: (Machine, u16),
    is_connected: bool,
    lengths: Vec<(usize, usize)>,
}

/// The same exchanges every time.
pub(super) fn generate(version: Version) -> Vec<Exchange> {
    let mut runner = TestRunner::deterministic();
    let mut exchanges = Vec::new();
    for (kind, sizes) in [("udp", small(version)), ("large udp", large(version))] {
        let lengths = prop::collection::vec((select(sizes.clone()), select(sizes)), 1..4);
        for (way, client, to, server) in WAYS.into_iter().filter(|(_, _, to, _)| is_way(version, *to)) {
            let direct = client == Machine::Ext && to.site == C1;
            for n in 0..if direct { 1 } else { SCRIPTS } {
                let number = exchanges.len() as u16;
                exchanges.push(Exchange {
                    name: format!("{kind} {way} ({n})"),
                    client,
                    port: own_port(number, n),
                    to,
                    server,
                    is_connected: n % 2 == 1,
                    lengths: lengths.new_tree(&mut runner).expect("a script").current(),
                });
            }
        }
    }
    exchanges
}

/// Does it, and notes what each end sees.
pub(super) fn run(stage: &mut Stage<'_>, exchange: &Exchange) {
    let Exchange { name, client, port, to, server, is_connected, lengths } = exchange;
    let to = to.of(stage.version);
    let server = socket(stage, server.0, server.1);
    let client = socket(stage, *client, *port);
    if *is_connected {
        client.connect(to).expect("a route");
    }
    let own = client.local_addr().expect("it is bound").port();
    for (n, (question, answer)) in (1..).zip(lengths) {
        let sent =
            if *is_connected { client.send(&pattern(*question)) } else { client.send_to(&pattern(*question), to) };
        if let Err(error) = sent {
            return stage.record.note(name, format!("{n}: a question of {question}"), failure(&error));
        }
        let (heard, from) = hear(&server);
        stage.record.note(name, format!("{n}: a question of {question}"), heard);
        let Some(from) = from else { return };
        stage.record.note(name, format!("{n}: the server's peer"), seen_as(from, own));
        server.send_to(&pattern(*answer), from).expect("sent");
        let (heard, from) = hear(&client);
        let from = from.map_or(String::new(), |from| format!(" from {}", named(from)));
        stage.record.note(name, format!("{n}: an answer of {answer}"), heard + &from);
    }
}

pub(super) fn socket(stage: &Stage<'_>, machine: Machine, port: u16) -> UdpSocket {
    // The process that makes the host's sockets closes its own descriptor of one a little later.
    let made = poll(|| stage.place(machine).udp(stage.version.everywhere(port)).ok());
    let socket = made.unwrap_or_else(|| panic!("port {port} of {} stays taken", machine.name()));
    socket.set_read_timeout(Some(silence())).expect("a timeout");
    socket
}

pub(super) fn hear(socket: &UdpSocket) -> (String, Option<std::net::SocketAddr>) {
    let mut buffer = vec![0; 65_536];
    match uninterrupted(|| socket.recv_from(&mut buffer)) {
        Ok((length, from)) if buffer[..length] == pattern(length) => (format!("{length} bytes"), Some(from)),
        Ok((length, from)) => (format!("{length} other bytes"), Some(from)),
        Err(error) => (failure(&error), None),
    }
}

/// Two containers that send from the same port to the same server.
pub(super) fn same_port(stage: &mut Stage<'_>) {
    let name = "udp c1 and c2 from the same port to ext";
    let server = socket(stage, Machine::Ext, 53);
    let clients = [Machine::C1, Machine::C2].map(|machine| (machine, socket(stage, machine, 30_999)));
    for (machine, client) in &clients {
        client.send_to(&pattern(10), at(EXT, 53).of(stage.version)).expect("sent");
        let (_, from) = hear(&server);
        let from = from.expect("it arrives");
        stage.record.note(name, format!("the server's peer for {}", machine.name()), seen_as(from, 30_999));
        server.send_to(&pattern(20), from).expect("sent");
        stage.record.note(name, format!("the answer to {}", machine.name()), hear(client).0);
    }
}

/// Somebody who was not asked sends to a masqueraded socket.
pub(super) fn stranger(stage: &mut Stage<'_>) {
    let name = "udp to c1 from a port of ext that c1 has not asked";
    let [server, stranger] = [53, 54].map(|port| socket(stage, Machine::Ext, port));
    let client = socket(stage, Machine::C1, 30_998);
    client.send_to(&pattern(10), at(EXT, 53).of(stage.version)).expect("sent");
    let (_, mapped) = hear(&server);
    let mapped = mapped.expect("it arrives");
    listen_for_errors(&stranger);
    stranger.connect(mapped).expect("a route");
    stranger.send(&pattern(30)).expect("sent");
    let (heard, from) = hear(&client);
    let from = from.map_or(String::new(), |from| format!(" from {}", named(from)));
    stage.record.note(name, "c1 hears", heard + &from);
    stage.record.note(name, "the stranger is told", told(next_error(&stranger, silence())));
}

/// A datagram that does not arrive.
pub(super) struct Lost {
    pub(super) name: &'static str,
    client: Machine,
    to: Spot,
    ttl: u32,
    length: usize,
}

pub(super) const LOST: [Lost; 19] = {
    use Machine::{C1 as One, C2 as Two, Ext, Host};
    const fn lost(name: &'static str, client: Machine, to: Spot, ttl: u32, length: usize) -> Lost {
        Lost { name, client, to, ttl, length }
    }
    [
        lost("error for c1 about a closed port of ext", One, at(EXT, 54), 64, 10),
        lost("error for c1 about a closed port of c2", One, at(C2, 54), 64, 10),
        lost("error for c1 about a closed port of the host", One, at(HOST, 54), 64, 10),
        lost("error for ext about a published port without listener", Ext, at(HOST, 5354), 64, 10),
        lost("error for c2 about a published port without listener", Two, at(HOST, 5354), 64, 10),
        lost("error for c1 about its own published port without listener", One, at(HOST, 5354), 64, 10),
        lost("error for the host about a published port without listener", Host, at(HOST, 5354), 64, 10),
        lost("error for the host about a closed port of c1", Host, at(C1, 54), 64, 10),
        lost("error for ext about a port of nobody", Ext, at(HOST, 7000), 64, 10),
        lost("error for ext about c1's own address", Ext, at(C1, 54), 64, 10),
        lost("error for c1 about ext with ttl 1", One, at(EXT, 53), 1, 10),
        lost("error for c1 about far with ttl 2", One, at(FAR, 53), 2, 10),
        lost("error for ext about a published port with ttl 1", Ext, at(HOST, 5353), 1, 10),
        lost("error for c2 about a published port with ttl 1", Two, at(HOST, 5353), 1, 10),
        lost("error for c1 about where ext has no route", One, at(UNREACHABLE, 53), 64, 10),
        lost("error for c1 about where ext lets nobody", One, at(PROHIBITED, 53), 64, 10),
        lost("error for c1 about a narrow way behind ext", One, at(FAR, 53), 64, 1400),
        lost("error for c1 about 2000 bytes that must not be fragmented", One, at(EXT, 53), 64, 2000),
        lost("error for c1 about nobody", One, at(NOBODY, 53), 64, 10),
    ]
};

/// Sends it and notes what the sender is told.
pub(super) fn lose(stage: &mut Stage<'_>, lost: &Lost) {
    let Lost { name, client, to, ttl, length } = lost;
    let client = socket(stage, *client, 0);
    listen_for_errors(&client);
    forbid_fragments(&client);
    set_hops(&client, *ttl);
    client.connect(to.of(stage.version)).expect("a route");
    let sent = client.send(&pattern(*length));
    stage.record.note(name, "send", sent.map_or_else(|error| failure(&error), |_| "ok".into()));
    let time = if to.site == NOBODY { scaled(NEIGHBOUR) } else { silence() };
    stage.record.note(name, "told", told(next_error(&client, time)));
    stage.record.note(name, "the MTU of the way", path_mtu(&client).to_string());
}

pub(super) fn told(error: Option<Told>) -> String {
    let Some(Told { kind, code, errno, info, offender }) = error else { return SILENT.into() };
    let by = offender.map_or_else(|| "the machine itself".into(), name);
    let mtu = if info > 0 { format!(", MTU {info}") } else { String::new() };
    format!("type {kind} code {code} by {by}: {:?}{mtu}", Errno::from_raw(errno))
}

/// An echo: who asks whom.
pub(super) const ECHOES: [(Machine, Site); 9] = {
    use Machine::{C1 as One, Ext, Host};
    [(One, EXT), (One, C2), (One, C1), (One, GATEWAY), (One, HOST), (Ext, HOST), (Ext, C1), (Host, C1), (Host, EXT)]
};

/// Pings of all sizes.
pub(super) fn echo(stage: &mut Stage<'_>, from: Machine, to: Site, is_large: bool) {
    let exchange =
        format!("{}echo from {} to {}", if is_large { "large " } else { "" }, from.name(), name(to.of(stage.version)));
    let pinger = Pinger::new(stage.place(from), 700);
    for (seq, length) in (1..).zip(if is_large { large(stage.version) } else { small(stage.version) }) {
        pinger.send(to.of(stage.version), seq, &pattern(length)).expect("sent");
        let reply = pinger.reply(silence()).map_or_else(
            || SILENT.into(),
            |(from, number, payload)| {
                let whole = number == seq && payload == pattern(length);
                format!("{} from {}", if whole { "the same" } else { "something else" }, name(from))
            },
        );
        stage.record.note(&exchange, format!("a reply to {length} bytes"), reply);
    }
}
