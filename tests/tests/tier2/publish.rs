//! Publishing ports: what is served, what conflicts, what ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, tcp_flags};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, converse, unanswered_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::silence;
use socket2::{Domain, Type};

use crate::lab::{Lab, MAPPINGS};

fn refused(from: &Place, to: SocketAddr) -> bool {
    from.connect(to).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn a_port_is_published_and_taken_back_while_the_container_runs<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    assert!(refused(&lab.ext, lab.at_host(8080)));
    lab.done(&["publish", &c1.name, "-p", "8080:80"]);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    lab.done(&["unpublish", &c1.name, "-p", "8080:80"]);
    assert!(refused(&lab.ext, lab.at_host(8080)));
}

fn unpublish_ends_what_exists_and_what_would_come<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp", "-p", "9090:80"]);
    let _tcp = Server::tcp(&c1.place, "c1", 80);
    let _udp = Server::udp(&c1.place, "c1", 53);
    let open = |port| Conversation::on(lab.ext.connect(lab.at_host(port)).expect("connected")).expect("greeted");
    let (mut ended, mut kept) = (open(8080), open(9090));
    let client = lab.ext.any_udp();
    ask_udp(&client, lab.at_host(5353)).expect("answered");

    lab.done(&["unpublish", &c1.name, "-p", "8080:80", "-p", "5353:53/udp"]);
    let error = ended.exchange(b"still there?").expect_err("the connection has ended");
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    assert!(unanswered_udp(&client, lab.at_host(5353), silence()));
    assert!(refused(&lab.ext, lab.at_host(8080)));
    kept.exchange(b"still there?").expect("other publishes are left alone");
    let ports = lab.json(&["port", &c1.name, "--json"]);
    assert_eq!(ports.as_array().map(Vec::len), Some(MAPPINGS), "{ports}");
}

fn a_wildcard_publish_is_on_every_address_of_the_host<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    let second: IpAddr = match lab.version {
        Version::V4 => Ipv4Addr::new(198, 19, 77, 1).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1).into(),
    };
    lab.add_address(&lab.host, &second.to_string(), &lab.uplink());
    lab.ip(&lab.ext, &format!("route add {second} via {}", lab.host_ip));
    let second = SocketAddr::new(second, 8080);
    netbpf_tests::wait::until("an address that came later is served", || ask_tcp(&lab.ext, second).is_ok());
    ask_tcp(&lab.host, second).expect("also for the host itself");
}

fn a_publish_on_one_address_is_on_that_address_alone<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", &lab.on_host("8080:80")]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.host, lab.at_host(8080)).expect("answered").server, "c1");
    assert!(refused(&lab.host, lab.loopback(8080)));
    assert!(refused(&c1.place, lab.at_gateway(8080)));
}

fn two_publishes_of_one_port_on_different_addresses_stand_side_by_side<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", &lab.on_host("8080:80")]);
    let c2 = lab.container("c2", &["-p", &lab.on_loopback("8080:80")]);
    let _first = Server::tcp(&c1.place, "c1", 80);
    let _second = Server::tcp(&c2.place, "c2", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.host, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("answered").server, "c2");
}

fn a_wildcard_and_a_specific_address_conflict_whichever_is_first<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", &lab.on_loopback("8081:80")]);
    let c2 = lab.container("c2", &[]);
    for spec in [lab.on_loopback("8080:80").as_str(), "8081:80", "8000-8090:8000-8090"] {
        let line = lab.refused(&["publish", &c2.name, "-p", spec]);
        assert!(line.contains(&c1.name), "the holder is named: {line}");
    }
    // The same numbers of another transport are another port.
    lab.done(&["publish", &c2.name, "-p", "8080:80/udp"]);
}

