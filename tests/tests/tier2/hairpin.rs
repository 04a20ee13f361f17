//! Containers that reach containers by the host's published ports.

use std::net::SocketAddr;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};

use crate::lab::Lab;

fn a_container_reaches_itself_and_others_by_published_ports<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    let _tcp = Server::tcp(&c1.place, "c1", 80);
    let _udp = Server::udp(&c1.place, "c1", 53);
    for from in [&c1, &c2] {
        for address in [lab.host_ip, lab.gateway()] {
            let to = SocketAddr::new(address, 8080);
            assert_eq!(ask_tcp(&from.place, to).expect("answered").server, "c1", "{} to {to}", from.name);
            let to = SocketAddr::new(address, 5353);
            let (seen, answered_by) = ask_udp(&from.place.any_udp(), to).expect("answered");
            assert_eq!((seen.server.as_str(), answered_by), ("c1", to), "{} to {to}", from.name);
        }
    }
}

fn a_connected_udp_socket_hears_its_own_published_port<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let _udp = Server::udp(&c1.place, "c1", 53);
    let client = c1.place.any_udp();
    client.connect(lab.at_host(5353)).expect("connected");
    client.send(b"how do you do").expect("sent");
    assert_eq!(netbpf_tests::server::receive_answer(&client).expect("answered").0.server, "c1");
}

fn many_hairpin_connections_from_one_source_port_stand_side_by_side<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "8081:80"]);
    let c2 = lab.container("c2", &[]);
    let _tcp = Server::tcp(&c1.place, "c1", 80);
    let open = |from: &crate::lab::Container, port| {
        let stream = from.place.connect_from(20_000, lab.at_host(port)).expect("connected");
        Conversation::on(stream).expect("greeted")
    };
    // All four are led to c1:80, and the two of a container differ in the host's port alone.
    let mut conversations = [open(&c1, 8080), open(&c1, 8081), open(&c2, 8080), open(&c2, 8081)];
    for _ in 0..3 {
        for (n, conversation) in conversations.iter_mut().enumerate() {
            conversation.exchange(format!("conversation {n}").as_bytes()).expect("its own echo");
        }
    }
}

for_both!(
    a_container_reaches_itself_and_others_by_published_ports,
    a_connected_udp_socket_hears_its_own_published_port,
    many_hairpin_connections_from_one_source_port_stand_side_by_side,
);
