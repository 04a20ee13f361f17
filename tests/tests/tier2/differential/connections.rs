//! TCP connections of real sockets, with generated conversations.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netbpf_tests::place::Place;
use netbpf_tests::version::Version;
use netbpf_tests::wait::{poll, scaled, uninterrupted};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use socket2::{SockRef, Type};

use super::record::SILENT;
use super::site::{C1, C2, EXT, GATEWAY, HOST, LOOPBACK, NOBODY, PROHIBITED, Site, Spot, UNREACHABLE, at};
use super::stage::{Machine, PATIENCE, Stage, failure, is_way, named, own_port, pattern, seen_as};

/// Conversations per way.
const SCRIPTS: usize = 8;
/// A kernel that looks for a neighbour in vain gives up after three seconds.
const NEIGHBOUR: Duration = Duration::from_secs(5);

/// Who connects where, and who listens.
type Way = (&'static str, Machine, Spot, Option<(Machine, u16)>);

const WAYS: [Way; 28] = {
    use Machine::*;
    [
        ("c1 to ext", C1, at(EXT, 90), Some((Ext, 90))),
        ("c1 to c2", C1, at(C2_IP, 80), Some((C2, 80))),
        ("c2 to c1", C2, at(C1_IP, 80), Some((C1, 80))),
        ("ext to a published port", Ext, at(HOST, 8080), Some((C1, 80))),
        ("ext to a published port of c2", Ext, at(HOST, 9080), Some((C2, 80))),
        ("c2 to a published port of c1", C2, at(HOST, 8080), Some((C1, 80))),
        ("c2 to a published port of c1 by the gateway", C2, at(GATEWAY, 8080), Some((C1, 80))),
        ("c1 to its own published port", C1, at(HOST, 8080), Some((C1, 80))),
        ("c1 to its own published port by the gateway", C1, at(GATEWAY, 8080), Some((C1, 80))),
        ("host to a published port", Host, at(HOST, 8080), Some((C1, 80))),
        ("host to a published port at 127.0.0.1", Host, at(LOOPBACK, 8080), Some((C1, 80))),
        ("host to c1", Host, at(C1_IP, 80), Some((C1, 80))),
        ("host to ext", Host, at(EXT, 90), Some((Ext, 90))),
        ("c1 to the host", C1, at(HOST, 70), Some((Host, 70))),
        ("c1 to the gateway", C1, at(GATEWAY, 70), Some((Host, 70))),
        ("ext to the host", Ext, at(HOST, 70), Some((Host, 70))),
        ("ext to c1's own address", Ext, at(C1_IP, 80), Some((C1, 80))),
        ("c1 to a closed port of ext", C1, at(EXT, 9), None),
        ("c1 to a closed port of c2", C1, at(C2_IP, 9), None),
        ("c1 to a closed port of the host", C1, at(HOST, 9), None),
        ("ext to a published port without listener", Ext, at(HOST, 8081), None),
        ("c2 to a published port without listener", C2, at(HOST, 8081), None),
        ("c1 to its own published port without listener", C1, at(HOST, 8081), None),
        ("host to a published port without listener", Host, at(HOST, 8081), None),
        ("ext to a port of nobody", Ext, at(HOST, 7000), None),
        ("c1 to nobody", C1, at(NOBODY, 80), None),
        ("c1 to where ext has no route", C1, at(UNREACHABLE, 80), None),
        ("c1 to where ext lets nobody", C1, at(PROHIBITED, 80), None),
    ]
};
const C1_IP: Site = C1;
const C2_IP: Site = C2;

/// A connection and what is said on it.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) name: String,
    client: Machine,
    port: u16,
    to: Spot,
    server: Option<(Machine, u16)>,
    script: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Client,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Say(usize),
    HalfClose,
    Close,
    Abort,
}

type Step = (End, Deed);

/// The same exchanges every time.
pub(super) fn generate(version: Version) -> Vec<Exchange> {
    let mut runner = TestRunner::deterministic();
    let deed = prop_oneof![
        5 => select(&[1, 100, 1460, 5000, 40_000][..]).prop_map(Deed::Say),
        2 => Just(Deed::HalfClose),
        1 => Just(Deed::Close),
        1 => Just(Deed::Abort),
    ];
    let conversations = prop::collection::vec((select(&[End::Client, End::Server][..]), deed), 1..8);
    let mut exchanges = Vec::new();
    for (name, client, to, server) in WAYS.into_iter().filter(|(_, _, to, _)| is_way(version, *to)) {
        let is_closed_to_ext = client == Machine::Ext && to.site == C1_IP;
        let scripts_here = if server.is_some() && !is_closed_to_ext { SCRIPTS } else { 1 };
        for n in 0..scripts_here {
            let number = exchanges.len() as u16;
            let port = own_port(number, n);
            let script = conversations.new_tree(&mut runner).expect("a script").current();
            let name = format!("tcp {name} ({n})");
            exchanges.push(Exchange { name, client, port, to, server, script: possible(script) });
        }
    }
    exchanges
}

