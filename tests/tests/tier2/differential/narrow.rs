//! A wire that has become narrower than what the ends of it believe.

use std::net::UdpSocket;

use netbpf_tests::place::forbid_fragments;
use netbpf_tests::told::{always_fragment, listen_for_errors, next_error, path_mtu};
use netbpf_tests::wait::silence;

use super::datagrams::{hear, socket, told};
use super::site::{EXT, HOST, at};
use super::stage::{Machine, Stage, failure, named, pattern};

/// What the host's device to the outside takes in the end.
const MTU: u16 = 1400;
/// More than that, with its headers.
const LENGTH: usize = 1450;

/// How a socket has its datagrams fragmented.
type Choice = fn(&UdpSocket);

/// Datagrams that c1 sends through it, by themselves and as answers of a published port.
pub(super) fn run(stage: &mut Stage<'_>) {
    stage.narrow(MTU);
    stage.forget_ways();
    let ways: [(&str, Choice); 3] =
        [("never", forbid_fragments), ("if it must be", |_| ()), ("always", always_fragment)];
    for (word, choose) in ways {
        let name = format!("narrow wire, c1 to ext, {word} in fragments");
        let server = socket(stage, Machine::Ext, 53);
        let client = socket(stage, Machine::C1, 0);
        listen_for_errors(&client);
        choose(&client);
        client.connect(at(EXT, 53).of(stage.version)).expect("a route");
        for n in ["the first", "the second"] {
            let sent = client.send(&pattern(LENGTH));
            stage.record.note(&name, format!("{n}: send"), sent.map_or_else(|error| failure(&error), |_| "ok".into()));
            stage.record.note(&name, format!("{n}: ext hears"), hear(&server).0);
            stage.record.note(&name, format!("{n}: c1 is told"), told(next_error(&client, silence())));
            stage.record.note(&name, format!("{n}: the MTU of the way"), path_mtu(&client).to_string());
        }
        stage.forget_ways();
    }
    let name = "narrow wire, a published port to ext";
    let server = socket(stage, Machine::C1, 53);
    let client = socket(stage, Machine::Ext, 0);
    for n in ["the first", "the second"] {
        client.send_to(&pattern(10), at(HOST, 5353).of(stage.version)).expect("sent");
        let (_, asker) = hear(&server);
        server.send_to(&pattern(LENGTH), asker.expect("it arrives")).expect("sent");
        let (heard, from) = hear(&client);
        let from = from.map_or(String::new(), |from| format!(" from {}", named(from)));
        stage.record.note(name, format!("{n}: ext hears"), heard + &from);
    }
}
