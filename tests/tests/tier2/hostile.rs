//! Frames that nobody should send.

use std::net::{Ipv4Addr, SocketAddr};

use etherparse::ArpOperation;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::{BROADCAST, Datagram, Ethernet, Mac};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::wait::{SILENCE, SOON, uninterrupted, until};

use crate::lab::{Container, Lab, Sysctls};

/// A container with a raw socket on its device.
struct Attacker {
    container: Container,
    link: Link,
    gateway: Mac,
}

impl Attacker {
    fn new(lab: &Lab) -> Self {
        let container = lab.container("attacker", &[]);
        let link = Link::open(&container.place, "eth0");
        let gateway = lab.gateway_mac(&container);
        Self { container, link, gateway }
    }

    fn to_gateway(&self) -> Ethernet {
        Ethernet { from: self.link.mac, to: self.gateway }
    }
}

/// Whether a datagram with this payload arrives.
fn arrives(link: &Link, payload: &[u8]) -> bool {
    let found = link.find(SILENCE, |frame| Datagram::parse(frame).filter(|datagram| datagram.payload == payload));
    found.is_some()
}

#[track_caller]
fn dropped(lab: &Lab, reason: &str, count: u64) {
    until(&format!("{count} drops for {reason}"), || lab.drops(reason) == count);
}

fn a_tagged_frame_of_a_container_goes_nowhere_and_is_counted<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let victim = lab.container("victim", &[]);
    let (wire, inside) = (lab.ext_link(), Link::open(&victim.place, "eth0"));
    let from = attacker.container.at(20_000);
    attacker.link.send(&attacker.to_gateway().tagged_udp(77, from, lab.at_ext(90), b"out of the VLAN"));
    attacker.link.send(&attacker.to_gateway().tagged_udp(77, from, victim.at(90), b"out of the VLAN"));
    dropped(&lab, "vlan-tag", 2);
    // The kernel hands a tag over beside the frame, so that any frame that arrives can be read.
    assert!(!arrives(&wire, b"out of the VLAN"));
    assert!(!arrives(&inside, b"out of the VLAN"));
}

fn a_tagged_frame_from_outside_does_not_match_a_publish<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let (wire, inside) = (lab.ext_link(), Link::open(&c1.place, "eth0"));
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    let from = lab.at_ext(5000);
    wire.send(&ethernet.tagged_udp(77, from, lab.at_host(5353), b"of another network"));
    assert!(!arrives(&inside, b"of another network"));
    wire.send(&ethernet.udp(from, lab.at_host(5353), b"of this network"));
    assert!(arrives(&inside, b"of this network"));
}

fn a_frame_for_another_machine_does_not_match_a_publish<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let (wire, inside) = (lab.ext_link(), Link::open(&c1.place, "eth0"));
    let from = lab.at_ext(5000);
    for to in [[2, 0xde, 0xad, 0, 0, 1], BROADCAST, [1, 0, 0x5e, 0, 0, 1]] {
        let ethernet = Ethernet { from: wire.mac, to };
        wire.send(&ethernet.udp(from, lab.at_host(5353), b"for somebody else"));
        assert!(!arrives(&inside, b"for somebody else"), "{to:02x?}");
    }
}

fn a_spoofed_source_address_is_dropped_and_counted<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let victim = lab.container("victim", &[]);
    let (wire, inside) = (lab.ext_link(), Link::open(&victim.place, "eth0"));
    let sources = [victim.ip, lab.gateway(), lab.host_ip, lab.ext_ip, Ipv4Addr::LOCALHOST, Ipv4Addr::new(9, 9, 9, 9)];
    for source in sources {
        let from = SocketAddr::new(source, 20_000);
        attacker.link.send(&attacker.to_gateway().udp(from, lab.at_ext(90), b"not mine"));
        attacker.link.send(&attacker.to_gateway().udp(from, victim.at(90), b"not mine"));
    }
    dropped(&lab, "spoofed-address", 2 * sources.len() as u64);
    assert!(!arrives(&wire, b"not mine"));
    assert!(!arrives(&inside, b"not mine"));
}

fn a_spoofed_mac_address_is_dropped_and_counted<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let victim = lab.container("victim", &[]);
    let wire = lab.ext_link();
    for from in [parse_mac(&victim.mac), attacker.gateway, [2, 0, 0, 0, 0, 9]] {
        let ethernet = Ethernet { from, to: attacker.gateway };
        attacker.link.send(&ethernet.udp(attacker.container.at(20_000), lab.at_ext(90), b"under another MAC"));
    }
    dropped(&lab, "spoofed-mac", 3);
    assert!(!arrives(&wire, b"under another MAC"));
}

fn arp_replies(link: &Link, of: Ipv4Addr) -> Option<Mac> {
    link.find(SILENCE, |frame| {
        let reply = frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2] && frame[28..32] == of.octets();
        reply.then(|| frame[22..28].try_into().expect("six bytes"))
    })
}

