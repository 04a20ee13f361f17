//! ICMP errors about what was translated reach who has sent it, who knows it again.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::Headers;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, IcmpError, icmp};
use netbpf_tests::ping::Pinger;
use netbpf_tests::place::{Place, set_hops};
use netbpf_tests::server::{Conversation, Server, ask_udp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::wait::{silence, soon, uninterrupted, until};

use crate::lab::{Far, Lab};

/// A socket that is connected there: errors about what it sends reach it.
fn connected(place: &Place, to: SocketAddr) -> UdpSocket {
    let socket = place.any_udp();
    place.run(|| socket.connect(to)).expect("UDP connects at once");
    socket
}

/// Sends a datagram, and gives the error that comes for it.
#[track_caller]
fn told(socket: &UdpSocket) -> ErrorKind {
    socket.send(b"anybody?").expect("sent");
    uninterrupted(|| socket.recv(&mut [0; 64])).expect_err("nobody answers").kind()
}

fn who_asks_a_port_without_listener_by_udp_is_told_wherever_it_is<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    let loopback = lab.loopback(5353);
    for (says, place, to) in [
        ("a container, of a machine outside", &c2.place, lab.at_ext(99)),
        ("a client outside, of a published port", &lab.ext, lab.at_host(5353)),
        ("a container, of its neighbour", &c2.place, c1.at(53)),
        ("a container, of a published port of its neighbour", &c2.place, lab.at_host(5353)),
        ("a container, of its own published port", &c1.place, lab.at_host(5353)),
        ("a container, of the host", &c2.place, lab.at_gateway(99)),
        ("the host, of a container", &lab.host, c1.at(53)),
        ("the host, of a published port at 127.0.0.1", &lab.host, loopback),
        ("the host, of a published port at its own address", &lab.host, lab.at_host(5353)),
    ] {
        assert_eq!(told(&connected(place, to)), ErrorKind::ConnectionRefused, "{says}");
    }
}

fn outside_no_error_names_a_container<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let _c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let wire = lab.ext_link();
    let client = connected(&lab.ext, lab.at_host(5353));
    client.send(b"anybody?").expect("sent");
    let error = wire.find(soon(), |frame| {
        let headers = Headers::read(frame)?;
        let message = frame.get(headers.transport.clone())?;
        let kind = IcmpError::PORT_UNREACHABLE.kind_and_code(headers.source);
        let is_error = headers.protocol == icmp(headers.source) && message[..2] == kind;
        // Behind eight bytes the packet that it is about.
        is_error.then(|| (headers.source, headers.destination, quoted(&message[8..])))
    });
    let (from, to, about) = error.expect("an error on the wire");
    assert_eq!((from, to), (lab.host_ip, lab.ext_ip));
    let own = client.local_addr().expect("bound").port();
    assert_eq!(about, (lab.at_ext(own), lab.at_host(5353)));
}

fn a_narrow_wire_far_away_is_learned_of_through_masquerade_and_through_a_publish<F: TestFamily>() {
    const NARROW: u32 = 1300;
    let lab = Lab::new::<F>();
    let far = Far::behind(&lab, NARROW);
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);

    let outside = far.place.listen(lab.everywhere(90)).expect("listening");
    let client = c2.place.connect(far.at(90)).expect("connected");
    let (server, _) = outside.accept().expect("a connection waits");
    server.set_read_timeout(Some(soon())).expect("a timeout");
    transfer(&client, &server, 8 << 20).expect("masqueraded data arrives");
    assert_eq!(far.path_mtu(&c2.place), Some(NARROW));

    let inside = c1.place.listen(lab.everywhere(80)).expect("listening");
    let client = far.place.connect(lab.at_host(8080)).expect("connected");
    let (server, _) = inside.accept().expect("a connection waits");
    client.set_read_timeout(Some(soon())).expect("a timeout");
    transfer(&server, &client, 8 << 20).expect("the data of a published port arrives");
    assert_eq!(far.path_mtu(&c1.place), Some(NARROW));
    assert!(lab.event("error-translated") >= 2);
}

fn datagrams_and_pings_learn_of_a_narrow_wire_far_away_too<F: TestFamily>() {
    const NARROW: u32 = 1300;
    let lab = Lab::new::<F>();
    let far = Far::behind(&lab, NARROW);
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let socket = connected(&c1.place, far.at(90));
    netbpf_tests::place::forbid_fragments(&socket);
    socket.send(&[0; 1400]).expect("it fits the first wire");
    until("the container has learned the MTU", || far.path_mtu(&c1.place) == Some(NARROW));
    assert_eq!(socket.send(&[0; 1400]).expect_err("too long now").raw_os_error(), Some(nix::libc::EMSGSIZE));

    let ping = Pinger::new(&c2.place, 7);
    ping.send(far.ip, 1, &[0; 1400]).expect("sent");
    until("the other has learned it by a ping", || far.path_mtu(&c2.place) == Some(NARROW));
}

/// Who sent a packet that is quoted, and to whom.
fn quoted(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    // Read as in a frame.
    let frame = [&[0; 14], packet].concat();
    let headers = Headers::read(&frame).expect("an error quotes an IP packet");
    let port =
        |at: usize| u16::from_be_bytes([frame[headers.transport.start + at], frame[headers.transport.start + at + 1]]);
    (SocketAddr::new(headers.source, port(0)), SocketAddr::new(headers.destination, port(2)))
}

