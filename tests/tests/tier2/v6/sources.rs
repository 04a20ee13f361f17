//! Which of the uplink's addresses containers are seen under.

use std::net::{IpAddr, Ipv6Addr};

use netbpf_tests::server::{Server, ask_udp};
use netbpf_tests::wait::until;

use super::lab;
use crate::lab::{Container, Lab};

fn other(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, number)
}

fn seen(lab: &Lab, c1: &Container) -> Option<IpAddr> {
    let socket = c1.place.any_udp();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).expect("a timeout");
    ask_udp(&socket, lab.at_ext(90)).ok().map(|(seen, _)| seen.client.ip())
}

/// The addresses of the uplink that have a flag.
fn with_flag(lab: &Lab, flag: &str) -> Vec<String> {
    let shown = lab.ip(&lab.host, &format!("-oneline address show dev {} {flag} scope global", lab.uplink()));
    shown.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned())).collect()
}

#[test]
fn an_address_that_is_deprecated_is_left_for_one_that_is_not() {
    let lab = lab();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&lab.ext, "ext", 90);
    assert_eq!(seen(&lab, &c1), Some(lab.host_ip));
    let new = IpAddr::from(other(3));
    lab.add_address(&lab.host, &lab.on_wire(new), &lab.uplink());
    assert_eq!(seen(&lab, &c1), Some(lab.host_ip), "it stays the same as long as it can");
    lab.ip(&lab.host, &format!("address change {} dev {} preferred_lft 0", lab.on_wire(lab.host_ip), lab.uplink()));
    until("the other is used", || seen(&lab, &c1) == Some(new));
}

#[test]
fn temporary_and_tentative_addresses_are_never_used() {
    let lab = lab();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&lab.ext, "ext", 90);
    let uplink = lab.uplink();
    let set = |name: &str, value: &str| {
        let name = format!("net/ipv6/conf/{uplink}/{name}");
        lab.host.namespace().sysctl(&name, value).unwrap_or_else(|error| panic!("{error}"));
    };
    set("use_tempaddr", "2");
    let lasting = IpAddr::from(other(4));
    // The kernel makes temporary ones beside it (RFC 8981).
    lab.ip(&lab.host, &format!("address add {} dev {uplink} mngtmpaddr nodad", lab.on_wire(lasting)));
    until("there is a temporary one", || !with_flag(&lab, "temporary").is_empty());
    // Nobody ever ends to look for a duplicate of this one.
    set("accept_dad", "1");
    set("dad_transmits", "1000");
    let tentative = other(5);
    lab.ip(&lab.host, &format!("address add {tentative}/64 dev {uplink}"));
    lab.ip(&lab.host, &format!("address delete {} dev {uplink}", lab.on_wire(lab.host_ip)));
    until("the lasting one is used", || seen(&lab, &c1) == Some(lasting));
    assert!(with_flag(&lab, "tentative").contains(&tentative.to_string()));
    lab.ip(&lab.host, &format!("address delete {} dev {uplink}", lab.on_wire(lasting)));
    until("none is left", || {
        let status = lab.json(&["status", "--json"]);
        let uplinks = status["uplinks"].as_array().expect("a list").clone();
        uplinks.iter().all(|uplink| uplink["name"] != lab.uplink() || uplink["address6"].is_null())
    });
    assert_eq!(seen(&lab, &c1), None);
    assert!(lab.drops("no-uplink") > 0, "by name");
}