fn published_on_loopback_only_is_unreachable_from_outside_whatever_routes_it_adds<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", &lab.on_loopback("8080:80")]);
    let server = Server::tcp(&c1.place, "c1", 80);
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("answered").server, "c1");
    let inside = Link::open(&c1.place, "eth0");
    let reached = server.answered();

    assert!(refused(&lab.ext, lab.at_host(8080)));
    let virtual_address = SocketAddr::new(lab.virtual_loopback(), 8080);
    let wire = lab.ext_link();
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    for to in [lab.loopback(8080), virtual_address, c1.at(80), lab.at_gateway(8080)] {
        wire.send(&ethernet.syn(lab.at_ext(5000), to, 1));
    }
    let syn = inside.find(silence(), |frame| tcp_flags(frame).filter(|(port, syn, _)| *port == 80 && *syn));
    assert_eq!(syn, None, "no SYN has reached the container");
    assert_eq!(server.answered(), reached);
}

fn a_host_process_cannot_bind_a_published_port<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", &lab.on_loopback("8081:80")]);
    let bind = |address: SocketAddr| {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        lab.host.socket(domain, Type::STREAM, None).bind(&address.into()).map_err(|error| error.kind())
    };
    let of_both = Version::V6.everywhere(8080);
    let on_all = [lab.everywhere(8080), lab.loopback(8080), lab.at_host(8080), of_both, Version::V4.everywhere(8080)];
    for taken in on_all.into_iter().chain([lab.loopback(8081), lab.everywhere(8081)]) {
        assert_eq!(bind(taken), Err(io::ErrorKind::AddrInUse), "{taken}");
    }
    assert_eq!(bind(lab.at_host(8081)), Ok(()), "published on another address only");
    assert_eq!(bind(lab.everywhere(8082)), Ok(()));
    drop(c1.place.listen(c1.at(8080)).expect("containers bind what they like"));
    lab.done(&["unpublish", &c1.name, "-p", "8080:80"]);
    assert_eq!(bind(lab.everywhere(8080)), Ok(()), "free again");
}

fn a_publish_is_refused_when_a_process_of_the_host_holds_the_port_and_the_process_is_named<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let me = std::process::id().to_string();
    let _tcp = lab.host.listen(lab.everywhere(8080)).expect("listening");
    let _udp = lab.host.udp(lab.loopback(5353)).expect("bound");
    for spec in ["8080:80", "8079-8081:79-81", &lab.on_loopback("8080:80"), "5353:53/udp"] {
        let line = lab.refused(&["publish", &c1.name, "-p", spec]);
        assert!(line.contains(&me), "the process that holds it is named: {line}");
    }
    lab.done(&["publish", &c1.name, "-p", "8080:80/udp"]);
    lab.done(&["publish", &c1.name, "-p", &lab.on_host("5353:53/udp")]);
}

fn a_connection_of_the_host_from_a_published_port_is_its_own<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let server = Server::tcp(&lab.ext, "ext", 90);
    let mut conversation =
        Conversation::on(lab.host.connect_from(8080, lab.at_ext(90)).expect("connected")).expect("greeted");
    let c1 = lab.container("c1", &[]);
    lab.done(&["publish", &c1.name, "-p", "8080:80"]);
    conversation.exchange(b"mine").expect("the packets of the host's own connection stay its own");
    drop(conversation);
    drop(server);
}

