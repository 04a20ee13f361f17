//! What many can do to a few: floods, limits, and as many connections as go through.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use netbpf_tests::family::{TestFamily, nth};
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, soon, uninterrupted, until};

use crate::lab::Lab;

/// What a program fails with that is told that its packet may not go on: RFC 1812 section 5.2.7.1 leads to EHOSTUNREACH, RFC
/// 4443 section 3.1 to EACCES.
fn prohibited(lab: &Lab) -> ErrorKind {
    match lab.version {
        Version::V4 => ErrorKind::HostUnreachable,
        Version::V6 => ErrorKind::PermissionDenied,
    }
}

/// Ten times as many SYNs as there can be half-open flows, at a published port, under a transfer by another.
fn a_flood_at<F: TestFamily>(port: u16) {
    const HALF_OPEN: u32 = 1024;
    /// With what is sent in answer to them and with a neighbour's, no more than fits `net.core.netdev_max_backlog`.
    const BURST: u32 = 128;
    let lab = Lab::configured::<F>(&format!("flows = 8192\nflows_v6 = 8192\nhalf_open = {HALF_OPEN}\n"));
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "8081:81", "-p", "9090:90", "-p", "5353:53/udp"]);
    let cpus = thread::available_parallelism().expect("countable").get() as u32;
    let _servers = [Server::tcp(&c1.place, "c1", 80), Server::udp(&c1.place, "c1", 53)];
    let listener = c1.place.listen(lab.everywhere(90)).expect("listening");
    let client = lab.ext.connect(lab.at_host(9090)).expect("connected");
    let (server, _) = listener.accept().expect("a connection waits");
    server.set_read_timeout(Some(soon())).expect("a timeout");

    let wire = lab.ext_link();
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    let dns = lab.ext.any_udp();
    dns.set_read_timeout(Some(silence())).expect("a timeout");
    let flood = |to: SocketAddr| {
        for n in 0..10 * HALF_OPEN * cpus {
            let source = SocketAddr::new(nth(F::CLIENTS, n / 50_000), (n % 50_000) as u16 + 1024);
            wire.send(&ethernet.syn(source, to, n));
            // Not faster than the kernel takes them: it would throw away the transfer's at random, before any of our programs.
            if n % BURST == 0 {
                until("another is served under the flood", || ask_udp(&dns, lab.at_host(5353)).is_ok());
            }
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

fn a_syn_flood_at_a_port_with_a_listener_disturbs_no_transfer<F: TestFamily>() {
    a_flood_at::<F>(8080);
}

fn a_syn_flood_at_a_port_without_a_listener_disturbs_no_transfer<F: TestFamily>() {
    a_flood_at::<F>(8081);
}

fn a_container_that_opens_too_many_flows_is_held_down_by_name_and_the_others_are_not<F: TestFamily>() {
    let lab = Lab::configured::<F>("flows_per_container = 50\n");
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let _dns = Server::udp(&lab.ext, "ext", 53);
    let converse = |socket: &UdpSocket| -> io::Result<()> {
        // Asked twice, it is a conversation: confirmed.
        for _ in 0..2 {
            socket.send(b"how do you do")?;
            uninterrupted(|| socket.recv(&mut [0; 64]))?;
        }
        Ok(())
    };
    let connected = || {
        let socket = c1.place.any_udp();
        c1.place.run(|| socket.connect(lab.at_ext(53))).expect("UDP connects at once");
        socket
    };
    let kept: Vec<_> = (0..50).map(|_| connected()).collect();
    for socket in &kept {
        converse(socket).expect("so many it may have");
    }
    for _ in 0..2 {
        let refused = converse(&connected()).expect_err("one more than it may have");
        assert_eq!(refused.kind(), prohibited(&lab), "told at once: {refused}");
    }
    assert!(lab.drops("flow-limit") >= 2);
    converse(&kept[0]).expect("what it has goes on");
    let other = c2.place.any_udp();
    for _ in 0..3 {
        ask_udp(&other, lab.at_ext(53)).expect("the others are served");
    }
}

fn when_all_ports_towards_a_machine_are_used_up_the_sender_is_told_at_once_and_the_rest_goes_on<F: TestFamily>() {
    const PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_255;
    let lab = Lab::configured::<F>("nat_ports = \"20000-20255\"\n[timeouts]\nudp_unreplied = 1\n");
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let _servers = [Server::tcp(&lab.ext, "ext", 90), Server::tcp(&lab.ext, "ext", 91)];
    // Another container has them all towards one port of a machine, by TCP and by UDP.
    let link = Link::open(&c1.place, "eth0");
    let ethernet = Ethernet { from: link.mac, to: lab.gateway_mac(&c1) };
    let mut kept = Conversation::on(c1.place.connect(lab.at_ext(91)).expect("connected")).expect("greeted");
    let take = || {
        for port in PORTS {
            link.send(&ethernet.udp(c1.at(port), lab.at_ext(99), b"mine"));
            link.send(&ethernet.syn(c1.at(port), lab.at_ext(90), 1));
        }
    };
    take();
    until("all are taken", || lab.flows(&c1).len() >= 2 * PORTS.len());
    let udp = c2.place.any_udp();
    c2.place.run(|| udp.connect(lab.at_ext(99))).expect("UDP connects at once");
    take();
    udp.send(b"me too").expect("sent");
    let told = uninterrupted(|| udp.recv(&mut [0; 8])).expect_err("nobody answers");
    assert_eq!(told.kind(), prohibited(&lab), "{told}");
    take();
    let told = c2.place.connect(lab.at_ext(90)).expect_err("no port is left");
    assert_eq!(told.kind(), prohibited(&lab), "{told}");
    assert!(lab.drops("no-port") >= 2);
    kept.exchange(b"still there?").expect("what is there goes on");
    ask_tcp(&c2.place, lab.at_ext(91)).expect("another destination is reached");
    until("a port is free again", || {
        udp.send(b"me too").is_ok() && lab.flows(&c2).iter().any(|flow| flow.destination.ends_with(":99"))
    });
}

/// Connections that are opened, used and closed one after the other by each of a few clients.
const CONNECTIONS: u32 = 600_000;
const CLIENTS: u32 = 4;

fn as_many_connections_as_ten_thousand_a_second_are_in_a_minute_go_through_one_published_port<F: TestFamily>() {
    let lab = Lab::configured::<F>("flows = 1048576\nflows_v6 = 1048576\nhalf_open = 65536\n");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let listener = c1.place.listen(lab.everywhere(80)).expect("listening");
    // Ports of its own for each client, so that each uses its own again and again: in time-wait, too.
    let server = netbpf_tests::server::Counter::serve(listener);
    let started = Instant::now();
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
    let seconds = started.elapsed().as_secs_f64();
    println!("{CONNECTIONS} connections in {seconds:.1} s: {:.0} per second", f64::from(CONNECTIONS) / seconds);
    assert_eq!(server.answered(), u64::from(CONNECTIONS));
    assert_eq!((lab.drops("table-full"), lab.drops("no-port"), lab.drops("flow-limit")), (0, 0, 0));
}

for_both!(
    a_syn_flood_at_a_port_with_a_listener_disturbs_no_transfer,
    a_syn_flood_at_a_port_without_a_listener_disturbs_no_transfer,
    a_container_that_opens_too_many_flows_is_held_down_by_name_and_the_others_are_not,
    when_all_ports_towards_a_machine_are_used_up_the_sender_is_told_at_once_and_the_rest_goes_on,
    as_many_connections_as_ten_thousand_a_second_are_in_a_minute_go_through_one_published_port,
);
