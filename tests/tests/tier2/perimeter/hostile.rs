//! A container that does with its own namespace whatever CAP_NET_ADMIN lets it.

use std::fs;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::Datagram;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::wait::{silence, until};

use crate::lab::{Container, Lab};

/// Whether nothing with this payload comes by.
fn is_silent(link: &Link, payload: &[u8]) -> bool {
    link.find(silence(), |frame| Datagram::parse(frame).filter(|it| it.payload == payload)).is_none()
}

fn inside(container: &Container, arguments: &[&str]) {
    container.place.command("ip", arguments);
}

fn what_a_container_changes_inside_gives_it_nothing_outside<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (attacker, victim) = (lab.container("attacker", &[]), lab.container("victim", &[]));
    let (wire, at_victim) = (lab.ext_link(), Link::open(&victim.place, "eth0"));
    let _server = Server::udp(&lab.ext, "ext", 53);
    ask_udp(&attacker.place.any_udp(), lab.at_ext(53)).expect("as long as it is itself");

    // The address of another, as its own: what it sends is dropped by name, and what is sent to the other goes there.
    let length = if victim.ip.is_ipv4() { 32 } else { 128 };
    let stolen = format!("{}/{length}", victim.ip);
    let nodad: &[&str] = if victim.ip.is_ipv4() { &[] } else { &["nodad"] };
    inside(&attacker, &[&["address", "add", &stolen, "dev", "eth0"], nodad].concat());
    let spoofed = lab.drops("spoofed-address");
    let thief = attacker.place.udp(victim.at(20_000)).expect("it has the address");
    thief.send_to(b"stolen", lab.at_ext(90)).expect("its own kernel lets it");
    until("it is dropped by name", || lab.drops("spoofed-address") > spoofed);
    assert!(is_silent(&wire, b"stolen"));
    let from_host = lab.host.any_udp();
    from_host.send_to(b"for the victim", victim.at(90)).expect("sent");
    assert!(!is_silent(&at_victim, b"for the victim"), "the victim keeps its address");
    inside(&attacker, &["address", "delete", &stolen, "dev", "eth0"]);

    // Another MAC address, and settings of a router.
    for (setting, value) in
        [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv6/conf/all/forwarding", "1")]
    {
        attacker.place.run(|| fs::write(format!("/proc/sys/net/{setting}"), value)).expect("it is its own");
    }
    let spoofed = lab.drops("spoofed-mac");
    inside(&attacker, &["link", "set", "dev", "eth0", "address", "02:00:00:00:47:11"]);
    attacker.place.any_udp().send_to(b"by another", lab.at_ext(90)).expect("its own kernel lets it");
    until("it is dropped by name", || lab.drops("spoofed-mac") > spoofed);
    assert!(is_silent(&wire, b"by another"));
    inside(&attacker, &["link", "set", "dev", "eth0", "address", &attacker.mac]);

    // What it can take off its end: the programs are on the other one.
    inside(&attacker, &["link", "set", "dev", "eth0", "mtu", "9000"]);
    attacker.place.command("nft", &["flush", "ruleset"]);
    assert_eq!(lab.problems(), Vec::<String>::new());
    ask_udp(&attacker.place.any_udp(), lab.at_ext(53)).expect("itself again");
}

fn a_container_that_removes_its_own_end_harms_nobody_else<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (leaving, staying) =
        (lab.container("leaving", &["-p", "8080:80"]), lab.container("staying", &["-p", "8081:80"]));
    let _server = Server::tcp(&staying.place, "staying", 80);
    inside(&leaving, &["link", "delete", "dev", "eth0"]);
    ask_tcp(&lab.ext, lab.at_host(8081)).expect("answered");
    let later = lab.container("later", &[]);
    ask_tcp(&later.place, staying.at(80)).expect("answered");
    lab.done(&["rm", &leaving.name]);
    ask_tcp(&later.place, lab.at_host(8081)).expect("answered");
    until("nothing is missing", || lab.problems().is_empty());
}

for_both!(
    what_a_container_changes_inside_gives_it_nothing_outside,
    a_container_that_removes_its_own_end_harms_nobody_else,
);