#[test]
fn the_gateway_and_neighbours_are_resolved<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let asker = Attacker::new(&lab);
    let neighbour = lab.container("neighbour", &[]);
    let ethernet = Ethernet { from: asker.link.mac, to: BROADCAST };
    asker.link.send(&ethernet.arp_request(asker.container.ip, lab.gateway()));
    assert_eq!(arp_replies(&asker.link, lab.gateway()), Some(asker.gateway));
    asker.link.send(&ethernet.arp_request(asker.container.ip, neighbour.ip));
    assert!(arp_replies(&asker.link, neighbour.ip).is_some());
}

#[test]
fn nobody_answers_for_ones_own_address_or_for_an_address_elsewhere<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let asker = Attacker::new(&lab);
    let own = asker.container.ip;
    let ethernet = Ethernet { from: asker.link.mac, to: BROADCAST };
    // Duplicate address detection (RFC 5227), then the announcement.
    asker.link.send(&ethernet.arp_request(Ipv4Addr::UNSPECIFIED, own));
    asker.link.send(&ethernet.arp_request(own, own));
    assert_eq!(arp_replies(&asker.link, own), None);
    asker.link.send(&ethernet.arp_request(own, lab.ext_ip));
    assert_eq!(arp_replies(&asker.link, lab.ext_ip), None);
}

#[test]
fn lies_about_neighbours_are_dropped_counted_and_believed_by_nobody<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let liar = Attacker::new(&lab);
    let (victim, peer) = (lab.container("victim", &[]), lab.container("peer", &[]));
    let _server = Server::tcp(&peer.place, "peer", 80);
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
    let neighbours = |place: &Place| place.command("ip", &["neigh", "show"]);
    let liar_mac = &liar.container.mac;

    let to_victim = Ethernet { from: liar.link.mac, to: parse_mac(&victim.mac) };
    let to_all = Ethernet { from: liar.link.mac, to: BROADCAST };
    liar.link.send(&to_victim.arp_reply(peer.ip, victim.ip));
    liar.link.send(&to_victim.arp_reply(lab.gateway(), victim.ip));
    liar.link.send(&to_all.arp_request(peer.ip, peer.ip));
    liar.link.send(&to_all.arp_request(lab.gateway(), victim.ip));
    let foreign = parse_mac(&peer.mac);
    liar.link.send(&to_all.arp(ArpOperation::REQUEST, foreign, liar.container.ip, [0; 6], victim.ip));
    dropped(&lab, "spoofed-neighbour", 5);
    assert!(!neighbours(&victim.place).contains(liar_mac));
    assert!(!neighbours(&lab.host).contains(liar_mac));
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
}

fn outside_cannot_reach_a_container_address_directly<F: TestFamily>() {
    for sysctls in [Sysctls { ip_forward: false, rp_filter: 1 }, Sysctls { ip_forward: true, rp_filter: 0 }] {
        let lab = Lab::with::<F>(sysctls);
        let c1 = lab.container("c1", &["-p", "8080:80"]);
        let server = Server::tcp(&c1.place, "c1", 80);
        let udp = Server::udp(&c1.place, "c1", 53);
        let (wire, inside) = (lab.ext_link(), Link::open(&c1.place, "eth0"));
        let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
        wire.send(&ethernet.syn(lab.at_ext(5000), c1.at(80), 1));
        wire.send(&ethernet.udp(lab.at_ext(5000), c1.at(53), b"straight to the container"));
        assert!(!arrives(&inside, b"straight to the container"));
        assert_eq!((server.answered(), udp.answered()), (0, 0));
    }
}

fn outside_cannot_pretend_to_be_a_container<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &["-p", "5353:53/udp"]), lab.container("c2", &[]));
    let (wire, inside) = (lab.ext_link(), Link::open(&c1.place, "eth0"));
    // A flow of c2 stands, which a packet with c2's source address must not find from outside.
    let _server = Server::udp(&c1.place, "c1", 53);
    let client = c2.place.udp(c2.at(20_000)).expect("bound");
    ask_udp(&client, c1.at(53)).expect("answered");
    ask_udp(&client, lab.at_host(5353)).expect("answered");
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    wire.send(&ethernet.udp(c2.at(20_000), c1.at(53), b"as c2"));
    assert!(!arrives(&inside, b"as c2"));
}

fn a_container_cannot_reach_what_is_no_machine<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let wire = lab.ext_link();
    let host = Link::open(&lab.host, "netbpf0");
    let targets = [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::new(224, 0, 0, 251),
    ];
    for target in targets {
        let to = SocketAddr::new(target, 90);
        attacker.link.send(&attacker.to_gateway().udp(attacker.container.at(20_000), to, b"to nobody"));
    }
    assert!(!arrives(&wire, b"to nobody"));
    assert!(!arrives(&host, b"to nobody"));
}

