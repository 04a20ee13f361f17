//! Pings, and the errors the host makes for its own programs.

use std::io;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::ping::Pinger;
use netbpf_tests::wait::{silence, soon};

use crate::lab::Lab;

fn two_containers_that_ping_with_the_same_id_each_get_their_own_replies<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let pings = [(Pinger::new(&c1.place, 7), b"one"), (Pinger::new(&c2.place, 7), b"two")];
    for seq in 1..=5 {
        for (ping, payload) in &pings {
            ping.send(lab.ext_ip, seq, *payload).expect("sent");
        }
        for (ping, payload) in &pings {
            assert_eq!(ping.reply(soon()), Some((lab.ext_ip, seq, payload.to_vec())));
        }
    }
    for (ping, _) in &pings {
        assert_eq!(ping.reply(silence()), None, "nothing of the other's");
    }
}

fn pings_go_between_containers_host_and_outside<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let pairs = [
        (&c1.place, c2.ip),
        (&c1.place, c1.ip),
        (&c1.place, lab.gateway()),
        (&c1.place, lab.host_ip),
        (&c1.place, lab.ext_ip),
        (&lab.host, c1.ip),
        (&lab.host, lab.ext_ip),
        (&lab.ext, lab.host_ip),
    ];
    for (id, (from, to)) in (1..).zip(pairs) {
        let ping = Pinger::new(from, id);
        ping.send(to, 1, b"hello").expect("sent");
        assert_eq!(ping.reply(soon()), Some((to, 1, b"hello".to_vec())), "{} to {to}", from.namespace().name());
    }
}

fn the_host_and_a_container_that_ping_with_the_same_id_each_get_their_own_replies<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let pings = [(Pinger::new(&lab.host, 7), b"host"), (Pinger::new(&c1.place, 7), b"cont")];
    for seq in 1..=3 {
        for (ping, payload) in &pings {
            ping.send(lab.ext_ip, seq, *payload).expect("sent");
            // Nothing tells the two askers apart: each may see the other's replies, and gets its own.
            let mut replies = std::iter::from_fn(|| ping.reply(soon()));
            let own = replies.find(|(_, _, content)| content == payload).map(|(from, number, _)| (from, number));
            assert_eq!(own, Some((lab.ext_ip, seq)));
        }
    }
}

fn outside_cannot_ping_a_container_but_the_host_answers_for_itself<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    lab.ip(&lab.ext, &format!("route add {} via {}", lab.subnet(), lab.host_ip));
    let ping = Pinger::new(&lab.ext, 9);
    ping.send(c1.ip, 1, b"hello").expect("sent");
    assert_eq!(ping.reply(silence()), None);
    ping.send(lab.host_ip, 2, b"hello").expect("sent");
    assert_eq!(ping.reply(soon()).map(|(from, seq, _)| (from, seq)), Some((lab.host_ip, 2)));
}

fn the_host_learns_at_once_that_no_container_has_an_address<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    lab.done(&["rm", "-f", &c1.name]);
    let error = lab.host.connect(c1.at(80)).expect_err("nobody is there");
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
}

for_both!(
    two_containers_that_ping_with_the_same_id_each_get_their_own_replies,
    pings_go_between_containers_host_and_outside,
    the_host_and_a_container_that_ping_with_the_same_id_each_get_their_own_replies,
    outside_cannot_ping_a_container_but_the_host_answers_for_itself,
    the_host_learns_at_once_that_no_container_has_an_address,
);
