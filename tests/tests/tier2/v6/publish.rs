//! What is published on IPv6 alone, and what is refused.

use std::io;
use std::net::IpAddr;

use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::version::Version;
use netbpf_user::rig::Rig;

use super::lab;

fn refused(from: &Place, to: (IpAddr, u16)) -> bool {
    from.connect(to.into()).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn all_addresses_of_one_family_do_not_conflict_with_those_of_the_other() {
    let lab = lab();
    let c1 = lab.container("c1", &["-p", "[::]:8080:80"]);
    let c2 = lab.container("c2", &["-p", "0.0.0.0:8080:80", "-p", "[::]:8081:80"]);
    let _first = Server::tcp(&c1.place, "c1", 80);
    let _second = [Version::V4, Version::V6].map(|version| Server::tcp(&c2.place.speaking(version), "c2", 80));
    let v4 = |port| (IpAddr::V4(Rig::HOST_IP), port);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.ext, v4(8080).into()).expect("answered").server, "c2");
    assert_eq!(ask_tcp(&lab.host, Version::V4.loopback(8080)).expect("answered").server, "c2");
    assert!(refused(&lab.ext, v4(8081)));
    // Without an address both are wanted.
    for spec in ["8080:90", "8081:90", "[::1]:8081:90"] {
        lab.refused(&["publish", &c2.name, "-p", spec]);
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let lab = lab();
    let c1 = lab.container("c1", &["-p", "[::1]:8080:80"]);
    let new = lab.name("new");
    let create = |arguments: &[&str]| lab.refused(&[&["create", "--name", &new][..], arguments].concat());
    let taken = c1.ip.to_string();
    for (line, expected) in [
        (create(&["-p", "[::1]:8080:80"]), c1.name.as_str()),
        (create(&["--ip6", &taken]), &taken),
        (create(&["--ip6", "2001:db8::1"]), "fd00:172:30::/64"),
        (create(&["--ip6", "fd00:172:30::1"]), "gateway"),
        (create(&["--ip6", "fd00:172:30::"]), "fd00:172:30::"),
        (create(&["--ip6", "fe80::1"]), "fe80::1"),
        (create(&["--ip6", "ff02::1"]), "ff02::1"),
        (create(&["-p", "[2001:db8::99]:8081:80"]), "2001:db8::99"),
        (create(&["-p", "[fe80::1]:8081:80"]), "fe80::1"),
        (create(&["-p", "[::1:8081:80"]), "[::1:8081:80"),
        (create(&["-p", "[::1]8081:80"]), "[::1]8081:80"),
    ] {
        assert!(line.contains(expected), "`{expected}` is not named: {line}");
    }
}

#[test]
fn a_container_has_the_addresses_and_the_routes_it_should() {
    let lab = lab();
    let c1 = lab.container("c1", &["--ip6", "fd00:172:30::7:9", "--mac-address", "02:00:00:00:12:34"]);
    assert_eq!(c1.ip.to_string(), "fd00:172:30::7:9");
    let shown = lab.ip(&c1.place, "-oneline address show dev eth0");
    let addresses: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(addresses.len(), 2, "{shown}");
    for address in ["fd00:172:30::7:9/64", "fe80::ff:fe00:1234/64"] {
        assert!(addresses.contains(&address), "{shown}");
    }
    // The agent knows who has which address: nobody waits until that was asked.
    let own = lab.ip(&c1.place, &format!("-oneline address show to {}", c1.ip));
    assert!(!own.contains("tentative") && !shown.contains("dynamic"), "{shown}");
    let route = lab.ip(&c1.place, "route show default");
    assert!(route.starts_with(&format!("default via {} dev eth0", lab.gateway())), "{route}");
    for (name, value) in [("accept_ra", "0"), ("accept_redirects", "0"), ("forwarding", "0"), ("autoconf", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{name}");
        let set = c1.place.run(|| std::fs::read_to_string(path)).expect("readable");
        assert_eq!(set.trim(), value, "{name}");
    }
}
