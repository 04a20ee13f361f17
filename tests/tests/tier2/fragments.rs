//! Packets in pieces, through real stacks that cut them and put them together.

use std::net::{SocketAddr, UdpSocket};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::Headers;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, fragmented};
use netbpf_tests::ping::Pinger;
use netbpf_tests::place::Place;
use netbpf_tests::wait::{silence, soon, uninterrupted, until};

use crate::lab::Lab;

/// What a fragment holds, in either family.
const PIECE: usize = 1440;

/// What does not fit into one packet.
const LONG: usize = 8000;

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer)).expect("a datagram arrives");
    (buffer[..length].to_vec(), from)
}

/// A long datagram there, and a long one back.
#[track_caller]
fn there_and_back(says: &str, from: &Place, to: SocketAddr, server: &UdpSocket) {
    let client = from.any_udp();
    for len in [LONG, 1473, 32_753, LONG] {
        client.send_to(&payload(len), to).expect("sent");
        let (received, seen) = receive(server);
        assert_eq!(received, payload(len), "{says}");
        server.send_to(&received, seen).expect("sent");
        assert_eq!(receive(&client), (payload(len), to), "{says}, back");
    }
}

fn datagrams_of_many_packets_go_both_ways_on_every_path<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    let bound = |place: &Place, port| place.udp(lab.everywhere(port)).expect("bound");
    let (inside, outside, host) = (bound(&c1.place, 53), bound(&lab.ext, 90), bound(&lab.host, 90));
    there_and_back("masquerade", &c2.place, lab.at_ext(90), &outside);
    there_and_back("publish", &lab.ext, lab.at_host(5353), &inside);
    there_and_back("neighbours", &c2.place, c1.at(53), &inside);
    there_and_back("hairpin", &c2.place, lab.at_host(5353), &inside);
    there_and_back("to the host", &c2.place, lab.at_gateway(90), &host);
    there_and_back("from the host", &lab.host, c1.at(53), &inside);
    there_and_back("127.0.0.1", &lab.host, lab.loopback(5353), &inside);
    assert_eq!(lab.drops("fragment"), 0);
}

fn a_long_ping_comes_back_whole<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let ping = Pinger::new(&c1.place, 7);
    for seq in 1..=3 {
        ping.send(lab.ext_ip, seq, &payload(LONG)).expect("sent");
        assert_eq!(ping.reply(soon()), Some((lab.ext_ip, seq, payload(LONG))));
    }
    let host = Pinger::new(&lab.host, 8);
    host.send(lab.ext_ip, 1, &payload(LONG)).expect("sent");
    assert_eq!(host.reply(soon()), Some((lab.ext_ip, 1, payload(LONG))), "the host's own");
}

/// Orders in which the last or a middle piece comes first.
fn orders(pieces: &[Vec<u8>]) -> [Vec<Vec<u8>>; 3] {
    let mut backwards = pieces.to_vec();
    backwards.reverse();
    let mut first_last = pieces.to_vec();
    first_last.rotate_left(1);
    [pieces.to_vec(), backwards, first_last]
}

/// The fragment at the same place in another packet.
fn same<'a>(pieces: &'a [Vec<u8>], as_this: &[u8]) -> &'a [u8] {
    let offset = |piece: &[u8]| Headers::read(piece).expect("IP").offset;
    pieces.iter().find(|piece| offset(piece) == offset(as_this)).expect("the same pieces")
}

fn in_whatever_order_the_pieces_come_the_datagram_arrives_whole<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let (inside, wire) = (Link::open(&c1.place, "eth0"), lab.ext_link());
    let to_gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };
    let to_host = Ethernet { from: wire.mac, to: lab.host_mac() };
    let outside = lab.ext.udp(lab.at_ext(90)).expect("bound");
    let server = c1.place.udp(c1.at(53)).expect("bound");

    for (id, len) in [(1, LONG), (10, 3000), (20, 40_000)] {
        let out = to_gateway.udp(c1.at(20_000), lab.at_ext(90), &payload(len));
        for (number, order) in orders(&fragmented(&out, id, PIECE)).into_iter().enumerate() {
            // Each order is a datagram with a number of its own.
            let again = fragmented(&out, id + number as u16, PIECE);
            for piece in &order {
                inside.send(same(&again, piece));
            }
            let (received, from) = receive(&outside);
            assert_eq!(received, payload(len), "out, order {number}");
            assert_eq!(from, lab.at_host(20_000));
        }
        let client = lab.at_ext(5000);
        let back = to_host.udp(client, lab.at_host(5353), &payload(len));
        for (number, order) in orders(&fragmented(&back, id, PIECE)).into_iter().enumerate() {
            let again = fragmented(&back, id + number as u16, PIECE);
            for piece in &order {
                wire.send(same(&again, piece));
            }
            assert_eq!(receive(&server), (payload(len), client), "in, order {number}");
        }
    }
    assert!(lab.event("fragment-held") > 0);
    assert_eq!(lab.event("fragment-held"), lab.event("fragment-released"));
    assert_eq!(lab.drops("fragment"), 0);
}

fn pieces_without_a_beginning_harm_nobody_and_leave_no_trace_outside<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let (inside, wire) = (Link::open(&c1.place, "eth0"), lab.ext_link());
    let to_gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };
    let out = to_gateway.udp(c1.at(20_000), lab.at_ext(90), &payload(LONG));
    for id in 0..100 {
        for piece in &fragmented(&out, id, PIECE)[1..] {
            inside.send(piece);
        }
    }
    let leaked = wire.find(silence(), |frame| Headers::read(frame)?.is_fragment.then(|| frame.to_vec()));
    assert_eq!(leaked, None, "nothing of it on the wire");
    there_and_back("afterwards", &c1.place, lab.at_ext(90), &lab.ext.udp(lab.everywhere(90)).expect("bound"));
}

fn tiny_and_overlapping_first_fragments_are_dropped_by_name<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let (inside, wire) = (Link::open(&c1.place, "eth0"), lab.ext_link());
    let to_gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };
    let to_host = Ethernet { from: wire.mac, to: lab.host_mac() };
    let syn = |link: Ethernet, from, to| link.syn(from, to, 1);
    let out = fragmented(&syn(to_gateway, c1.at(20_000), lab.at_ext(90)), 1, 8);
    let back = fragmented(&syn(to_host, lab.at_ext(5000), lab.at_host(8080)), 1, 8);
    inside.send(&out[0]);
    wire.send(&back[0]);
    until("both tiny ones are counted", || lab.drops("tiny-fragment") == 2);
    inside.send(&out[1]);
    wire.send(&back[1]);
    until("both that hold the flags are counted", || lab.drops("overlapping-fragment") == 2);
    assert_eq!(lab.flows(&c1), []);
}

for_both!(
    datagrams_of_many_packets_go_both_ways_on_every_path,
    a_long_ping_comes_back_whole,
    in_whatever_order_the_pieces_come_the_datagram_arrives_whole,
    pieces_without_a_beginning_harm_nobody_and_leave_no_trace_outside,
    tiny_and_overlapping_first_fragments_are_dropped_by_name,
);
