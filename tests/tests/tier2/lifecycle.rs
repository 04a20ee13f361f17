//! Containers come and go.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Datagram, tcp_flags};
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, uninterrupted};

use crate::lab::{Lab, OwnNamespace};

#[test]
fn a_container_has_the_device_the_address_and_the_routes_it_should() {
    let lab = Lab::new::<V4>();
    let name = lab.name("c1");
    lab.done(&["create", "--name", &name, "--ip", "172.30.7.9"]);
    let c1 = lab.find(&name);
    assert_eq!(c1.ip, lab.nth(0x0709));
    let inside = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&c1.place.command("ip", arguments)).expect("JSON of ip")
    };
    let device = &inside(&["-json", "address", "show", "dev", "eth0"])[0];
    assert_eq!(device["address"], "02:42:ac:1e:07:09");
    assert_eq!((&device["mtu"], &device["operstate"]), (&65_535.into(), &"UP".into()));
    let addresses = device["addr_info"].as_array().expect("a list");
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert_eq!((&addresses[0]["local"], &addresses[0]["prefixlen"]), (&"172.30.7.9".into(), &16.into()));
    let route = &inside(&["-json", "route", "show", "default"])[0];
    assert_eq!((&route["gateway"], &route["dev"]), (&lab.gateway().to_string().into(), &"eth0".into()));
    let beyond = route["metrics"][0]["mtu"].as_u64();
    assert_eq!(beyond, Some(1500), "what the uplink carries: {route}");
    let range = c1.place.run(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")).expect("readable");
    assert_eq!(range.split_whitespace().collect::<Vec<_>>(), ["16384", "32767"]);
    let named = lab.host.command("ip", &["netns", "list"]);
    assert!(named.lines().any(|line| line.split_whitespace().next() == Some(&name)), "{named}");
}

#[test]
fn a_mac_address_can_be_chosen() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["--mac-address", "02:00:00:00:12:34"]);
    let c2 = lab.container("c2", &[]);
    assert_eq!(Link::open(&c1.place, "eth0").mac, [2, 0, 0, 0, 0x12, 0x34]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&c2.place, c1.at(80)).expect("answered");
}

fn listings_show_what_is_there<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let all = lab.json(&["ps", "--json"]);
    let shown = &all[0];
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    assert_eq!(shown["name"], c1.name.as_str());
    let (ip, gateway) = match lab.version {
        Version::V4 => ("ip", "gateway"),
        Version::V6 => ("ip6", "gateway6"),
    };
    assert_eq!(shown[ip], c1.ip.to_string());
    assert_eq!(shown[gateway], lab.gateway().to_string());
    for key in ["id", "pid", "netns", "network", "ip6", "mac", "gateway6", "ports"] {
        assert!(shown.get(key).is_some(), "`{key}` is missing: {shown}");
    }
    let inspected = lab.json(&["inspect", &c1.name]);
    assert_eq!(inspected["id"], shown["id"]);
    let table = lab.done(&["ps"]);
    assert!(table.contains(&c1.name) && table.contains("8080"), "{table}");
}

fn a_removed_container_leaves_nothing<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let before = lab.snapshot();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "9000-9100:9000-9100"]);
    lab.done(&["rm", "-f", &c1.name]);
    lab.unchanged(&before, "create and rm");
    assert!(!c1.place.namespace().path().exists());
}

#[test]
fn removing_twice_succeeds() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &[]);
    lab.done(&["rm", "-f", &c1.name]);
    lab.done(&["rm", "-f", &c1.name]);
}

fn a_container_whose_namespace_was_deleted_by_hand_can_be_removed_and_made_again<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let before = lab.snapshot();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    lab.host.command("ip", &["netns", "delete", &c1.name]);
    lab.done(&["rm", "-f", &c1.name]);
    lab.unchanged(&before, "create, a deletion by hand and rm");
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
}

