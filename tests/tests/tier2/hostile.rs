//! Frames that nobody should send.

use std::net::SocketAddr;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::{BROADCAST, Datagram, Ethernet};
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, soon, uninterrupted, until};

use crate::lab::{Attacker, Lab, Sysctls, dropped};

/// Whether a datagram with this payload arrives.
fn arrives(link: &Link, payload: &[u8]) -> bool {
    let found = link.find(silence(), |frame| Datagram::parse(frame).filter(|datagram| datagram.payload == payload));
    found.is_some()
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
    for to in [[2, 0xde, 0xad, 0, 0, 1], BROADCAST, F::GROUP_MAC] {
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
    let sources = [victim.ip, lab.gateway(), lab.host_ip, lab.ext_ip, lab.loopback(0).ip(), F::FAR];
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
    let targets: &[&str] = match lab.version {
        Version::V4 => &["127.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1", "224.0.0.251"],
        Version::V6 => &["::1", "::", "::ffff:198.18.0.2", "fe80::1", "ff02::1", "ff05::2"],
    };
    for target in targets {
        let to = SocketAddr::new(target.parse().expect("an address"), 90);
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
    assert!(netbpf_tests::wait::poll_for(soon(), || lab.problems().is_empty().then_some(())).is_some());
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
    service.set_read_timeout(Some(silence())).expect("a timeout");
    let link = lab.ext_link();
    let arriving = Ethernet { from: link.mac, to: lab.host_mac() };
    let before = lab.drops("martian");
    // The first of the virtual addresses stands for 127.0.0.1.
    let claimed = SocketAddr::new(lab.virtual_loopback(), 40_000);
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
