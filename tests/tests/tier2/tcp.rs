//! TCP as programs see it.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, converse};
use netbpf_tests::transfer::transfer;
use netbpf_tests::wait::{poll, soon, uninterrupted};
use socket2::SockRef;

use crate::lab::Lab;

fn a_container_reaches_another_and_is_seen_under_its_own_address<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let _server = Server::tcp(&c1.place, "c1", 80);
    let seen = converse(c2.place.connect_from(5000, c1.at(80)).expect("connected")).expect("answered");
    assert_eq!((seen.server.as_str(), seen.client), ("c1", SocketAddr::new(c2.ip, 5000)));
}

fn outside_reaches_a_published_port_and_is_seen_under_its_own_address<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    let stream = lab.ext.connect_from(5000, lab.at_host(8080)).expect("connected");
    assert_eq!(stream.peer_addr().expect("connected"), lab.at_host(8080));
    let seen = converse(stream).expect("answered");
    assert_eq!((seen.server.as_str(), seen.client), ("c1", lab.at_ext(5000)));
}

fn a_container_reaches_a_service_of_the_host_under_its_own_address<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&lab.host, "host", 700);
    for address in [lab.gateway(), lab.host_ip] {
        let seen = ask_tcp(&c1.place, SocketAddr::new(address, 700)).expect("answered");
        assert_eq!((seen.server.as_str(), seen.client.ip()), ("host", c1.ip), "at {address}");
    }
}

fn the_hosts_own_services_and_clients_are_left_alone<F: TestFamily>() {
    let lab = Lab::new::<F>();
    lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&lab.host, "host", 700);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(700)).expect("answered").server, "host");
    let seen = ask_tcp(&lab.host, lab.at_ext(90)).expect("answered");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("ext", lab.host_ip));
    let refused = ask_tcp(&lab.ext, lab.at_host(701)).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "a closed port of the host answers as ever");
}

/// One side ends its direction; the other goes on for a while.
fn the_other_direction_keeps_flowing(client: &TcpStream, server: &TcpStream) {
    client.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(uninterrupted(|| (&*server).read(&mut [0])).expect("in good order"), 0, "the server sees the end");
    transfer(server, client, 4 << 20).expect("all of it arrives");
}

/// A connection with both its ends, without a word said.
fn connection(listener: &TcpListener, client: TcpStream) -> (TcpStream, TcpStream) {
    let (server, _) = listener.accept().expect("a connection waits");
    server.set_read_timeout(Some(soon())).expect("a timeout");
    server.set_write_timeout(Some(soon())).expect("a timeout");
    (client, server)
}

fn after_half_a_close_the_other_direction_keeps_flowing<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let inside = c1.place.listen(lab.everywhere(80)).expect("listening");
    let outside = lab.ext.listen(lab.everywhere(90)).expect("listening");

    let (client, server) = connection(&inside, lab.ext.connect(lab.at_host(8080)).expect("connected"));
    the_other_direction_keeps_flowing(&client, &server);
    let (client, server) = connection(&outside, c1.place.connect(lab.at_ext(90)).expect("connected"));
    the_other_direction_keeps_flowing(&client, &server);
    let (client, server) = connection(&inside, lab.ext.connect(lab.at_host(8080)).expect("connected"));
    the_other_direction_keeps_flowing(&server, &client);
}

fn a_published_port_without_listener_refuses_at_once<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    let loopback = lab.loopback(8080);
    let attempts =
        [(&lab.ext, lab.at_host(8080)), (&lab.host, loopback), (&c2.place, lab.at_host(8080)), (&c2.place, c1.at(80))];
    for (from, to) in attempts {
        let start = Instant::now();
        let refused = from.connect(to).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{to}");
        assert!(start.elapsed().as_millis() < 900, "{to}: before the first retransmission of a SYN");
    }
}

/// Connects from one port again and again; the 4-tuple is free for the client as soon as the server has ended first.
fn a_4_tuple_serves_again(lab: &Lab, from: &Place, listener: &TcpListener, to: SocketAddr) {
    for round in 0..20 {
        // The kernel lets go of the old socket when the last ACK is in.
        let client = poll(|| match from.connect_from(5000, to) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => None,
            connected => Some(connected),
        });
        let (mut client, server) = connection(listener, client.expect("in time").expect("connected"));
        if round % 2 == 0 {
            server.shutdown(Shutdown::Write).expect("connected");
            assert_eq!(uninterrupted(|| client.read(&mut [0])).expect("in good order"), 0);
        } else {
            SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
        }
        drop(client);
        drop(server);
    }
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}

fn a_client_that_uses_its_4_tuple_again_right_after_the_close_gets_a_new_connection<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    let inside = c1.place.listen(lab.everywhere(80)).expect("listening");
    let outside = lab.ext.listen(lab.everywhere(90)).expect("listening");
    a_4_tuple_serves_again(&lab, &lab.ext, &inside, lab.at_host(8080));
    a_4_tuple_serves_again(&lab, &c1.place, &outside, lab.at_ext(90));
    a_4_tuple_serves_again(&lab, &c2.place, &inside, c1.at(80));
}

fn thousands_of_connections_through_one_published_port_all_succeed<F: TestFamily>() {
    const CLIENTS: usize = 4;
    const EACH: usize = 1000;
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let server = Server::tcp(&c1.place, "c1", 80);
    let to = lab.at_host(8080);
    let failures: Vec<io::Error> = thread::scope(|scope| {
        let ext = &lab.ext;
        let ask = move || (0..EACH).filter_map(|_| TcpStream::connect(to).and_then(converse).err()).collect::<Vec<_>>();
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || ext.run(ask))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    assert_eq!(server.answered(), (CLIENTS * EACH) as u64);
}

fn a_connection_that_says_nothing_for_a_while_is_still_there<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    let mut idle = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    // Others come and go meanwhile.
    for _ in 0..200 {
        ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    }
    idle.exchange(b"still there?").expect("the connection stands");
}

for_both!(
    a_container_reaches_another_and_is_seen_under_its_own_address,
    outside_reaches_a_published_port_and_is_seen_under_its_own_address,
    a_container_reaches_a_service_of_the_host_under_its_own_address,
    the_hosts_own_services_and_clients_are_left_alone,
    after_half_a_close_the_other_direction_keeps_flowing,
    a_published_port_without_listener_refuses_at_once,
    a_client_that_uses_its_4_tuple_again_right_after_the_close_gets_a_new_connection,
    thousands_of_connections_through_one_published_port_all_succeed,
    a_connection_that_says_nothing_for_a_while_is_still_there,
);
