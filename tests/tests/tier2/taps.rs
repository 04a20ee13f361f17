//! Virtual machines: a tap of the host is an end of a network as a veth is.

use std::net::{IpAddr, SocketAddr};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::machine::Machine;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, until};
use netbpf_user::rig::Namespace;
use serde_json::Value;

use crate::lab::{Lab, OwnNamespace, dropped};

for_both!(
    a_machine_speaks_and_is_spoken_to_as_a_container,
    a_machine_is_sent_no_more_than_its_device_takes,
    a_machine_cannot_take_the_address_of_another,
    a_tap_outlives_the_agent_and_is_given_back,
);

/// A virtual machine that is attached; its tap goes with it.
struct Guest {
    name: String,
    place: Place,
    ip: IpAddr,
    shown: Value,
    _machine: Machine,
    _own: OwnNamespace,
}

impl Guest {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }
}

/// A machine that is not attached yet.
fn machine(lab: &Lab, tap: &str) -> (Place, Machine, OwnNamespace) {
    let own = OwnNamespace::make(&lab.name("guest"));
    let place = Place::new(Namespace::named(&lab.name("guest")), lab.version);
    let machine = Machine::start(&lab.host, tap, &place, "eth0");
    (place, machine, own)
}

/// One that is, and does what its owner would: it has the addresses that it was given.
fn guest(lab: &Lab, flags: &[&str]) -> Guest {
    let (place, machine, own) = machine(lab, "vm0");
    let name = lab.name("vm");
    lab.done(&[&["attach", "--name", &name, "--tap", "vm0"][..], flags].concat());
    let shown = lab.json(&["inspect", &name]);
    let text = |key: &str| shown[key].as_str().unwrap_or_else(|| panic!("no {key} in {shown}")).to_owned();
    lab.ip(&place, &format!("link set eth0 address {}", text("mac")));
    lab.ip(&place, "link set lo up");
    lab.ip(&place, "link set eth0 up");
    let (ip, prefix, gateway) = match lab.version {
        Version::V4 => (text("ip"), &shown["prefix_len"], text("gateway")),
        Version::V6 => (text("ip6"), &shown["prefix_len6"], text("gateway6")),
    };
    lab.add_address(&place, &format!("{ip}/{prefix}"), "eth0");
    lab.ip(&place, &format!("route add default via {gateway}"));
    Guest { name, place, ip: ip.parse().expect("an address"), shown, _machine: machine, _own: own }
}

fn a_machine_speaks_and_is_spoken_to_as_a_container<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let vm = guest(&lab, &["-p", "8080:80", "-p", "5353:53/udp"]);
    let c1 = lab.container("c1", &[]);
    let _world = (Server::tcp(&lab.ext, "ext", 90), Server::udp(&lab.ext, "ext", 91));
    let _vm = (Server::tcp(&vm.place, "vm", 80), Server::udp(&vm.place, "vm", 53));
    let _c1 = (Server::tcp(&c1.place, "c1", 80), Server::udp(&c1.place, "c1", 53));
    // Out, under the host's address.
    assert_eq!(ask_tcp(&vm.place, lab.at_ext(90)).expect("the world").client.ip(), lab.host_ip);
    assert_eq!(ask_udp(&vm.place.any_udp(), lab.at_ext(91)).expect("the world").0.client.ip(), lab.host_ip);
    // Among neighbours, who see its own.
    assert_eq!(ask_tcp(&vm.place, c1.at(80)).expect("a neighbour").client.ip(), vm.ip);
    assert_eq!(ask_tcp(&c1.place, vm.at(80)).expect("by a neighbour").server, "vm");
    assert_eq!(ask_udp(&c1.place.any_udp(), vm.at(53)).expect("by a neighbour").0.server, "vm");
    // From outside and from the host, by its publishes and from the host also directly.
    for place in [&lab.ext, &lab.host, &c1.place, &vm.place] {
        assert_eq!(ask_tcp(place, lab.at_host(8080)).expect("published").server, "vm");
        assert_eq!(ask_udp(&place.any_udp(), lab.at_host(5353)).expect("published").0.server, "vm");
    }
    assert_eq!(ask_tcp(&lab.host, vm.at(80)).expect("by the host").server, "vm");
    // A gibibyte is for the bulk tests; here more than a window, with whatever the tap does to segments.
    let mut bulk = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    for _ in 0..64 {
        bulk.exchange(&[7; 32_768]).expect("echoed");
    }
    // Neighbours and the gateway are found, and pinged, and tell what they cannot do.
    lab.ip(&vm.place, "neigh flush all");
    let version = if vm.ip.is_ipv4() { "-4" } else { "-6" };
    for to in [c1.ip, lab.gateway(), lab.ext_ip] {
        vm.place.command("ping", &[version, "-c1", "-W3", &to.to_string()]);
    }
    let refused = vm.place.connect(c1.at(81)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!((&vm.shown["device"], &vm.shown["netns"]), (&Value::from("vm0"), &Value::from("")));
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    let exposed = lab.json(&["exposure", &vm.name, "--json"]);
    let published: Vec<&Value> = exposed.as_array().expect("a list").iter().collect();
    assert!(!published.is_empty() && published.iter().all(|way| way["listeners"].is_null()), "{exposed}");
}