fn a_random_port_is_free_and_is_shown<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "80", "-p", &lab.on_loopback(":81"), "-P", "53/udp"]);
    let _tcp = Server::tcp(&c1.place, "c1", 80);
    let _udp = Server::udp(&c1.place, "c1", 53);
    let ports = lab.ports(&c1.name);
    let find = |container, protocol: &str| {
        let port = ports.iter().find(|port| port.container_port == container && port.protocol == protocol);
        port.expect("shown").host_port
    };
    let (web, dns, local) = (find(80, "tcp"), find(53, "udp"), find(81, "tcp"));
    for port in [web, dns, local] {
        assert!(!(16_384..=32_767).contains(&port) && port >= 1024, "{port} is no port to give away");
    }
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(web)).expect("answered").server, "c1");
    assert_eq!(ask_udp(&lab.ext.any_udp(), lab.at_host(dns)).expect("answered").0.server, "c1");
    let shown = lab.done(&["port", &c1.name]);
    assert!(shown.lines().any(|line| line == format!("80/tcp -> {}", lab.everywhere(web))), "{shown}");
    assert!(shown.lines().any(|line| line == format!("81/tcp -> {}", lab.loopback(local))), "{shown}");
    let of_udp = lab.done(&["port", &c1.name, "53/udp"]);
    assert!(of_udp.lines().all(|line| line.starts_with("53/udp -> ")), "{of_udp}");
    assert!(of_udp.lines().any(|line| line == format!("53/udp -> {}", lab.everywhere(dns))), "{of_udp}");
    assert_eq!(of_udp.lines().count(), MAPPINGS);
}

fn ranges_lead_each_port_to_its_own<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "9000-9009:8000-8009", "-p", "9000-9009:7000-7009/udp"]);
    for n in [0, 5, 9] {
        let _tcp = Server::tcp(&c1.place, "tcp", 8000 + n);
        let _udp = Server::udp(&c1.place, "udp", 7000 + n);
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(9000 + n)).expect("answered").server, "tcp");
        assert_eq!(ask_udp(&lab.ext.any_udp(), lab.at_host(9000 + n)).expect("answered").0.server, "udp");
        assert_eq!(ask_tcp(&lab.host, lab.loopback(9000 + n)).expect("answered").server, "tcp");
    }
    assert!(refused(&lab.ext, lab.at_host(9010)));
    assert!(refused(&lab.ext, lab.at_host(8999)));
}

fn a_range_of_ten_thousand_ports_is_served_from_end_to_end<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    lab.done(&["publish", &c1.name, "-p", "1025-11024:1025-11024"]);
    for port in [1025, 6000, 11_024] {
        let _server = Server::tcp(&c1.place, "c1", port);
        converse(lab.ext.connect(lab.at_host(port)).expect("connected")).expect("answered");
    }
    lab.done(&["unpublish", &c1.name, "-p", "1025-11024:1025-11024"]);
    assert!(refused(&lab.ext, lab.at_host(6000)));
    assert_eq!(lab.ports(&c1.name).len(), 0);
}

fn a_request_of_which_one_part_is_refused_changes_nothing<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    lab.refused(&["publish", &c2.name, "-p", "8090:80", "-p", "8080:80"]);
    lab.refused(&["create", "--name", &lab.name("c3"), "-p", "8090:80", "-p", "8080:80"]);
    lab.refused(&["unpublish", &c1.name, "-p", "8080:80", "-p", "8099:80"]);
    lab.done(&["publish", &c2.name, "-p", "8090:80"]);
    assert_eq!(lab.ports(&c1.name).len(), MAPPINGS);
}

for_both!(
    a_port_is_published_and_taken_back_while_the_container_runs,
    unpublish_ends_what_exists_and_what_would_come,
    a_wildcard_publish_is_on_every_address_of_the_host,
    a_publish_on_one_address_is_on_that_address_alone,
    two_publishes_of_one_port_on_different_addresses_stand_side_by_side,
    a_wildcard_and_a_specific_address_conflict_whichever_is_first,
    published_on_loopback_only_is_unreachable_from_outside_whatever_routes_it_adds,
    a_host_process_cannot_bind_a_published_port,
    a_publish_is_refused_when_a_process_of_the_host_holds_the_port_and_the_process_is_named,
    a_connection_of_the_host_from_a_published_port_is_its_own,
    a_random_port_is_free_and_is_shown,
    ranges_lead_each_port_to_its_own,
    a_range_of_ten_thousand_ports_is_served_from_end_to_end,
    a_request_of_which_one_part_is_refused_changes_nothing,
);