/// Leaves out what cannot be done: nobody speaks after he has closed.
fn possible(script: Vec<Step>) -> Vec<Step> {
    let mut silent = Vec::new();
    let mut steps = Vec::new();
    for (end, deed) in script {
        if silent.contains(&end) {
            continue;
        }
        steps.push((end, deed));
        match deed {
            Deed::Say(_) => {}
            Deed::Abort => break,
            Deed::Close | Deed::HalfClose => silent.push(end),
        }
    }
    steps
}

/// Does it, and notes what each end sees.
pub(super) fn run(stage: &mut Stage<'_>, exchange: &Exchange) {
    let Exchange { name, client, port, to, server, script } = exchange;
    let (client, to) = (stage.place(*client), to.of(stage.version));
    let listener = server.map(|(server, port)| listen(stage.place(server), port));
    let made = connect(client, *port, to);
    stage.record.note(name, "connect", made.as_ref().map_or_else(failure, |_| "ok".into()));
    let Ok(near) = made else { return };
    stage.record.note(name, "the client's peer", named(near.peer_addr().expect("it is connected")));
    let Some(listener) = listener else { return };
    let accepted = accept(&listener);
    let Ok(far) = accepted else {
        return stage.record.note(name, "accept", accepted.map_or_else(|error| failure(&error), |_| String::new()));
    };
    let own = near.local_addr().expect("it is connected").port();
    stage.record.note(name, "the server's peer", seen_as(far.peer_addr().expect("it is connected"), own));
    let mut ends = [Some(near), Some(far)];
    for (n, (end, deed)) in script.iter().enumerate() {
        let seen = act(&mut ends, *end, *deed);
        stage.record.note(name, format!("{}: {end:?} {deed:?}", n + 1), seen);
    }
    let closed_by_server = ends[1].is_none() && ends[0].is_some();
    drop(ends);
    if closed_by_server {
        let again = connect(client, *port, to).and_then(|_near| accept(&listener));
        stage.record.note(name, "the same port again", again.map_or_else(|error| failure(&error), |_| "ok".into()));
    }
    // The process that makes the host's sockets may have a descriptor of it still.
    SockRef::from(&listener).shutdown(Shutdown::Both).expect("it listened");
    drop(listener);
    let late = connect(client, 0, to);
    stage.record.note(name, "after the server has stopped", late.map_or_else(|error| failure(&error), |_| "ok".into()));
}

fn listen(place: &Place, port: u16) -> TcpListener {
    // The process that makes the host's sockets closes its own descriptor of one a little later.
    let listener = poll(|| place.listen(place.version().everywhere(port)).ok());
    let listener = listener.unwrap_or_else(|| panic!("port {port} stays taken"));
    SockRef::from(&listener).set_read_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    listener
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    patient(&stream);
    Ok(stream)
}

fn connect(place: &Place, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = place.socket(place.version().domain(), Type::STREAM, None);
    if port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&place.version().everywhere(port).into())?;
    }
    socket.connect_timeout(
        &to.into(),
        if to.ip() == NOBODY.of(place.version()) { scaled(NEIGHBOUR) } else { scaled(PATIENCE) },
    )?;
    let stream = TcpStream::from(socket);
    patient(&stream);
    Ok(stream)
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    stream.set_write_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
}

/// Does something at one end; what the other end sees of it, or this end when there is no other any more.
fn act(ends: &mut [Option<TcpStream>; 2], end: End, deed: Deed) -> String {
    if end == End::Server {
        ends.reverse();
    }
    let [own, other] = ends;
    let stream = own.as_mut().expect("nobody acts after he has closed");
    let seen = match deed {
        Deed::Say(length) => match (stream.write_all(&pattern(length)), other) {
            (Err(error), _) => format!("cannot: {}", failure(&error)),
            (Ok(()), Some(other)) => hear(other, length),
            // The second write or a read tells what became of the first.
            (Ok(()), None) => format!("nobody is there: {}", hear(stream, 1)),
        },
        Deed::HalfClose => match (stream.shutdown(Shutdown::Write), other) {
            (Err(error), _) => format!("cannot: {}", failure(&error)),
            (Ok(()), other) => other.as_mut().map_or_else(|| SILENT.into(), |other| hear(other, 1)),
        },
        Deed::Close | Deed::Abort => {
            if deed == Deed::Abort {
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).expect("an option");
            }
            *own = None;
            other.as_mut().map_or_else(|| SILENT.into(), |other| hear(other, 1))
        }
    };
    if end == End::Server {
        ends.reverse();
    }
    seen
}

fn hear(stream: &mut TcpStream, length: usize) -> String {
    let mut heard = vec![0; length];
    let mut done = 0;
    while done < length {
        match uninterrupted(|| stream.read(&mut heard[done..])) {
            Ok(0) if done == 0 => return "the end".into(),
            Ok(0) => return format!("{done} bytes, then the end"),
            Ok(more) => done += more,
            Err(error) if done == 0 => return failure(&error),
            Err(error) => return format!("{done} bytes, then {}", failure(&error)),
        }
    }
    if heard == pattern(length) { format!("{length} bytes") } else { format!("{length} other bytes") }
}
