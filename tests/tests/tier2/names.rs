//! Names: who finds whom, and who is asked for the rest.

use std::net::IpAddr;

use netbpf_common::path::V4;
use netbpf_tests::server::{Server, ask_udp};
use netbpf_tests::wait::until;

use crate::lab::{Container, Lab, Outcome};

/// What a container that looks a name up is told, by the resolver of the C library.
fn look_up(lab: &Lab, container: &Container, name: &str) -> Outcome {
    lab.netbpf(&["exec", &container.name, "--", "getent", "ahostsv4", name])
}

fn addresses(lab: &Lab, container: &Container, name: &str) -> Vec<IpAddr> {
    let told = look_up(lab, container, name).stdout;
    let mut addresses: Vec<IpAddr> =
        told.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[test]
fn containers_find_each_other_by_name_alias_and_hostname_in_networks_that_they_share() {
    let lab = Lab::new::<V4>();
    let network = lab.name("n");
    lab.done(&["network", "create", &network]);
    let in_network = |name: &str, flags: &[&str]| {
        lab.container(name, &[&["--network", &network, "--network-alias", "db"][..], flags].concat())
    };
    let (a, b) = (in_network("a", &[]), in_network("b", &["--hostname", "bee"]));
    let stranger = lab.container("stranger", &[]);
    assert_eq!(addresses(&lab, &a, &b.name), [b.ip]);
    assert_eq!(addresses(&lab, &b, &a.name.to_uppercase()), [a.ip]);
    assert_eq!(addresses(&lab, &a, "bee"), [b.ip]);
    assert_eq!(addresses(&lab, &a, "db"), [a.ip, b.ip]);
    assert_eq!(addresses(&lab, &stranger, &b.name), Vec::<IpAddr>::new());
    let reverse = lab.done(&["exec", &a.name, "--", "getent", "hosts", &b.ip.to_string()]);
    assert!(reverse.contains(&b.name), "{reverse}");
    lab.done(&["network", "connect", "--alias", "guest", &network, &stranger.name]);
    assert_eq!(addresses(&lab, &stranger, &b.name), [b.ip]);
    assert_eq!(addresses(&lab, &b, "guest").len(), 1);
    lab.done(&["rm", &b.name]);
    assert_eq!(addresses(&lab, &a, "db"), [a.ip]);
}

#[test]
fn a_published_resolver_is_another_than_that_of_containers() {
    let lab = Lab::new::<V4>();
    let (a, b) = (lab.container("a", &[]), lab.container("b", &["-p", "53:53/udp"]));
    let _dns = Server::udp(&b.place, "b", 53);
    let (seen, _) = ask_udp(&lab.ext.any_udp(), lab.at_host(53)).expect("published");
    assert_eq!(seen.server, "b");
    assert_eq!(addresses(&lab, &a, &b.name), [b.ip]);
}

#[test]
fn names_are_found_again_after_a_restart() {
    let mut lab = Lab::new::<V4>();
    let (a, b) = (lab.container("a", &[]), lab.container("b", &["-p", "53:53/udp"]));
    lab.kill_agent();
    lab.start_agent();
    assert_eq!(addresses(&lab, &a, &b.name), [b.ip]);
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn a_container_sees_its_own_files_whoever_starts_the_process() {
    let lab = Lab::new::<V4>();
    let name = lab.name("c");
    let flags = ["--hostname", "box", "--dns", "10.9.9.9", "--dns-search", "example.org", "--dns-option", "ndots:2"];
    let hosts = ["--add-host", "db:10.0.0.9", "--add-host", "host:host-gateway"];
    lab.done(&[&["create", "--name", &name][..], &flags, &hosts].concat());
    let container = lab.find(&name);
    let script = "cat /etc/hosts /etc/resolv.conf /etc/hostname";
    let by_exec = lab.done(&["exec", &name, "--", "sh", "-c", script]);
    let by_ip = lab.host.command("ip", &["netns", "exec", &name, "sh", "-c", script]);
    assert_eq!(by_exec, by_ip);
    let own = format!("{}\tbox\n", container.ip);
    for line in [
        "10.0.0.9\tdb\n",
        "172.30.0.1\thost\n",
        &own,
        "nameserver 172.30.0.1\nsearch example.org\noptions ndots:2\n",
        "\nbox\n",
    ] {
        assert!(by_exec.contains(line), "{line:?} is missing: {by_exec}");
    }
    assert_eq!(lab.json(&["inspect", &name])["extra_hosts"][1], "host:host-gateway");
    let link = format!("/etc/netns/{name}");
    assert!(std::fs::read_link(&link).is_ok());
    lab.done(&["rm", &name]);
    until("nothing is left", || std::fs::symlink_metadata(&link).is_err());
}
