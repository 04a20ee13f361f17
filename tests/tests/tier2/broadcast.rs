//! Broadcast and multicast inside a network.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::packet::Datagram;
use netbpf_tests::place::Place;
use netbpf_tests::wait::{SILENCE, uninterrupted, until};

use crate::lab::Lab;

const PORT: u16 = 5353;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// A socket that hears what is said to everybody and to the group.
fn listener(place: &Place, own: Ipv4Addr) -> UdpSocket {
    let socket = place.udp(lab.everywhere(PORT)).expect("bound");
    place.run(|| socket.join_multicast_v4(&GROUP, &own)).expect("joined");
    socket
}

#[test]
fn what_a_container_says_to_all_reaches_the_members_of_its_network_under_its_own_address_and_nobody_else<
    F: TestFamily,
>() {
    let lab = Lab::new::<F>();
    let names = ["c1", "c2", "c3", "c4"];
    let containers = names.map(|name| lab.container(name, &[]));
    let listeners: Vec<_> = containers[1..].iter().map(|container| listener(&container.place, container.ip)).collect();
    let outside = listener(&lab.ext, lab.ext_ip);
    let wire = lab.ext_link();
    let speaker = containers[0].place.udp(containers[0].at(PORT)).expect("bound");
    speaker.set_broadcast(true).expect("an option");
    for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 30, 255, 255), GROUP] {
        let said = to.to_string();
        speaker.send_to(said.as_bytes(), SocketAddr::new(to, PORT)).expect("sent");
        for listener in &listeners {
            let mut buffer = [0; 64];
            let (length, from) = uninterrupted(|| listener.recv_from(&mut buffer)).expect("every member hears it");
            assert_eq!((&buffer[..length], from), (said.as_bytes(), containers[0].at(PORT)));
        }
    }
    let leaked = wire.find(SILENCE, |frame| Datagram::parse(frame).filter(|datagram| datagram.to.port() == PORT));
    assert_eq!(leaked, None);
    outside.set_nonblocking(true).expect("an option");
    assert!(uninterrupted(|| outside.recv(&mut [0; 64])).is_err());
    assert_eq!(lab.event("replicated"), 9);
}

fn members_that_come_and_go_are_followed<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let speaker = c1.place.udp(c1.at(PORT)).expect("bound");
    speaker.set_broadcast(true).expect("an option");
    let say = || speaker.send_to(b"hello", SocketAddr::new(Ipv4Addr::BROADCAST, PORT)).expect("sent");
    say();
    assert_eq!(lab.event("replicated"), 0, "there is nobody");
    let c2 = lab.container("c2", &[]);
    let c3 = lab.container("c3", &[]);
    let hears = listener(&c3.place, c3.ip);
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
    speaker.set_broadcast(true).expect("an option");
    for _ in 0..1000 {
        speaker.send_to(b"storm", SocketAddr::new(Ipv4Addr::BROADCAST, PORT)).expect("sent");
    }
    until("most of it is dropped", || lab.drops("broadcast-rate") > 900);
    assert!(lab.event("replicated") >= 10);
    let hears = listener(&c2.place, c2.ip);
    speaker.send_to(b"to one", c2.at(PORT)).expect("sent");
    assert_eq!(uninterrupted(|| hears.recv(&mut [0; 64])).expect("heard"), 6);
}

for_both!(members_that_come_and_go_are_followed, a_storm_is_held_down_by_name,);
