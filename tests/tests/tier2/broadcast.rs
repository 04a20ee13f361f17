//! Broadcast and multicast inside a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::Headers;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::{Datagram, Ethernet, IcmpError, icmp};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_udp};
use netbpf_tests::told::{listen_for_errors, next_error};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, uninterrupted, until};

use nix::net::if_::if_nametoindex;

use crate::lab::{Attacker, Lab, dropped};

const PORT: u16 = 5353;

/// Where a container speaks to all members of its network; the last is a group that they have joined.
fn everybody<F: TestFamily>() -> Vec<IpAddr> {
    match F::GROUP {
        IpAddr::V4(_) => vec![Ipv4Addr::BROADCAST.into(), Ipv4Addr::new(172, 30, 255, 255).into(), F::GROUP],
        IpAddr::V6(_) => vec![Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(), F::GROUP],
    }
}

/// Such an address, as a socket of the place sends to it.
fn at(place: &Place, to: IpAddr) -> SocketAddr {
    match to {
        IpAddr::V4(_) => SocketAddr::new(to, PORT),
        IpAddr::V6(to) => SocketAddrV6::new(to, PORT, 0, device(place)).into(),
    }
}

fn device(place: &Place) -> u32 {
    place.run(|| if_nametoindex("eth0")).expect("it has a device")
}

/// A socket that hears what is said to everybody and to the group.
fn listener<F: TestFamily>(place: &Place, own: IpAddr) -> UdpSocket {
    let socket = place.udp(place.version().everywhere(PORT)).expect("bound");
    let joined = match (F::GROUP, own) {
        (IpAddr::V4(group), IpAddr::V4(own)) => place.run(|| socket.join_multicast_v4(&group, &own)),
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, device(place)),
        _ => panic!("{own} in a lab of the other family"),
    };
    joined.expect("joined");
    socket
}

fn what_a_container_says_to_all_reaches_the_members_of_its_network_under_its_own_address_and_nobody_else<
    F: TestFamily,
>() {
    let lab = Lab::new::<F>();
    let names = ["c1", "c2", "c3", "c4"];
    let containers = names.map(|name| lab.container(name, &[]));
    let listeners: Vec<_> =
        containers[1..].iter().map(|container| listener::<F>(&container.place, container.ip)).collect();
    let outside = listener::<F>(&lab.ext, lab.ext_ip);
    let wire = lab.ext_link();
    let speaker = containers[0].place.udp(containers[0].at(PORT)).expect("bound");
    if lab.version == Version::V4 {
        speaker.set_broadcast(true).expect("an option");
    }
    for to in everybody::<F>() {
        let said = to.to_string();
        speaker.send_to(said.as_bytes(), at(&containers[0].place, to)).expect("sent");
        for listener in &listeners {
            let mut buffer = [0; 64];
            let (length, from) = uninterrupted(|| listener.recv_from(&mut buffer)).expect("every member hears it");
            assert_eq!((&buffer[..length], from), (said.as_bytes(), containers[0].at(PORT)));
        }
    }
    let leaked = wire.find(silence(), |frame| Datagram::parse(frame).filter(|datagram| datagram.to.port() == PORT));
    assert_eq!(leaked, None);
    outside.set_nonblocking(true).expect("an option");
    assert!(uninterrupted(|| outside.recv(&mut [0; 64])).is_err());
    assert_eq!(lab.event("replicated"), 3 * everybody::<F>().len() as u64);
}

fn members_that_come_and_go_are_followed<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let speaker = c1.place.udp(c1.at(PORT)).expect("bound");
    if lab.version == Version::V4 {
        speaker.set_broadcast(true).expect("an option");
    }
    let say = || speaker.send_to(b"hello", at(&c1.place, everybody::<F>()[0])).expect("sent");
    say();
    assert_eq!(lab.event("replicated"), 0, "there is nobody");
    let c2 = lab.container("c2", &[]);
    let c3 = lab.container("c3", &[]);
    let hears = listener::<F>(&c3.place, c3.ip);
    say();
    uninterrupted(|| hears.recv(&mut [0; 64])).expect("heard");
    until("the other got a copy as well", || lab.event("replicated") == 2);
    lab.done(&["rm", "-f", &c2.name]);
    say();
    uninterrupted(|| hears.recv(&mut [0; 64])).expect("heard");
    assert_eq!(lab.event("replicated"), 3);
}

