//! What many can do to a few: floods, limits, and as many connections as go through.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netbpf_tests::packet::Ethernet;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::wait::{SILENCE, SOON, until};

use crate::lab::Lab;

fn everywhere(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

/// Ten times as many SYNs as there can be half-open flows, at a published port, under a transfer by another.
fn a_flood_at(port: u16) {
    const HALF_OPEN: u32 = 1024;
    let lab = Lab::configured(&format!("flows = 8192\nhalf_open = {HALF_OPEN}\n"));
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "8081:81", "-p", "9090:90"]);
    let cpus = thread::available_parallelism().expect("countable").get() as u32;
    let _web = Server::tcp(&c1.place, "c1", 80);
    let listener = c1.place.listen(everywhere(90)).expect("listening");
    let client = lab.ext.connect(lab.at_host(9090)).expect("connected");
    let (server, _) = listener.accept().expect("a connection waits");
    server.set_read_timeout(Some(SOON)).expect("a timeout");

    let wire = lab.ext_link();
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    let flood = |to: SocketAddrV4| {
        for n in 0..10 * HALF_OPEN * cpus {
            let source = SocketAddrV4::new(Ipv4Addr::from(0x0a63_0000 + n / 50_000), (n % 50_000) as u16 + 1024);
            wire.send(&ethernet.syn(source, to, n));
        }
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let moved = transfer(&client, &server, 256 << 20);
            over.store(true, Ordering::Relaxed);
            moved
        });
        // At least once, and for as long as the transfer runs.
        loop {
            flood(lab.at_host(port));
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        running.join().expect("no panic").expect("every byte of the transfer arrives");
    });
    assert!(lab.event("flow-evicted") > 0);
    assert_eq!(lab.drops("table-full"), 0);
    until("new clients are served afterwards", || ask_tcp(&lab.ext, lab.at_host(8080)).is_ok());
}

#[test]
fn a_syn_flood_at_a_port_with_a_listener_disturbs_no_transfer() {
    a_flood_at(8080);
}

#[test]
fn a_syn_flood_at_a_port_without_a_listener_disturbs_no_transfer() {
    a_flood_at(8081);
}

#[test]
fn a_container_that_opens_too_many_flows_is_held_down_by_name_and_the_others_are_not() {
    let lab = Lab::configured("flows_per_container = 50\n");
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let _dns = Server::udp(&lab.ext, "ext", 53);
    let mut refused = 0;
    let mut kept = Vec::new();
    for _ in 0..80 {
        let socket = c1.place.any_udp();
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        // Asked twice, it is a conversation: confirmed.
        if ask_udp(&socket, lab.at_ext(53)).is_ok() && ask_udp(&socket, lab.at_ext(53)).is_ok() {
            kept.push(socket);
        } else {
            refused += 1;
        }
        if refused == 2 {
            break;
        }
    }
    assert_eq!(kept.len(), 50);
    assert!(lab.drops("flow-limit") >= 2);
    ask_udp(&kept[0], lab.at_ext(53)).expect("what it has goes on");
    let other = c2.place.any_udp();
    for _ in 0..3 {
        ask_udp(&other, lab.at_ext(53)).expect("the others are served");
    }
}

/// Connections that are opened, used and closed one after the other by each of a few clients.
const CONNECTIONS: u32 = 600_000;
const CLIENTS: u32 = 4;

#[test]
fn ten_thousand_connections_a_second_for_a_minute_go_through_one_published_port() {
    let lab = Lab::configured("flows = 1048576\nhalf_open = 65536\n");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let listener = c1.place.listen(everywhere(80)).expect("listening");
    // Ports of its own for each client, so that each uses its own again and again: in time-wait, too.
    let server = netbpf_tests::server::Counter::serve(listener);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                lab.ext.run(|| {
                    for n in 0..CONNECTIONS / CLIENTS {
                        netbpf_tests::server::one_byte(lab.at_host(8080))
                            .unwrap_or_else(|error| panic!("connection {n}: {error}"));
                    }
                });
            });
        }
    });
    assert_eq!(server.answered(), u64::from(CONNECTIONS));
    assert_eq!((lab.drops("table-full"), lab.drops("no-port"), lab.drops("flow-limit")), (0, 0, 0));
}
