//! Ways out that take smaller packets than containers send, and packets that live too short.

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::Headers;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{IcmpError, tcp_flags};
use netbpf_tests::ping::Pinger;
use netbpf_tests::place::set_hops;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::version::Version;
use netbpf_tests::wait::{soon, until};

use crate::lab::Lab;
use crate::modes::{in_mode, route_to_containers};

/// The host's device takes 1400 bytes from now on; neither end of a connection knows.
fn narrow(lab: &Lab) {
    lab.host.command("ip", &["link", "set", "dev", &lab.uplink(), "mtu", "1400"]);
}

fn a_container_learns_that_the_wire_became_narrower_and_its_data_arrives<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    narrow(&lab);
    let inside = c1.place.listen(lab.everywhere(80)).expect("listening");
    let outside = lab.ext.listen(lab.everywhere(90)).expect("listening");
    let timeouts = |stream: &std::net::TcpStream| {
        stream.set_read_timeout(Some(soon())).expect("a timeout");
        stream.set_write_timeout(Some(soon())).expect("a timeout");
    };

    let client = c1.place.connect(lab.at_ext(90)).expect("connected");
    let (server, _) = outside.accept().expect("a connection waits");
    timeouts(&server);
    transfer(&client, &server, 8 << 20).expect("masqueraded data arrives");
    let client = lab.ext.connect(lab.at_host(8080)).expect("connected");
    let (server, _) = inside.accept().expect("a connection waits");
    timeouts(&server);
    transfer(&server, &client, 8 << 20).expect("the data of a published port arrives");
    assert!(lab.drops("too-big") > 0, "both ends began with larger segments");
}

fn a_datagram_too_large_for_the_wire_is_answered_with_the_size_that_fits<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    narrow(&lab);
    let ping = Pinger::new(&c1.place, 7);
    ping.send(lab.ext_ip, 1, &[0; 1450]).expect("sent");
    let told = ping.find(soon(), |message| {
        message.is(IcmpError::fragmentation_needed(1400)).then_some((message.from, message.word))
    });
    assert_eq!(told, Some((lab.gateway(), 1400)));
    assert_eq!(lab.drops("too-big"), 1);
}

fn a_packet_that_ends_at_the_gateway_is_answered_by_it_as_traceroute_expects<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let listener = Pinger::new(&c1.place, 7);
    let socket = c1.place.any_udp();
    set_hops(&socket, 1);
    socket.send_to(b"probe", lab.at_ext(33_434)).expect("sent");
    let from = listener
        .find(soon(), |message| message.is(IcmpError::TIME_EXCEEDED).then_some((message.from, message.payload)));
    let (from, inner) = from.expect("an answer");
    assert_eq!(from, lab.gateway());
    // The packet it is about, as the container has sent it (RFC 792).
    let inner = Headers::read(&[&[0; 14][..], &inner].concat()).expect("an IP packet");
    assert_eq!((inner.source, inner.destination), (c1.ip, lab.ext_ip));
}

/// The MSS that the next SYN at `link` announces; it is the first option of every Linux.
fn announced(link: &Link) -> Option<u16> {
    link.find(soon(), |frame| {
        let (_, syn, _) = tcp_flags(frame)?;
        let options = frame.get(Headers::read(frame)?.transport.start + 20..)?;
        (syn && options.get(..2)? == [2, 4]).then(|| u16::from_be_bytes([options[2], options[3]]))
    })
}

fn connections_announce_what_the_wire_takes_where_that_is_wanted<F: TestFamily>() {
    let headers = Version::of(F::HOST).header_len() as u16 + 20;
    for (settings, expected) in [("", 1500 - headers), ("clamp_mss = true\n", 1400 - headers)] {
        let lab = Lab::configured::<F>(settings);
        let c1 = lab.container("c1", &["-p", "8080:80"]);
        let _web = Server::tcp(&c1.place, "c1", 80);
        let _world = Server::tcp(&lab.ext, "ext", 90);
        // So that the neighbour is known, and with it the MTU.
        ask_tcp(&c1.place, lab.at_ext(90)).expect("answered");
        narrow(&lab);
        let wire = lab.ext_link();
        ask_tcp(&c1.place, lab.at_ext(90)).expect("answered");
        assert_eq!(announced(&wire), Some(expected), "{settings}");
        let wire = lab.ext_link();
        let client = lab.ext.connect(lab.at_host(8080)).expect("connected");
        assert_eq!(announced(&wire), Some(1500 - headers), "the client's own SYN, seen as it leaves");
        assert_eq!(announced(&wire), Some(expected), "the answer, {settings}");
        drop(client);
    }
}

fn connections_with_routed_containers_announce_what_the_wire_takes_in_both_directions<F: TestFamily>() {
    let headers = Version::of(F::HOST).header_len() as u16 + 20;
    for (settings, expected) in [("", 1500 - headers), ("clamp_mss = true\n", 1400 - headers)] {
        let lab = in_mode::<F>("routed", settings);
        route_to_containers(&lab);
        let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
        let servers = [&c1, &c2].map(|container| Server::tcp(&container.place, "inside", 80));
        let _world = Server::tcp(&lab.ext, "ext", 90);
        // So that the neighbour is known, and with it the MTU.
        ask_tcp(&c1.place, lab.at_ext(90)).expect("answered");
        narrow(&lab);
        for container in [&c1, &c2] {
            let (wire, inside) = (lab.ext_link(), Link::open(&container.place, "eth0"));
            ask_tcp(&container.place, lab.at_ext(90)).expect("answered");
            assert_eq!(announced(&wire), Some(expected), "the container's SYN, {settings}");
            assert_eq!(announced(&inside), Some(1500 - headers), "its own, seen as it leaves");
            assert_eq!(announced(&inside), Some(expected), "the answer to it, {settings}");
        }
        for container in [&c1, &c2] {
            let (wire, inside) = (lab.ext_link(), Link::open(&container.place, "eth0"));
            ask_tcp(&lab.ext, container.at(80)).expect("answered");
            assert_eq!(announced(&inside), Some(expected), "the SYN of a client outside, {settings}");
            assert_eq!(announced(&wire), Some(1500 - headers), "its own, seen as it leaves");
            assert_eq!(announced(&wire), Some(expected), "the container's answer, {settings}");
        }
        assert!(servers.iter().all(|server| server.answered() > 0));
    }
}

fn the_host_reaches_containers_of_a_small_mtu_with_large_datagrams<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let network = lab.name("small");
    lab.done(&["network", "create", "--ipv6", "-o", "mtu=1400", &network]);
    let c = lab.container("c", &["--network", &network, "-p", "5353:53/udp"]);
    let server = Server::udp(&c.place, "c", 53);
    for to in [c.at(53), lab.at_host(5353)] {
        let (asking, before) = (lab.host.any_udp(), server.answered());
        asking.connect(to).expect("an address");
        // Its own device takes more: it is told, and sends in pieces from then on.
        until("a datagram of three pieces arrives", || {
            _ = asking.send(&[7; 4000]);
            server.answered() > before
        });
    }
    assert!(lab.drops("too-big") > 0, "the host believes in its own device at first");
}

for_both!(
    connections_with_routed_containers_announce_what_the_wire_takes_in_both_directions,
    a_container_learns_that_the_wire_became_narrower_and_its_data_arrives,
    a_datagram_too_large_for_the_wire_is_answered_with_the_size_that_fits,
    a_packet_that_ends_at_the_gateway_is_answered_by_it_as_traceroute_expects,
    connections_announce_what_the_wire_takes_where_that_is_wanted,
    the_host_reaches_containers_of_a_small_mtu_with_large_datagrams,
);
