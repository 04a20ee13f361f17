//! The flow table, as a user sees it: what is in it, how it empties, and that a flood does not fill it.

use std::net::SocketAddr;
use std::time::Duration;

use netbpf_tests::family::{TestFamily, nth};
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::wait::{poll_for, scaled, until};

use crate::lab::Lab;

fn a_flow_is_listed_with_both_its_faces<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let stream = lab.ext.connect_from(5000, lab.at_host(8080)).expect("connected");
    let mut conversation = Conversation::on(stream).expect("greeted");
    conversation.exchange(b"hello").expect("its echo");

    let flows = lab.flows(&c1);
    assert_eq!(flows.len(), 1, "{flows:?}");
    let (flow, client) = (&flows[0], lab.at_ext(5000).to_string());
    assert_eq!((flow.protocol.as_str(), flow.state.as_str()), ("tcp", "established"));
    assert_eq!((&flow.source, &flow.destination), (&client, &lab.at_host(8080).to_string()));
    assert_eq!((&flow.translated_source, &flow.translated_destination), (&client, &c1.at(80).to_string()));
    assert_eq!(flow.containers, [c1.name.as_str()]);
    assert!(flow.packets >= 3 && flow.reply_packets >= 2, "{flow:?}");
    assert!(flow.bytes > 5 * 20 && flow.reply_bytes > 5 * 20, "{flow:?}");
    assert_eq!(lab.flows(&c2), []);
}

fn what_has_expired_is_collected_and_what_lives_is_not<F: TestFamily>() {
    let lab = Lab::configured::<F>("[timeouts]\nudp_unreplied = 1\nudp_replied = 1\n");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _dns = Server::udp(&lab.ext, "ext", 53);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    for _ in 0..10 {
        ask_udp(&c1.place.any_udp(), lab.at_ext(53)).expect("answered");
    }
    assert_eq!(lab.flows(&c1).len(), 11);
    let collected = poll_for(scaled(Duration::from_secs(40)), || (lab.flows(&c1).len() == 1).then_some(()));
    assert!(collected.is_some(), "{:?}", lab.flows(&c1));
    assert_eq!(lab.event("flow-collected"), 10);
    kept.exchange(b"still there?").expect("the connection stands");
}

fn closed_connections_make_room_where_a_container_has_many<F: TestFamily>() {
    const LIMIT: usize = 40;
    let lab = Lab::configured::<F>(&format!("flows_per_container = {LIMIT}\n"));
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    for _ in 1..LIMIT {
        ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    }
    // Two minutes before their time.
    let made_room = poll_for(scaled(Duration::from_secs(40)), || (lab.flows(&c1).len() == LIMIT / 2).then_some(()));
    assert!(made_room.is_some(), "{:?}", lab.flows(&c1));
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("there is room again");
    kept.exchange(b"still there?").expect("the connection stands");
    assert_eq!(lab.drops("flow-limit"), 0);
}

fn a_flood_of_half_open_connections_touches_no_established_one<F: TestFamily>() {
    const FLOOD: u32 = 40_000;
    let lab = Lab::configured::<F>("flows = 4096\nflows_v6 = 4096\nhalf_open = 1024\n");
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "8081:81"]);
    let c2 = lab.container("c2", &[]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let open = |stream: std::io::Result<_>| Conversation::on(stream.expect("connected")).expect("greeted");
    let mut established = [
        open(lab.ext.connect(lab.at_host(8080))),
        open(c2.place.connect(lab.at_ext(90))),
        open(c2.place.connect(c1.at(80))),
    ];

    // At a port with a listener and at one without: both answer every SYN.
    let wire = lab.ext_link();
    let ethernet = Ethernet { from: wire.mac, to: lab.host_mac() };
    for n in 0..FLOOD {
        let source = SocketAddr::new(nth(F::CLIENTS, n / 60_000), (n % 60_000) as u16 + 1024);
        wire.send(&ethernet.syn(source, lab.at_host(8080 + (n % 2) as u16), n));
    }
    // And from inside, towards the world.
    let inside = Link::open(&c2.place, "eth0");
    let to_gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c2) };
    for port in 1024..20_000 {
        inside.send(&to_gateway.udp(c2.at(port), lab.at_ext(99), b"flood"));
    }

    for conversation in &mut established {
        conversation.exchange(b"still there?").expect("an established connection is never evicted");
    }
    assert!(lab.event("flow-evicted") > 0);
    assert_eq!(lab.drops("table-full"), 0);
    until("new connections are made during the flood's aftermath", || ask_tcp(&lab.ext, lab.at_host(8080)).is_ok());
    ask_tcp(&c2.place, lab.at_ext(90)).expect("answered");
}

for_both!(
    a_flow_is_listed_with_both_its_faces,
    what_has_expired_is_collected_and_what_lives_is_not,
    closed_connections_make_room_where_a_container_has_many,
    a_flood_of_half_open_connections_touches_no_established_one,
);
