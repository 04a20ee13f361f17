//! Programs of the host that connect to published ports on the host's own addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::connected;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, converse, receive_answer, unanswered_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, soon};
use netbpf_user::rig::Rig;
use socket2::{Domain, Type};

use crate::lab::{Container, Lab};

fn mapped(address: SocketAddr) -> SocketAddr {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address} can not be mapped") };
    SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())
}

/// Where a host program finds c1's ports.
fn addresses(lab: &Lab) -> [IpAddr; 3] {
    [lab.loopback(0).ip(), lab.host_ip, lab.gateway()]
}

fn published(lab: &Lab) -> (Container, Server, Server) {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let tcp = Server::tcp(&c1.place, "c1", 80);
    let udp = Server::udp(&c1.place, "c1", 53);
    (c1, tcp, udp)
}

fn a_program_reaches_published_ports_and_sees_the_address_it_asked_for<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let _c1 = published(&lab);
    for address in addresses(&lab) {
        let to = SocketAddr::new(address, 8080);
        let stream = lab.host.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(stream.peer_addr().expect("connected"), to);
        assert_eq!(converse(stream).expect("answered").server, "c1");
    }
}

fn a_v4_mapped_socket_is_led_as_well<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let inside = c1.place.speaking(Version::V4);
    let _servers = [Server::tcp(&inside, "c1", 80), Server::udp(&inside, "c1", 53)];
    let addresses = [Ipv4Addr::LOCALHOST, Rig::HOST_IP, Ipv4Addr::new(172, 30, 0, 1)];
    for address in addresses.map(IpAddr::V4) {
        let to = mapped(SocketAddr::new(address, 8080));
        let socket = lab.host.socket(Domain::IPV6, Type::STREAM, None);
        socket.set_only_v6(false).expect("an option");
        let stream = connected(socket, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(stream.peer_addr().expect("connected"), to);
        assert_eq!(converse(stream).expect("answered").server, "c1");

        let to = mapped(SocketAddr::new(address, 5353));
        let socket = lab.host.socket(Domain::IPV6, Type::DGRAM, None);
        socket.set_only_v6(false).expect("an option");
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).expect("bound");
        socket.set_read_timeout(Some(soon())).expect("a timeout");
        let client = UdpSocket::from(socket);
        client.send_to(b"how do you do", to).expect("sent");
        let (seen, from) = receive_answer(&client).expect("answered");
        assert_eq!((seen.server.as_str(), from), ("c1", to));
        client.connect(to).expect("connected");
        assert_eq!(client.peer_addr().expect("connected"), to);
        client.send(b"how do you do").expect("sent");
        assert_eq!(receive_answer(&client).expect("answered").1, to);
    }
}

fn udp_works_connected_and_unconnected_and_answers_come_from_the_address_asked<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let _c1 = published(&lab);
    for address in addresses(&lab) {
        let to = SocketAddr::new(address, 5353);
        let client = lab.host.any_udp();
        for _ in 0..3 {
            let (seen, from) = ask_udp(&client, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!((seen.server.as_str(), from), ("c1", to));
        }
        client.connect(to).expect("connected");
        assert_eq!(client.peer_addr().expect("connected"), to);
        for _ in 0..3 {
            client.send(b"how do you do").expect("sent");
            assert_eq!(receive_answer(&client).expect("answered").1, to);
        }
    }
}

fn to_connect_to_no_address_means_loopback<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let _c1 = published(&lab);
    assert_eq!(ask_tcp(&lab.host, lab.everywhere(8080)).expect("answered").server, "c1");
}

fn a_program_that_connected_once_follows_a_replaced_container<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, tcp, udp) = published(&lab);
    let client = lab.host.any_udp();
    client.connect(lab.loopback(5353)).expect("connected");
    let ask = || client.send(b"how do you do").and_then(|_| receive_answer(&client));
    assert_eq!(ask().expect("answered").0.server, "c1");
    let mut conversation = Conversation::on(lab.host.connect(lab.loopback(8080)).expect("connected")).expect("greeted");
    drop((tcp, udp));
    lab.done(&["rm", "-f", &c1.name]);

    let c2 = lab.container("c2", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let _tcp = Server::tcp(&c2.place, "c2", 80);
    let _udp = Server::udp(&c2.place, "c2", 53);
    assert_eq!(ask().expect("answered").0.server, "c2");
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("answered").server, "c2");
    let ended = conversation.exchange(b"still there?").expect_err("that container is gone");
    assert!(matches!(
        ended.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    ));
}

fn loopback_in_a_container_is_the_containers_own<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (_c1, _tcp, _udp) = published(&lab);
    let c2 = lab.container("c2", &[]);
    let refused = c2.place.connect(lab.loopback(8080)).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused));
    let _own = Server::tcp(&c2.place, "c2", 8080);
    assert_eq!(ask_tcp(&c2.place, lab.loopback(8080)).expect("answered").server, "c2");
}

fn unpublished_ports_of_loopback_are_the_hosts_own<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let _c1 = published(&lab);
    let _own = Server::tcp(&lab.host, "host", 8081);
    let _own_udp = Server::udp(&lab.host, "host", 5354);
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8081)).expect("answered").server, "host");
    assert_eq!(ask_udp(&lab.host.any_udp(), lab.loopback(5354)).expect("answered").0.server, "host");
}

fn a_container_reaches_a_service_of_the_host_by_udp_and_so_does_the_host_the_container<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _host = Server::udp(&lab.host, "host", 123);
    let _inside = Server::udp(&c1.place, "c1", 53);
    let (seen, _) = ask_udp(&c1.place.any_udp(), lab.at_gateway(123)).expect("answered");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("host", c1.ip));
    let (seen, _) = ask_udp(&lab.host.any_udp(), c1.at(53)).expect("answered");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", lab.gateway()));
}

fn after_unpublish_a_connected_program_is_not_answered_any_more<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, _tcp, _udp) = published(&lab);
    let client = lab.host.any_udp();
    ask_udp(&client, lab.loopback(5353)).expect("answered");
    lab.done(&["unpublish", &c1.name, "-p", "5353:53/udp"]);
    assert!(unanswered_udp(&client, lab.loopback(5353), silence()));
}

for_both!(
    a_v4_mapped_socket_is_led_as_well,
    a_program_reaches_published_ports_and_sees_the_address_it_asked_for,
    udp_works_connected_and_unconnected_and_answers_come_from_the_address_asked,
    to_connect_to_no_address_means_loopback,
    a_program_that_connected_once_follows_a_replaced_container,
    loopback_in_a_container_is_the_containers_own,
    unpublished_ports_of_loopback_are_the_hosts_own,
    a_container_reaches_a_service_of_the_host_by_udp_and_so_does_the_host_the_container,
    after_unpublish_a_connected_program_is_not_answered_any_more,
);