fn who_gets_an_address_next_gets_nothing_of_its_predecessor<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let address = lab.nth(0x0909).to_string();
    let arguments = [lab.ip_flag(), &address, "-p", "8080:80", "-p", "5353:53/udp"];
    let old = lab.container("old", &arguments);
    let peer = lab.container("peer", &[]);
    let listener = old.place.listen(old.at(80)).expect("listening");
    let outside = Server::tcp(&lab.ext, "ext", 90);
    let _udp = Server::udp(&old.place, "old", 53);

    // Inwards, outwards and from a neighbour: all stand when the old one goes.
    let inwards = lab.ext.connect_from(5001, lab.at_host(8080)).expect("connected");
    let neighbour = peer.place.connect_from(5002, old.at(80)).expect("connected");
    let outwards =
        Conversation::on(old.place.connect_from(20_001, lab.at_ext(90)).expect("connected")).expect("greeted");
    let talker = lab.ext.udp(lab.at_ext(90)).expect("bound");
    old.place.udp(old.at(20_002)).expect("bound").send_to(b"hello", lab.at_ext(90)).expect("sent");
    let (_, mapping) = uninterrupted(|| talker.recv_from(&mut [0; 64])).expect("received");
    lab.done(&["rm", "-f", &old.name]);
    drop((listener, outwards));

    let new = lab.container("new", &arguments);
    assert_eq!(new.ip, old.ip);
    let inside = Link::open(&new.place, "eth0");
    talker.send_to(b"for the old one", mapping).expect("sent");
    for stream in [&inwards, &neighbour] {
        let mut stream = stream;
        io::Write::write_all(&mut stream, b"for the old one").expect("the first write is only queued");
        let ended = io::Read::read(&mut stream, &mut [0]);
        assert!(ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{ended:?}");
    }
    drop(outside);
    let leaked = inside.find(silence(), |frame| {
        let stray = Datagram::parse(frame).is_some_and(|datagram| datagram.to.port() == 20_002)
            || tcp_flags(frame).is_some_and(|(port, syn, _)| !syn && [80, 20_001].contains(&port));
        stray.then(|| frame.to_vec())
    });
    assert_eq!(leaked, None);

    let _server = Server::tcp(&new.place, "new", 80);
    let _udp = Server::udp(&new.place, "new", 53);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "new");
    assert_eq!(ask_tcp(&peer.place, new.at(80)).expect("answered").server, "new");
    assert_eq!(ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("answered").0.server, "new");
}

fn a_hundred_parallel_creates_give_a_hundred_addresses<F: TestFamily>() {
    const COUNT: usize = 100;
    let lab = Lab::new::<F>();
    let names: Vec<String> = (0..COUNT).map(|n| lab.name(&format!("c{n}"))).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| lab.done(&["create", "--name", name]));
        }
    });
    let all = lab.json(&["ps", "--json"]);
    let all = all.as_array().expect("a list");
    let ip = if lab.version == Version::V4 { "ip" } else { "ip6" };
    for key in [ip, "mac", "id", "device"] {
        let values: BTreeSet<&str> = all.iter().filter_map(|container| container[key].as_str()).collect();
        assert_eq!(values.len(), COUNT, "each has its own {key}");
    }
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    let (first, last) = (lab.find(&names[0]), lab.find(&names[COUNT - 1]));
    let _server = Server::tcp(&first.place, "first", 80);
    ask_tcp(&last.place, first.at(80)).expect("answered");
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    lab.done(&remove);
    assert_eq!(lab.json(&["ps", "--json"]).as_array().map(Vec::len), Some(0));
}

fn a_namespace_that_exists_is_taken_in_and_left_behind<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let foreign = lab.name("foreign");
    let _namespace = OwnNamespace::make(&foreign);
    let name = lab.name("c1");
    let path = format!("/run/netns/{foreign}");
    lab.done(&["attach", "--name", &name, "--netns", &path, "-p", "8080:80"]);
    let c1 = lab.find(&name);
    let _server = Server::tcp(&c1.place, "c1", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    lab.done(&["rm", "-f", &name]);
    assert!(fs::exists(&path).expect("readable"), "the namespace was not ours to delete");
    let left = c1.place.command("ip", &["-json", "link"]);
    assert!(!left.contains("eth0"), "{left}");
}

for_both!(
    listings_show_what_is_there,
    a_removed_container_leaves_nothing,
    a_container_whose_namespace_was_deleted_by_hand_can_be_removed_and_made_again,
    who_gets_an_address_next_gets_nothing_of_its_predecessor,
    a_hundred_parallel_creates_give_a_hundred_addresses,
    a_namespace_that_exists_is_taken_in_and_left_behind,
);
