//! UDP as programs see it.

use std::net::SocketAddr;

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Datagram, Ethernet};
use netbpf_tests::server::{Server, ask_udp, unanswered_udp};
use netbpf_tests::wait::{silence, soon, uninterrupted, until};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{Container, Lab, Offloads};

fn a_container_asks_outside_and_is_answered<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&lab.ext, "ext", 53);
    let client = c1.place.udp(SocketAddr::new(c1.ip, 20_000)).expect("bound");
    let (seen, from) = ask_udp(&client, lab.at_ext(53)).expect("answered");
    assert_eq!((seen.client, from), (lab.at_host(20_000), lab.at_ext(53)));
}

fn the_answer_of_a_published_port_comes_from_host_and_port<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let _server = Server::udp(&c1.place, "c1", 53);
    let client = lab.ext.any_udp();
    let (seen, from) = ask_udp(&client, lab.at_host(5353)).expect("answered");
    assert_eq!((seen.client.ip(), from), (lab.ext_ip, lab.at_host(5353)));
    assert_eq!(seen.client.port(), client.local_addr().expect("bound").port());
}

fn a_large_datagram_of_one_segment_arrives_whole<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let receiver = lab.ext.udp(lab.at_ext(90)).expect("bound");
    let payload = vec![0x5a; 1472];
    c1.place.any_udp().send_to(&payload, lab.at_ext(90)).expect("sent");
    let mut buffer = [0; 2048];
    let (length, _) = uninterrupted(|| receiver.recv_from(&mut buffer)).expect("received");
    assert_eq!(buffer[..length], payload);
}

fn a_client_that_never_stops_reaches_the_container_that_replaces_another<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let publish = ["-p", "5353:53/udp"];
    let old = lab.container("old", &publish);
    let old_server = Server::udp(&old.place, "old", 53);
    let client = lab.ext.any_udp();
    for _ in 0..3 {
        assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("answered").0.server, "old");
    }
    drop(old_server);
    lab.done(&["rm", "-f", &old.name]);
    assert!(unanswered_udp(&client, lab.at_host(5353), silence()), "nobody is there");

    let new = lab.container("new", &publish);
    let _new_server = Server::udp(&new.place, "new", 53);
    assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("the next datagram is answered").0.server, "new");
}

fn a_publish_that_moves_to_another_container_takes_its_clients_along<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &["-p", "5353:53/udp"]), lab.container("c2", &[]));
    let _first = Server::udp(&c1.place, "c1", 53);
    let _second = Server::udp(&c2.place, "c2", 5300);
    let client = lab.ext.any_udp();
    for _ in 0..3 {
        assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("answered").0.server, "c1");
    }
    lab.done(&["unpublish", &c1.name, "-p", "5353:53/udp"]);
    lab.done(&["publish", &c2.name, "-p", "5353:5300/udp"]);
    assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("answered").0.server, "c2");
}

fn a_port_that_the_host_has_answered_for_is_the_containers_once_it_is_published<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&c1.place, "c1", 53);
    let host_server = Server::udp(&lab.host, "host", 5353);
    let client = lab.ext.any_udp();
    assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("answered").0.server, "host");
    drop(host_server);
    lab.done(&["publish", &c1.name, "-p", "5353:53/udp"]);
    assert_eq!(ask_udp(&client, lab.at_host(5353)).expect("answered").0.server, "c1");
}

/// What stands on the wire at `link` of the datagram that carries this.
fn datagram(link: &Link, payload: &[u8]) -> Datagram {
    link.find(soon(), |frame| Datagram::parse(frame).filter(|datagram| datagram.payload == payload))
        .expect("the datagram arrives")
}

