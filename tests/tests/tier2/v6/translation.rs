//! IPv6 clients of a container with IPv4 alone (RFC 7915).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use netbpf_common::path::V6;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, IcmpError};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::told::{listen_for_errors, next_error};
use netbpf_tests::transfer::transfer;
use netbpf_tests::version::Version;
use netbpf_tests::wait::{soon, uninterrupted};
use nix::libc;

use crate::lab::{Container, Lab, Offloads};

/// Whom such a container takes all of them for: the last of the virtual addresses.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 30, 255));

/// A lab with IPv6, and a container from before it had any.
fn lab() -> (Lab, Container) {
    let mut lab = Lab::without_agent::<V6>("");
    lab.configure_with("", "");
    lab.start_agent();
    let old = lab.container("old", &[]);
    assert_eq!(old.ip6, None);
    lab.stop_agent();
    lab.configure("");
    lab.start_agent();
    lab.done(&["publish", &old.name, "-p", "8080:80", "-p", "5353:53/udp", "-p", "9090:90"]);
    (lab, old)
}

/// Who asks, and where: outside, on the host, in a container with both families.
fn askers<'a>(lab: &'a Lab, neighbour: &'a Container) -> [(&'static str, &'a Place, IpAddr); 4] {
    [
        ("outside", &lab.ext, lab.host_ip),
        ("the host, at ::1", &lab.host, lab.loopback(0).ip()),
        ("the host, at its address", &lab.host, lab.host_ip),
        ("a container", &neighbour.place, lab.host_ip),
    ]
}

