//! What the world sees of containers.

use std::thread;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, addresses};
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, converse};
use netbpf_tests::wait::silence;

use crate::lab::Lab;

fn outside_sees_the_hosts_address_and_the_source_port_is_kept_when_free<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&lab.ext, "ext", 90);
    let stream = c1.place.connect(lab.at_ext(90)).expect("connected");
    let port = stream.local_addr().expect("connected").port();
    assert!((16_384..=32_767).contains(&port), "ephemeral ports of containers lie in the NAT range, {port} does not");
    assert_eq!(converse(stream).expect("answered").client, lab.at_host(port));
}

fn a_source_port_outside_the_nat_range_is_kept_too<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&lab.ext, "ext", 90);
    let stream = c1.place.connect_from(5060, lab.at_ext(90)).expect("connected");
    assert_eq!(converse(stream).expect("answered").client, lab.at_host(5060));
}

fn two_containers_with_the_same_source_port_reach_the_same_destination<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let _tcp = Server::tcp(&lab.ext, "ext", 90);
    let _udp = Server::udp(&lab.ext, "ext", 90);

    let open = |from| Conversation::on(from).expect("greeted");
    let mut first = open(c1.place.connect_from(20_000, lab.at_ext(90)).expect("connected"));
    let mut second = open(c2.place.connect_from(20_000, lab.at_ext(90)).expect("connected"));
    assert_eq!(first.seen.client, lab.at_host(20_000));
    assert_eq!(second.seen.client.ip(), lab.host_ip);
    assert_ne!(second.seen.client.port(), 20_000);
    for _ in 0..3 {
        first.exchange(b"of the first").expect("its own echo");
        second.exchange(b"of the second").expect("its own echo");
    }

    let socket = |container: &crate::lab::Container| container.place.udp(container.at(20_000)).expect("bound");
    let (first, second) = (socket(&c1), socket(&c2));
    let (one, _) = ask_udp(&first, lab.at_ext(90)).expect("answered");
    let (other, _) = ask_udp(&second, lab.at_ext(90)).expect("answered");
    assert_eq!(one.client.port(), 20_000);
    assert_ne!(other.client.port(), 20_000);
    assert_eq!(ask_udp(&first, lab.at_ext(90)).expect("answered").0, one, "the mapping stays");
    assert_eq!(ask_udp(&second, lab.at_ext(90)).expect("answered").0, other, "the mapping stays");
}

fn a_process_of_the_host_and_a_container_do_not_steal_each_others_packets<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&lab.ext, "ext", 90);
    let open = |from| Conversation::on(from).expect("greeted");
    let mut host = open(lab.host.connect_from(5060, lab.at_ext(90)).expect("connected"));
    let mut container = open(c1.place.connect_from(5060, lab.at_ext(90)).expect("connected"));
    assert_eq!(host.seen.client, lab.at_host(5060));
    assert_ne!(container.seen.client.port(), 5060);
    host.exchange(b"of the host").expect("its own echo");
    container.exchange(b"of the container").expect("its own echo");
}

fn many_containers_talk_to_one_destination_at_once<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let containers: Vec<_> = (0..8).map(|n| lab.container(&format!("c{n}"), &[])).collect();
    let server = Server::tcp(&lab.ext, "ext", 90);
    thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(ask_tcp(&container.place, lab.at_ext(90)).expect("answered").client.ip(), lab.host_ip);
                }
            });
        }
    });
    assert_eq!(server.answered(), 400);
}

fn the_address_of_a_container_never_appears_on_the_uplink<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let wire = lab.ext_link();
    let inside = Link::open(&c1.place, "eth0");
    let ethernet = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };

    ask_tcp(&c1.place, lab.at_ext(90)).expect("answered");
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    // A connection that nobody knows about, a refused one, an answer nobody asked for, a protocol without ports.
    inside.send(&ethernet.tcp_ack(c1.at(20_001), lab.at_ext(90)));
    inside.send(&ethernet.tcp_ack(c1.at(80), lab.at_ext(91)));
    inside.send(&ethernet.protocol(253, c1.ip, lab.ext_ip, b"experimental"));
    inside.send(&ethernet.fragment(c1.ip, lab.ext_ip, b"the middle of something"));
    _ = c1.place.connect(lab.at_ext(91));
    let leaked = wire.find(silence(), |frame| addresses(frame).filter(|(from, to)| *from == c1.ip || *to == c1.ip));
    assert_eq!(leaked, None);
}

for_both!(
    outside_sees_the_hosts_address_and_the_source_port_is_kept_when_free,
    a_source_port_outside_the_nat_range_is_kept_too,
    two_containers_with_the_same_source_port_reach_the_same_destination,
    a_process_of_the_host_and_a_container_do_not_steal_each_others_packets,
    many_containers_talk_to_one_destination_at_once,
    the_address_of_a_container_never_appears_on_the_uplink,
);
