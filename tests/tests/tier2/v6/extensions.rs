//! Extension headers: looked through to a limit, and left as they are.

use std::net::SocketAddr;

use netbpf_tests::headers::Headers;
use netbpf_tests::link::Link;
use netbpf_tests::packet::extension::{DESTINATION, HOP_BY_HOP, ROUTING, extended};
use netbpf_tests::wait::{silence, soon};

use super::lab;
use crate::lab::{Attacker, dropped};

/// Six bytes of options that say nothing (RFC 8200 section 4.2).
const NOTHING: [u8; 6] = [1, 4, 0, 0, 0, 0];
/// A routing header whose stops lie behind, and one with a stop ahead.
const BEHIND: [u8; 6] = [0, 0, 0, 0, 0, 0];
const AHEAD: [u8; 6] = [0, 1, 0, 0, 0, 0];
/// How many there may be.
const LIMIT: usize = 5;

/// Who sends to whom the packet that ends with this payload, and how many bytes its headers have before the transport's.
fn seen(link: &Link, payload: &[u8]) -> Option<(SocketAddr, SocketAddr, usize)> {
    link.find(soon(), |frame| {
        let headers = Headers::read(frame)?;
        let datagram = frame.get(headers.transport.clone())?;
        let port = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
        let ends = || (SocketAddr::new(headers.source, port(0)), SocketAddr::new(headers.destination, port(2)));
        datagram.ends_with(payload).then(|| (ends().0, ends().1, headers.transport.start - 54))
    })
}

#[test]
fn packets_with_extension_headers_are_translated_both_ways_and_keep_them() {
    let lab = lab();
    let inside = Attacker::new(&lab);
    lab.done(&["publish", &inside.container.name, "-p", "5353:53/udp"]);
    let wire = lab.ext_link();
    let to_host = netbpf_tests::packet::Ethernet { from: wire.mac, to: lab.host_mac() };
    let (own, server) = (inside.container.at(20_000), lab.at_ext(90));
    for (says, kinds) in [
        ("of hops", &[(HOP_BY_HOP, NOTHING)][..]),
        ("of the destination", &[(DESTINATION, NOTHING)]),
        ("a way that lies behind", &[(ROUTING, BEHIND)]),
        ("all of them", &[(DESTINATION, NOTHING), (ROUTING, BEHIND), (DESTINATION, NOTHING), (HOP_BY_HOP, NOTHING)]),
        ("as many as there may be", &[(DESTINATION, NOTHING); LIMIT]),
    ] {
        let wrap = |frame: Vec<u8>| kinds.iter().fold(frame, |frame, (kind, body)| extended(frame, *kind, body));
        let extra = kinds.len() * 8;
        let out = format!("out {says}");
        inside.link.send(&wrap(inside.to_gateway().udp(own, server, out.as_bytes())));
        assert_eq!(seen(&wire, out.as_bytes()), Some((lab.at_host(20_000), server, extra)), "{out}");
        let back = format!("back {says}");
        wire.send(&wrap(to_host.udp(server, lab.at_host(20_000), back.as_bytes())));
        assert_eq!(seen(&inside.link, back.as_bytes()), Some((server, own, extra)), "{back}");
        let published = format!("published {says}");
        wire.send(&wrap(to_host.udp(lab.at_ext(5000), lab.at_host(5353), published.as_bytes())));
        let to = inside.container.at(53);
        assert_eq!(seen(&inside.link, published.as_bytes()), Some((lab.at_ext(5000), to, extra)), "{published}");
    }
    assert_eq!((lab.drops("extension-headers"), lab.drops("ip-option"), lab.drops("malformed")), (0, 0, 0));
}

#[test]
fn more_of_them_than_the_limit_and_ways_by_other_stops_are_dropped_by_name() {
    let lab = lab();
    let inside = Attacker::new(&lab);
    let wire = lab.ext_link();
    let frame = || inside.to_gateway().udp(inside.container.at(20_000), lab.at_ext(90), b"too much");
    inside.link.send(&(0..=LIMIT).fold(frame(), |frame, _| extended(frame, DESTINATION, &NOTHING)));
    dropped(&lab, "extension-headers", 1);
    inside.link.send(&extended(frame(), DESTINATION, &[0; 254]));
    dropped(&lab, "extension-headers", 2);
    inside.link.send(&extended(frame(), ROUTING, &AHEAD));
    dropped(&lab, "ip-option", 1);
    let leaked = wire.find(silence(), |frame| frame.ends_with(b"too much").then_some(()));
    assert_eq!(leaked, None);
    assert_eq!(lab.flows(&inside.container), []);
}