/// Who answers a packet with so many hops to live, and with what.
fn hop(place: &Place, ttl: u32, to: SocketAddr) -> (IpAddr, IcmpError) {
    let listener = Pinger::new(place, 1);
    let socket = place.any_udp();
    set_hops(&socket, ttl);
    socket.send_to(b"probe", to).expect("sent");
    let own = socket.local_addr().expect("bound").port();
    let answer = listener.find(soon(), |message| {
        let answer =
            [IcmpError::TIME_EXCEEDED, IcmpError::PORT_UNREACHABLE].into_iter().find(|error| message.is(*error))?;
        // Of several probes the one that quotes this socket's port.
        let (from, _) = quoted(&message.payload);
        (from.port() == own).then_some((message.from, answer))
    });
    answer.unwrap_or_else(|| panic!("nobody answers a probe with {ttl} hops"))
}

fn traceroute_shows_the_gateway_and_every_hop<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let far = Far::behind(&lab, 1500);
    let c1 = lab.container("c1", &[]);
    let hops: Vec<_> = (1..=3).map(|ttl| hop(&c1.place, ttl, far.at(33_434))).collect();
    assert_eq!(
        hops,
        [
            (lab.gateway(), IcmpError::TIME_EXCEEDED),
            (lab.ext_ip, IcmpError::TIME_EXCEEDED),
            (far.ip, IcmpError::PORT_UNREACHABLE)
        ]
    );
}

fn who_traces_the_way_to_a_published_port_sees_the_host<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let far = Far::behind(&lab, 1500);
    let _c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let hops: Vec<_> = (1..=3).map(|ttl| hop(&far.place, ttl, lab.at_host(5353))).collect();
    assert_eq!(
        hops,
        [
            (far.router, IcmpError::TIME_EXCEEDED),
            (lab.host_ip, IcmpError::TIME_EXCEEDED),
            (lab.host_ip, IcmpError::PORT_UNREACHABLE)
        ]
    );
}

fn an_error_about_no_flow_is_counted_and_one_about_a_flow_does_not_end_it<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let _dns = Server::udp(&lab.ext, "ext", 53);
    let stream = c1.place.connect_from(20_000, lab.at_ext(90)).expect("connected");
    let mut conversation = Conversation::on(stream).expect("greeted");
    let wire = lab.ext_link();
    let (out, back) =
        (Ethernet { from: lab.host_mac(), to: wire.mac }, Ethernet { from: wire.mac, to: lab.host_mac() });
    let forged = |port| {
        let about = out.tcp_ack(lab.at_host(port), lab.at_ext(90));
        wire.send(&back.icmp_error(
            lab.ext_ip,
            lab.host_ip,
            64,
            IcmpError::PORT_UNREACHABLE,
            &about[14..14 + lab.version.header_len() + 8],
        ));
    };
    for port in [20_001, 20_002] {
        forged(port);
    }
    until("both are counted", || lab.drops("icmp-error") == 2);
    forged(20_000);
    until("the third was translated", || lab.event("error-translated") == 1);
    conversation.exchange(b"still there?").expect("a hard error is a soft one to an established connection");
    assert_eq!(lab.flows(&c1).len(), 1);
    ask_udp(&c1.place.any_udp(), lab.at_ext(53)).expect("answered");
}

/// Whether a frame holds an ICMP error.
fn is_error(frame: &[u8]) -> bool {
    Headers::read(frame).is_some_and(|headers| {
        let kinds = if headers.source.is_ipv4() { 3..=5 } else { 1..=4 };
        headers.protocol == icmp(headers.source) && kinds.contains(&frame[headers.transport.start])
    })
}

fn a_container_speaks_of_nothing_that_others_were_sent<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let dns = Server::udp(&lab.ext, "ext", 53);
    let client = c2.place.udp(lab.everywhere(20_000)).expect("bound");
    ask_udp(&client, lab.at_ext(53)).expect("answered");
    let (inside, wire) = (Link::open(&c1.place, "eth0"), lab.ext_link());
    let gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };
    // About the answer that the other got: it would leave in the host's name, and tell the server to stop.
    let about = gateway.udp(lab.at_ext(53), c2.at(20_000), b"answer");
    for from in [c1.ip, c2.ip] {
        inside.send(&gateway.icmp_error(
            from,
            lab.ext_ip,
            64,
            IcmpError::PORT_UNREACHABLE,
            &about[14..14 + lab.version.header_len() + 8],
        ));
    }
    until("the first is counted", || lab.drops("icmp-error") == 1);
    until("so is the other", || lab.drops("spoofed-address") == 1);
    assert_eq!(wire.find(silence(), |frame| is_error(frame).then_some(())), None, "no ICMP on the wire");
    ask_udp(&client, lab.at_ext(53)).expect("answered");
    assert_eq!(dns.answered(), 2);
}

for_both!(
    who_asks_a_port_without_listener_by_udp_is_told_wherever_it_is,
    outside_no_error_names_a_container,
    a_narrow_wire_far_away_is_learned_of_through_masquerade_and_through_a_publish,
    datagrams_and_pings_learn_of_a_narrow_wire_far_away_too,
    traceroute_shows_the_gateway_and_every_hop,
    who_traces_the_way_to_a_published_port_sees_the_host,
    an_error_about_no_flow_is_counted_and_one_about_a_flow_does_not_end_it,
    a_container_speaks_of_nothing_that_others_were_sent,
);