fn a_machine_is_sent_no_more_than_its_device_takes<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let vm = guest(&lab, &[]);
    let c1 = lab.container("c1", &[]);
    let server = Server::udp(&vm.place, "vm", 53);
    let asking = c1.place.any_udp();
    asking.connect(vm.at(53)).expect("an address");
    // What is too large at first comes in pieces once the sender knows.
    until("a datagram of two frames arrives", || {
        _ = asking.send(&[7; 2500]);
        server.answered() > 0
    });
    assert!(lab.drops("too-big") > 0, "the container believes in its own device at first");
}

fn a_machine_cannot_take_the_address_of_another<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let vm = guest(&lab, &[]);
    let c1 = lab.container("c1", &[]);
    let server = Server::udp(&c1.place, "c1", 53);
    lab.add_address(&vm.place, &lab.nth(99).to_string(), "eth0");
    let liar = vm.place.udp(SocketAddr::new(lab.nth(99), 0)).expect("its own stack believes it");
    assert!(unanswered_udp(&liar, c1.at(53), silence()));
    assert_eq!(server.answered(), 0);
    until("it is counted", || lab.drops("spoofed-address") + lab.drops("spoofed-neighbour") > 0);
}

fn a_tap_outlives_the_agent_and_is_given_back<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let is_uplink = |lab: &Lab| {
        let status = lab.json(&["status", "--json"]);
        status["uplinks"].as_array().is_some_and(|uplinks| uplinks.iter().any(|uplink| uplink["name"] == "vm0"))
    };
    let vm = guest(&lab, &["-p", "8080:80"]);
    let _server = Server::tcp(&vm.place, "vm", 80);
    assert!(!is_uplink(&lab));
    let mut open = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    lab.kill_agent();
    open.exchange(b"still there?").expect("nothing has changed");
    lab.start_agent();
    open.exchange(b"still there?").expect("nothing has changed");
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("as before").server, "vm");
    assert!(lab.problems().is_empty() && !is_uplink(&lab), "{:?}", lab.problems());

    let line = lab.refused(&["attach", "--name", &lab.name("other"), "--tap", "vm0"]);
    assert!(line.contains(&vm.name), "{line}");
    lab.done(&["rm", &vm.name]);
    assert!(open.exchange(b"still there?").is_err());
    assert!(lab.ip(&lab.host, "-o link show dev vm0").contains("vm0"), "the device is its owner's");
    assert!(is_uplink(&lab), "as every other device of the host");
    // As the guest has it all still.
    let (ip, mac) = (vm.ip.to_string(), vm.shown["mac"].as_str().expect("a MAC address"));
    let same = [lab.ip_flag(), &ip, "--mac-address", mac, "-p", "8080:80"];
    lab.done(&[&["attach", "--name", &vm.name, "--tap", "vm0"][..], &same].concat());
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("again").server, "vm");
}

