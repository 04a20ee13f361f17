//! Endpoint-independent mappings, where the network has them.

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Server, ask_udp};
use netbpf_tests::wait::{silence, uninterrupted};

use crate::lab::Lab;

const FULL_CONE: &str = "full_cone = true\n";

fn a_container_is_one_and_the_same_to_everybody_and_everybody_can_speak_to_it<F: TestFamily>() {
    let lab = Lab::configured::<F>(FULL_CONE);
    let containers = [lab.container("c1", &[]), lab.container("c2", &[])];
    let _servers = [Server::udp(&lab.ext, "one", 91), Server::udp(&lab.ext, "two", 92)];
    let mut ports = Vec::new();
    for container in &containers {
        let socket = container.place.udp(lab.everywhere(20_000)).expect("bound");
        let seen = [91, 92].map(|port| ask_udp(&socket, lab.at_ext(port)).expect("answered").0.client);
        assert_eq!(seen[0], seen[1], "{}", container.name);
        ports.push(seen[0].port());
        let stranger = lab.ext.any_udp();
        stranger.send_to(b"hello", seen[0]).expect("sent");
        let mut buffer = [0; 64];
        let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer)).expect("a stranger is heard");
        assert_eq!(&buffer[..length], b"hello");
        let expected = lab.at_ext(stranger.local_addr().expect("bound").port());
        assert_eq!(from, expected);
        socket.send_to(b"you too", from).expect("sent");
        let (length, from) = uninterrupted(|| stranger.recv_from(&mut buffer)).expect("answered");
        assert_eq!((&buffer[..length], from), (&b"you too"[..], seen[0]));
    }
    assert_ne!(ports[0], ports[1], "two containers have two ports");
    assert_eq!(lab.event("mapping-made"), 2);
}

fn without_them_a_stranger_is_not_heard<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&lab.ext, "one", 91);
    let socket = c1.place.udp(lab.everywhere(20_000)).expect("bound");
    let seen = ask_udp(&socket, lab.at_ext(91)).expect("answered").0.client;
    lab.ext.any_udp().send_to(b"hello", seen).expect("sent");
    socket.set_read_timeout(Some(silence())).expect("a timeout");
    assert!(uninterrupted(|| socket.recv(&mut [0; 64])).is_err());
    assert_eq!(lab.event("mapping-made"), 0);
}

for_both!(
    a_container_is_one_and_the_same_to_everybody_and_everybody_can_speak_to_it,
    without_them_a_stranger_is_not_heard,
);