fn a_storm_is_held_down_by_name<F: TestFamily>() {
    let lab = Lab::configured::<F>("broadcast_rate = 10\n");
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let speaker = c1.place.udp(c1.at(PORT)).expect("bound");
    if lab.version == Version::V4 {
        speaker.set_broadcast(true).expect("an option");
    }
    for _ in 0..1000 {
        speaker.send_to(b"storm", at(&c1.place, everybody::<F>()[0])).expect("sent");
    }
    until("most of it is dropped", || lab.drops("broadcast-rate") > 900);
    assert!(lab.event("replicated") >= 10);
    let hears = listener::<F>(&c2.place, c2.ip);
    speaker.send_to(b"to one", c2.at(PORT)).expect("sent");
    assert_eq!(uninterrupted(|| hears.recv(&mut [0; 64])).expect("heard"), 6);
}

fn an_error_to_a_group_reaches_nobody_and_is_counted<F: TestFamily>() {
    const KINDS: [IcmpError; 7] = [
        IcmpError::HOST_UNREACHABLE,
        IcmpError::PORT_UNREACHABLE,
        IcmpError::PROHIBITED,
        IcmpError::fragmentation_needed(1280),
        IcmpError::TIME_EXCEEDED,
        IcmpError::PARAMETER_PROBLEM,
        IcmpError::PROTOCOL_UNREACHABLE,
    ];
    let lab = Lab::new::<F>();
    let attacker = Attacker::new(&lab);
    let victim = lab.container("victim", &[]);
    let _dns = Server::udp(&lab.ext, "ext", 53);
    let client = victim.place.udp(victim.at(20_000)).expect("bound");
    listen_for_errors(&client);
    ask_udp(&client, lab.at_ext(53)).expect("answered");
    let (inside, wire, host) = (Link::open(&victim.place, "eth0"), lab.ext_link(), Link::open(&lab.host, "netbpf0"));
    // About what the victim has sent: it would be believed.
    let about = attacker.to_gateway().udp(victim.at(20_000), lab.at_ext(53), b"a question");
    let mut sent = 0;
    for to in [F::GROUP_MAC, attacker.gateway, parse_mac(&victim.mac)] {
        for (kind, group) in KINDS.into_iter().flat_map(|kind| everybody::<F>().into_iter().map(move |to| (kind, to))) {
            let ethernet = Ethernet { from: attacker.link.mac, to };
            attacker.link.send(&ethernet.icmp_error(attacker.container.ip, group, 255, kind, &about[14..]));
            sent += 1;
        }
    }
    dropped(&lab, "icmp-error", sent);
    for (name, link) in [("the victim", &inside), ("outside", &wire), ("the host", &host)] {
        let error = link.find(silence(), |frame| {
            Headers::read(frame).filter(|it| it.source == attacker.container.ip && it.protocol == icmp(it.source))
        });
        assert!(error.is_none(), "{name}: {error:?}");
    }
    assert_eq!(next_error(&client, silence()), None);
    ask_udp(&client, lab.at_ext(53)).expect("answered");
    let to_all = Ethernet { from: attacker.link.mac, to: F::GROUP_MAC };
    let group = SocketAddr::new(F::GROUP, PORT);
    attacker.link.send(&to_all.udp(attacker.container.at(PORT), group, b"no error"));
    let heard =
        inside.find(silence(), |frame| Datagram::parse(frame).filter(|datagram| datagram.payload == b"no error"));
    assert!(heard.is_some(), "what is no error is heard");
}

for_both!(
    an_error_to_a_group_reaches_nobody_and_is_counted,
    what_a_container_says_to_all_reaches_the_members_of_its_network_under_its_own_address_and_nobody_else,
    members_that_come_and_go_are_followed,
    a_storm_is_held_down_by_name,
);