fn truncated_frames_are_dropped_and_leave_no_state<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let frame = attacker.to_gateway().syn(attacker.container.at(20_000), lab.at_ext(90), 1);
    let before = lab.event("flow-made");
    // AF_PACKET refuses frames shorter than the Ethernet header.
    for length in 15..frame.len() {
        attacker.link.send(&frame[..length]);
    }
    until("each is counted", || lab.drops("malformed") == (frame.len() - 15) as u64);
    assert_eq!(lab.event("flow-made"), before);
    let _server = Server::tcp(&lab.ext, "ext", 90);
    ask_tcp(&attacker.container.place, lab.at_ext(90)).expect("answered");
    assert!(netbpf_tests::wait::poll_for(SOON, || lab.problems().is_empty().then_some(())).is_some());
}

fn the_datapath_writes_into_the_agents_log_when_told_to_and_never_otherwise<F: TestFamily>() {
    let (told, quiet) = (Lab::configured::<F>("datapath_log = \"debug\"\n"), Lab::new::<F>());
    for lab in [&told, &quiet] {
        let attacker = Attacker::new(lab);
        let (from, to) = (attacker.container.at(4444), lab.at_ext(9999));
        attacker.link.send(&attacker.to_gateway().tagged_udp(77, from, to, b"tagged"));
        until("the frame is dropped", || lab.drops("vlan-tag") > 0);
    }
    until("the log says so", || told.log().contains("vlan-tag"));
    assert!(!quiet.log().contains("vlan-tag"), "{}", quiet.log());
}

fn nobody_outside_appears_to_the_host_as_127_0_0_1<F: TestFamily>() {
    // With reverse paths unfiltered, nothing but the datapath stands between.
    let lab = Lab::with::<F>(Sysctls { ip_forward: false, rp_filter: 0 });
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let service = lab.host.udp(lab.everywhere(7777)).expect("bound");
    service.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let link = lab.ext_link();
    let arriving = Ethernet { from: link.mac, to: lab.host_mac() };
    let before = lab.drops("martian");
    // The first of the virtual addresses stands for 127.0.0.1.
    let claimed = SocketAddr::new(Ipv4Addr::new(169, 254, 30, 1), 40_000);
    link.send(&arriving.udp(claimed, lab.at_host(7777), b"trust me"));
    link.send(&arriving.udp(lab.at_ext(40_000), lab.at_host(7777), b"honest"));
    let mut buffer = [0; 64];
    let (length, from) = uninterrupted(|| service.recv_from(&mut buffer)).expect("the honest one arrives");
    assert_eq!((&buffer[..length], from), (&b"honest"[..], lab.at_ext(40_000)));
    assert_eq!(lab.drops("martian"), before + 1);
    drop(c1);
}

fn a_frame_of_a_container_to_a_mac_address_that_nobody_has_there_goes_nowhere_and_is_counted<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let (victim, other) = (lab.container("victim", &[]), lab.container("other", &[]));
    let (wire, inside) = (lab.ext_link(), Link::open(&victim.place, "eth0"));
    let aside = Link::open(&other.place, "eth0");
    let from = attacker.container.at(20_000);
    let stray = [2, 0xde, 0xad, 0, 0, 1];
    for (to, receiver) in [
        (stray, lab.at_ext(90)),
        (stray, victim.at(90)),
        (parse_mac(&other.mac), victim.at(90)),
        (parse_mac(&other.mac), lab.at_ext(90)),
        (stray, lab.at_host(90)),
    ] {
        let ethernet = Ethernet { from: attacker.link.mac, to };
        attacker.link.send(&ethernet.udp(from, receiver, b"astray"));
    }
    dropped(&lab, "foreign-mac", 5);
    for link in [&wire, &inside, &aside] {
        assert!(!arrives(link, b"astray"));
    }
    assert_eq!(lab.flows(&attacker.container), []);
    let direct = Ethernet { from: attacker.link.mac, to: parse_mac(&victim.mac) };
    attacker.link.send(&direct.udp(from, victim.at(90), b"to its neighbour"));
    assert!(arrives(&inside, b"to its neighbour"));
}

for_both!(
    a_tagged_frame_of_a_container_goes_nowhere_and_is_counted,
    a_tagged_frame_from_outside_does_not_match_a_publish,
    a_frame_for_another_machine_does_not_match_a_publish,
    a_spoofed_source_address_is_dropped_and_counted,
    a_spoofed_mac_address_is_dropped_and_counted,
    outside_cannot_reach_a_container_address_directly,
    outside_cannot_pretend_to_be_a_container,
    a_container_cannot_reach_what_is_no_machine,
    truncated_frames_are_dropped_and_leave_no_state,
    the_datapath_writes_into_the_agents_log_when_told_to_and_never_otherwise,
    nobody_outside_appears_to_the_host_as_127_0_0_1,
    a_frame_of_a_container_to_a_mac_address_that_nobody_has_there_goes_nowhere_and_is_counted,
);