fn to_gateway(lab: &Lab, container: &Container) -> (Link, Ethernet) {
    let link = Link::open(&container.place, "eth0");
    let ethernet = Ethernet { from: link.mac, to: lab.gateway_mac(container) };
    (link, ethernet)
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let (inside, from_c1) = to_gateway(&lab, &c1);
    let outside = lab.ext_link();
    let from_ext = Ethernet { from: outside.mac, to: lab.host_mac() };
    let client = lab.at_ext(5000);

    outside.send(&from_ext.udp_without_checksum(client, lab.at_host(5353), b"no checksum, inwards"));
    let seen = datagram(&inside, b"no checksum, inwards");
    assert_eq!((seen.from, seen.to, seen.checksum), (client, c1.at(53), 0));
    inside.send(&from_c1.udp_without_checksum(c1.at(20_000), lab.at_ext(90), b"no checksum, outwards"));
    let seen = datagram(&outside, b"no checksum, outwards");
    assert_eq!((seen.from, seen.checksum), (lab.at_host(20_000), 0));
}

fn a_checksum_that_is_computed_to_zero_is_sent_as_ones<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let inside = Link::open(&c1.place, "eth0");
    let outside = lab.ext_link();
    let link = Ethernet { from: outside.mac, to: lab.host_mac() };
    let client = lab.at_ext(5000);
    // A word equal to the checksum of the rest makes the sum all ones, and its complement zero.
    let rest = Datagram::parse(&link.udp(client, c1.at(53), &[0, 0])).expect("UDP").checksum;
    let payload = rest.to_be_bytes();
    assert_eq!(Datagram::parse(&link.udp(client, c1.at(53), &payload)).expect("UDP").checksum, 0xffff);

    outside.send(&link.udp(client, lab.at_host(5353), &payload));
    assert_eq!(datagram(&inside, &payload).checksum, 0xffff);
}

fn segments_that_a_device_is_to_cut_keep_their_size_on_the_wire<F: TestFamily>() {
    const SEGMENT: usize = 1000;
    const SEGMENTS: usize = 20;
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    // The kernel cuts them where a network card would: veths never do.
    lab.offloads(Offloads::Off);
    let outside = lab.ext.udp(lab.at_ext(90)).expect("bound");
    let sender = c1.place.udp(c1.at(53)).expect("bound");
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).expect("an option");
    let payload: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|n| (n % 251) as u8).collect();
    sender.send_to(&payload, lab.at_ext(90)).expect("sent");
    let mut received = Vec::new();
    let mut buffer = [0; 65_536];
    for _ in 0..SEGMENTS {
        let (length, from) = uninterrupted(|| outside.recv_from(&mut buffer)).expect("a segment arrives");
        assert_eq!((length, from), (SEGMENT, lab.at_host(from.port())));
        received.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(received, payload);
}

fn segments_too_large_for_the_wire_do_not_leave_as_they_are<F: TestFamily>() {
    const SEGMENT: usize = 1400;
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    lab.host.command("ip", &["link", "set", "dev", &lab.uplink(), "mtu", "1300"]);
    let wire = lab.ext_link();
    let sender = c1.place.udp(c1.at(20_000)).expect("bound");
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).expect("an option");
    sender.send_to(&[0; SEGMENT * 10], lab.at_ext(90)).expect("sent");
    until("the sender was told", || lab.drops("too-big") == 1);
    let large = wire.find(silence(), |frame| (frame.len() > 1314).then_some(frame.len()));
    assert_eq!(large, None);
}

for_both!(
    a_container_asks_outside_and_is_answered,
    the_answer_of_a_published_port_comes_from_host_and_port,
    a_large_datagram_of_one_segment_arrives_whole,
    a_client_that_never_stops_reaches_the_container_that_replaces_another,
    a_publish_that_moves_to_another_container_takes_its_clients_along,
    a_port_that_the_host_has_answered_for_is_the_containers_once_it_is_published,
    a_checksum_that_is_computed_to_zero_is_sent_as_ones,
    segments_that_a_device_is_to_cut_keep_their_size_on_the_wire,
    segments_too_large_for_the_wire_do_not_leave_as_they_are,
);