#[test]
fn clients_of_ipv6_reach_a_published_port_of_a_container_without_it() {
    let (lab, old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    let _web = Server::tcp(&old.place, "old", 80);
    let _dns = Server::udp(&old.place, "old", 53);
    for (name, place, address) in askers(&lab, &neighbour) {
        let stream = place.connect((address, 8080).into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stream.peer_addr().expect("connected"), SocketAddr::from((address, 8080)), "{name}");
        let mut conversation = Conversation::on(stream).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((conversation.seen.server.as_str(), conversation.seen.client.ip()), ("old", CLIENT), "{name}");
        conversation.exchange(&[7; 20_000]).unwrap_or_else(|error| panic!("{name}: {error}"));
        conversation.close().unwrap_or_else(|error| panic!("{name}: {error}"));
        let to = SocketAddr::from((address, 5353));
        let (seen, from) = ask_udp(&place.any_udp(), to).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((seen.server.as_str(), seen.client.ip(), from), ("old", CLIENT, to), "{name}");
    }
    // Clients of IPv4 are served as ever, and the container reaches by IPv4 what it reached.
    let ext = lab.ext.speaking(Version::V4);
    let host_v4 = netbpf_user::rig::Rig::HOST_IP;
    let seen = ask_tcp(&ext, (host_v4, 8080).into()).expect("answered");
    assert_eq!(seen.client.ip(), IpAddr::V4(netbpf_user::rig::Rig::EXT_IP));
}

#[test]
fn two_clients_with_one_port_of_their_own_are_told_apart() {
    let (lab, old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    let _web = Server::tcp(&old.place, "old", 80);
    let open = |place: &Place, port| {
        let stream = place.connect_from(20_000, lab.at_host(port)).expect("connected");
        Conversation::on(stream).expect("greeted")
    };
    lab.done(&["publish", &old.name, "-p", "8081:80"]);
    let mut all = [open(&lab.ext, 8080), open(&lab.ext, 8081), open(&neighbour.place, 8080)];
    for _ in 0..3 {
        for (number, conversation) in all.iter_mut().enumerate() {
            conversation.exchange(format!("conversation {number}").as_bytes()).expect("its own echo");
        }
    }
}

#[test]
fn all_that_is_sent_arrives_whoever_computes_the_checksums() {
    const BYTES: u64 = 10_000_000;
    let (lab, old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    let listener = old.place.listen(Version::V4.everywhere(90)).expect("listening");
    // Once: a port is not free as soon as its socket is closed, when another thread has just forked.
    let server = old.place.udp(Version::V4.everywhere(53)).expect("bound");
    for offloads in [Offloads::On, Offloads::HostTxChecksumOff, Offloads::Off] {
        lab.offloads(offloads);
        for (name, place, address) in askers(&lab, &neighbour) {
            let client = place.connect((address, 9090).into()).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (server, _) = listener.accept().expect("a connection waits");
            server.set_read_timeout(Some(soon())).expect("a timeout");
            server.set_write_timeout(Some(soon())).expect("a timeout");
            transfer(&client, &server, BYTES).unwrap_or_else(|error| panic!("{name}, {offloads:?}: {error}"));
            transfer(&server, &client, BYTES).unwrap_or_else(|error| panic!("{name}, {offloads:?}, back: {error}"));
        }
        for length in [1, 1000, 1400] {
            let client = lab.ext.any_udp();
            let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let mut buffer = [0; 2048];
            client.send_to(&payload, lab.at_host(5353)).expect("sent");
            let (received, from) = uninterrupted(|| server.recv_from(&mut buffer)).expect("it arrives");
            assert_eq!(buffer[..received], payload, "{length}, {offloads:?}");
            server.send_to(&payload, from).expect("sent");
            let (received, from) = uninterrupted(|| client.recv_from(&mut buffer)).expect("it comes back");
            assert_eq!((&buffer[..received], from), (&payload[..], lab.at_host(5353)), "{length}, {offloads:?}");
        }
    }
}

#[test]
fn where_nobody_listens_the_client_is_told_at_once() {
    let (lab, _old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    for (name, place, address) in askers(&lab, &neighbour) {
        let start = Instant::now();
        let refused = place.connect((address, 8080).into()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{name}");
        assert!(start.elapsed().as_millis() < 900, "{name}: before the first retransmission of a SYN");
    }
}

#[test]
fn who_asks_a_port_without_listener_by_udp_is_told() {
    let (lab, _old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    for (name, place, address) in askers(&lab, &neighbour) {
        let socket = place.any_udp();
        place.run(|| socket.connect((address, 5353))).expect("UDP connects at once");
        socket.send(b"anybody?").expect("sent");
        let told = uninterrupted(|| socket.recv(&mut [0; 8])).expect_err("nobody answers");
        assert_eq!(told.kind(), io::ErrorKind::ConnectionRefused, "{name}");
    }
}

/// Where an IPv6 header says what follows it (RFC 8200 section 3).
const NEXT_HEADER: u32 = 6;

#[test]
fn who_speaks_a_protocol_that_the_other_side_does_not_know_is_told_in_its_own_family() {
    let (lab, old) = lab();
    let neighbour = lab.container("neighbour", &[]);
    let (inside, wire) = (Link::open(&old.place, "eth0"), lab.ext_link());
    let gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&old) };
    let own = SocketAddr::from((old.ip4.expect("it has IPv4"), 53));
    let server = old.place.udp(Version::V4.everywhere(53)).expect("bound");
    listen_for_errors(&server);
    for (name, place, address) in askers(&lab, &neighbour) {
        let client = place.any_udp();
        listen_for_errors(&client);
        client.send_to(b"question", SocketAddr::from((address, 5353))).expect("sent");
        let (_, from) = uninterrupted(|| server.recv_from(&mut [0; 64])).expect("asked");
        let about = gateway.udp(from, own, b"question");
        inside.send(&gateway.icmp_error(own.ip(), CLIENT, 64, IcmpError::PROTOCOL_UNREACHABLE, &about[14..]));
        let told = next_error(&client, soon()).unwrap_or_else(|| panic!("{name} is not told"));
        assert_eq!(([told.kind, told.code], told.info, told.errno), ([4, 1], NEXT_HEADER, libc::EPROTO), "{name}");
    }
    let client = lab.ext.udp(lab.at_ext(20_000)).expect("bound");
    client.send_to(b"question", lab.at_host(5353)).expect("sent");
    let (_, from) = uninterrupted(|| server.recv_from(&mut [0; 64])).expect("asked");
    server.send_to(b"answer", from).expect("sent");
    uninterrupted(|| client.recv(&mut [0; 64])).expect("answered");
    let arriving = Ethernet { from: wire.mac, to: lab.host_mac() };
    let about = arriving.udp(lab.at_host(5353), lab.at_ext(20_000), b"answer");
    let error = IcmpError::PROTOCOL_UNREACHABLE.about_field(NEXT_HEADER);
    wire.send(&arriving.icmp_error(lab.ext_ip, lab.host_ip, 64, error, &about[14..]));
    let told = next_error(&server, soon()).expect("the container is told");
    assert_eq!(([told.kind, told.code], told.errno, told.offender), ([3, 2], libc::ENOPROTOOPT, Some(CLIENT)));
}