#[test]
fn a_tap_too_narrow_for_ipv6_is_refused_in_a_network_that_has_it_alone() {
    let lab = Lab::new::<netbpf_common::path::V6>();
    lab.ip(&lab.host, "tuntap add dev vm0 mode tap");
    lab.ip(&lab.host, "link set dev vm0 mtu 1279");
    lab.done(&["network", "create", &lab.name("old")]);
    let name = lab.name("vm");
    let line = lab.refused(&["attach", "--name", &name, "--tap", "vm0"]);
    assert!(["vm0", "1279", "1280"].iter().all(|word| line.contains(word)), "{line}");
    lab.done(&["attach", "--name", &name, "--tap", "vm0", "--network", &lab.name("old")]);
    lab.done(&["rm", &name]);
    lab.ip(&lab.host, "link set dev vm0 mtu 1280");
    lab.done(&["attach", "--name", &name, "--tap", "vm0"]);
}

#[test]
fn what_is_no_tap_that_can_be_taken_in_is_refused_and_stays_as_it_was() {
    let lab = Lab::new::<netbpf_common::path::V4>();
    let c1 = lab.container("c1", &[]);
    let (_place, _machine, _own) = machine(&lab, "vm0");
    lab.ip(&lab.host, "tuntap add dev tun7 mode tun");
    lab.ip(&lab.host, "tuntap add dev tap8 mode tap");
    lab.ip(&lab.host, "link add br7 type bridge");
    lab.ip(&lab.host, "link set tap8 master br7");
    lab.ip(&lab.host, "tuntap add dev tap9 mode tap");
    lab.ip(&lab.host, "address add 10.9.9.1/24 dev tap9");
    let name = lab.name("vm");
    until("all are served as uplinks", || {
        lab.json(&["status", "--json"])["uplinks"].as_array().is_some_and(|all| all.len() == 5)
    });
    let before = lab.snapshot();
    let uplink = lab.uplink();
    let rows: [(&[&str], &str); 12] = [
        (&["--tap", "tap77"], "ip tuntap add"),
        (&["--tap", "tun7"], "no tap"),
        (&["--tap", &uplink], "no tap"),
        (&["--tap", &c1.device], "no tap"),
        (&["--tap", "netbpf0"], "no tap"),
        (&["--tap", "tap8"], "nomaster"),
        (&["--tap", "tap9"], "10.9.9.1"),
        (&["--tap", "vm0", "--network", "host"], "of no use"),
        (&["--tap", "vm0", "--network", &format!("container:{}", c1.name)], "of no use"),
        (&["--tap", "vm0", "--add-host", "a:10.0.0.1"], "files of its own"),
        (&["--tap", "vm0", "--ip", "10.77.0.1"], "10.77.0.1"),
        (&["--tap", "vm0", "--ip", &c1.ip.to_string()], &c1.ip.to_string()),
    ];
    for (flags, words) in rows {
        let line = lab.refused(&[&["attach", "--name", &name][..], flags].concat());
        assert!(line.contains(words), "{flags:?}: {line}");
        lab.unchanged(&before, &flags.join(" "));
    }
    lab.done(&["attach", "--name", &name, "--tap", "vm0"]);
    let lan = ["network", "create", "-d", "macvlan", "--subnet", "10.8.0.0/24", "-o"];
    let line = lab.refused(&[&lan[..], &["parent=vm0", "lan"]].concat());
    assert!(line.contains("netbpf's own"), "{line}");
    lab.ip(&lab.host, "tuntap add dev tap6 mode tap");
    lab.done(&[&lan[..], &["parent=tap6", &lab.name("lan")]].concat());
    let line = lab.refused(&["attach", "--name", &lab.name("other"), "--tap", "tap6"]);
    assert!(line.contains(&lab.name("lan")), "{line}");
    for command in [
        &["exec", &name, "--", "true"][..],
        &["network", "connect", "default", &name],
        &["create", "--network", &format!("container:{name}")],
    ] {
        lab.refused(command);
    }
    dropped(&lab, "spoofed-address", 0);
}
