//! Networks of other drivers than bridge: on a device of the host, past the datapath.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use netbpf_common::path::{V4, V6};
use netbpf_common::wire::Mac;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, until};
use serde_json::Value;

use crate::lab::{Container, Far, Lab, OwnNamespace, mac_of};

/// What of the wire's subnets is given to containers.
const RANGES: [[&str; 2]; 2] = [["198.18.0.0/24", "198.18.0.128/25"], ["2001:db8:198::/64", "2001:db8:198::1:0/112"]];

/// A network on the wire to the outside machine; its full name.
#[track_caller]
fn on_wire(lab: &Lab, name: &str, flags: &[&str]) -> String {
    let (name, parent) = (lab.name(name), format!("parent={}", lab.uplink()));
    let families = if lab.version == Version::V6 { 2 } else { 1 };
    let ranges = RANGES.iter().take(families);
    let addresses: Vec<&str> = ranges.flat_map(|[subnet, range]| ["--subnet", subnet, "--ip-range", range]).collect();
    let create = ["network", "create", "-d", "macvlan", "-o", &parent];
    lab.done(&[&create[..], &addresses, flags, &[&name]].concat());
    name
}

/// The same, with the outside machine as its gateway.
#[track_caller]
fn routed_on_wire(lab: &Lab, name: &str) -> String {
    on_wire(lab, name, &["--gateway", &lab.ext_ip.to_string()])
}

/// A container's end of a network.
fn end(lab: &Lab, container: &Container, network: &str) -> Option<Value> {
    let shown = lab.json(&["inspect", &container.name]);
    let ends = shown["networks"].as_array().expect("a list of ends");
    ends.iter().find(|end| end["network"] == network).cloned()
}

/// Its address there, of the lab's family.
fn address(lab: &Lab, container: &Container, network: &str) -> IpAddr {
    let end = end(lab, container, network).expect("it is in the network");
    let key = if lab.version == Version::V6 { "ip6" } else { "ip" };
    end[key].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {key} in {end}"))
}

fn uplinks(lab: &Lab) -> Vec<String> {
    let status = lab.json(&["status", "--json"]);
    let uplinks = status["uplinks"].as_array().expect("a list");
    uplinks.iter().map(|uplink| uplink["name"].as_str().expect("a name").to_owned()).collect()
}

/// Whether the kernel makes devices of this kind, on another where it has to be.
fn has_kind(lab: &Lab, kind: &[&str]) -> bool {
    let namespace = OwnNamespace::make(&lab.name("kinds"));
    let place = Place::new(netbpf_user::rig::Namespace::named(&lab.name("kinds")), lab.version);
    place.command("ip", &["link", "add", "base", "type", "veth", "peer", "name", "other"]);
    let arguments = [&["link", "add", "link", "base", "name", "tried", "type"][..], kind].concat();
    let made = place.run(|| Command::new("ip").args(arguments).output()).expect("ip is installed");
    drop((place, namespace));
    made.status.success()
}

fn a_container_on_macvlan_is_on_the_wire_with_its_own_address_and_mac<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let before = uplinks(&lab);
    let network = routed_on_wire(&lab, "lan");
    let c = lab.container("c", &["--network", &network, "--dns", "10.9.9.9"]);
    let neighbour = lab.container("neighbour", &["--network", &network]);
    let bridged = lab.container("bridged", &["-p", "8080:80"]);
    let far = Far::behind(&lab, 1500);
    let _servers = [(&c.place, "c"), (&bridged.place, "bridged"), (&lab.ext, "ext"), (&far.place, "far")]
        .map(|(place, name)| Server::tcp(place, name, 80));
    assert_eq!(ask_tcp(&c.place, lab.at_ext(80)).expect("on its link").client.ip(), c.ip, "nobody translates");
    assert_eq!(ask_tcp(&c.place, far.at(80)).expect("by the gateway").client.ip(), c.ip);
    assert_eq!(ask_tcp(&lab.ext, c.at(80)).expect("reached").server, "c");
    assert_eq!(ask_tcp(&neighbour.place, c.at(80)).expect("of the same network").client.ip(), neighbour.ip);
    let known = lab.ip(&lab.ext, &format!("neigh show {}", c.ip));
    assert!(known.contains(&c.mac), "{known}");
    // The host is on that wire as before, and its containers; to those on it there is no way.
    assert_eq!(ask_tcp(&bridged.place, lab.at_ext(80)).expect("masqueraded").client.ip(), lab.host_ip);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("published").server, "bridged");
    let dns = Server::udp(&c.place, "c", 53);
    assert!(unanswered_udp(&lab.host.any_udp(), c.at(53), silence()), "macvlan keeps the parent's own frames apart");
    assert_eq!(dns.answered(), 0);
    assert_eq!(uplinks(&lab), before);
    assert_eq!(lab.problems(), Vec::<String>::new());

    let resolvers = lab.done(&["exec", &c.name, "--", "cat", "/etc/resolv.conf"]);
    assert!(resolvers.starts_with("nameserver 10.9.9.9\n") && !resolvers.contains("172.30"), "{resolvers}");
    let shown = end(&lab, &c, &network).expect("it is in the network");
    let text = |key: &str| shown[key].as_str().map(str::to_owned);
    assert_eq!(
        [text("driver"), text("parent"), text("mode"), text("device")],
        [Some("macvlan"), Some(&*lab.uplink()), Some("bridge"), Some("")].map(|text| text.map(str::to_owned))
    );
    let shown = lab.json(&["network", "inspect", &network]);
    assert_eq!((&shown["driver"], &shown["options"]["macvlan_mode"]), (&"macvlan".into(), &"bridge".into()));
    assert_eq!(shown["options"]["parent"], lab.uplink());
    let gateways = shown["gateways"].as_array().expect("a list");
    assert_eq!(gateways, &[Value::from(lab.ext_ip.to_string())], "the one that was named");
}

fn frames_for_a_container_pass_by_the_hosts_publishes<F: TestFamily>() {
    for mode in ["bridge", "passthru"] {
        let lab = Lab::new::<F>();
        let bridged = lab.container("bridged", &["-p", "8080:80", "-p", "5353:53/udp"]);
        let _bridged = (Server::tcp(&bridged.place, "bridged", 80), Server::udp(&bridged.place, "bridged", 53));
        let network = on_wire(&lab, "lan", &["-o", &format!("macvlan_mode={mode}")]);
        let c = lab.container("c", &["--network", &network]);
        // In passthru it has the host's own: what is for it comes by the host's program as if it were for the host.
        let is_hosts = c.mac == Mac::new(mac_of(&lab.host, &lab.uplink())).to_string();
        assert_eq!(is_hosts, mode == "passthru");
        let _own = (Server::tcp(&c.place, "c", 8080), Server::udp(&c.place, "c", 5353));
        assert_eq!(ask_tcp(&lab.ext, c.at(8080)).expect(mode).server, "c");
        assert_eq!(ask_udp(&lab.ext.any_udp(), c.at(5353)).expect(mode).0.server, "c");
        // Answers to ports that masquerading gives out, too.
        let _ext = Server::udp(&lab.ext, "ext", 90);
        let client = c.place.udp(lab.everywhere(16_400)).expect("free in the container");
        assert_eq!(ask_udp(&client, lab.at_ext(90)).expect(mode).0.client, c.at(16_400));
        if !is_hosts {
            assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("the host has its own").server, "bridged");
        }
    }
}

fn a_container_is_on_a_bridge_and_on_the_wire_at_once<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let network = routed_on_wire(&lab, "lan");
    let far = Far::behind(&lab, 1500);
    let _far = Server::tcp(&far.place, "far", 80);
    let both = |container: &Container| {
        let own = address(&lab, container, &network);
        assert_eq!(ask_tcp(&lab.ext, SocketAddr::new(own, 80)).expect("on the wire").server, "c");
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("published").server, "c");
        assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("from the host").server, "c");
    };
    let c = lab.container("c", &["-p", "8080:80"]);
    let _web = Server::tcp(&c.place, "c", 80);
    lab.done(&["network", "connect", &network, &c.name]);
    both(&c);
    let client = |what: &str| ask_tcp(&c.place, far.at(80)).expect(what).client.ip();
    lab.ip(&lab.host, &format!("route add {} via {}", far.ip, lab.ext_ip));
    assert_eq!(client("by the first"), lab.host_ip);
    assert_eq!(end(&lab, &c, &network).expect("in it")["name"], "eth1");
    let resolvers = lab.done(&["exec", &c.name, "--", "cat", "/etc/resolv.conf"]);
    assert!(resolvers.contains("nameserver 172.30.0.1"), "names are served by the bridge: {resolvers}");

    // The one on the wire leads out when the other is gone, and still when that has come back.
    lab.done(&["network", "disconnect", "default", &c.name]);
    let own = address(&lab, &c, &network);
    assert_eq!(client("by the second"), own);
    assert!(lab.ext.connect(lab.at_host(8080)).is_err(), "nothing serves the publish");
    lab.done(&["network", "connect", "default", &c.name]);
    assert_eq!(client("by the one that was first"), own);
    both(&c);
    lab.done(&["network", "disconnect", &network, &c.name]);
    let devices = c.place.command("ip", &["-o", "link"]);
    assert!(!devices.contains("macvlan") && !devices.contains("eth1"), "{devices}");
    assert_eq!(client("by the bridge"), lab.host_ip);
    let rules = lab.ip(&c.place, "rule");
    assert!(!rules.contains(&own.to_string()), "{rules}");
    assert_eq!(lab.problems(), Vec::<String>::new());
}

fn it_is_there_after_a_restart_and_made_again_where_it_is_not<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let network = routed_on_wire(&lab, "lan");
    let c = lab.container("c", &["--network", &network]);
    let _ext = Server::tcp(&lab.ext, "ext", 80);
    let (before, device) = (lab.snapshot(), c.place.command("ip", &["-o", "-d", "link", "show", "eth0"]));
    for stop in [Lab::stop_agent, Lab::kill_agent] {
        stop(&mut lab);
        assert_eq!(ask_tcp(&c.place, lab.at_ext(80)).expect("no agent has a part in it").client.ip(), c.ip);
        lab.start_agent();
        lab.unchanged(&before, "a restart");
        assert_eq!(c.place.command("ip", &["-o", "-d", "link", "show", "eth0"]), device, "the same device");
    }
    lab.stop_agent();
    c.place.command("ip", &["link", "delete", "eth0"]);
    lab.start_agent();
    assert_eq!(ask_tcp(&c.place, lab.at_ext(80)).expect("made again").client.ip(), c.ip);
    assert!(c.place.command("ip", &["link", "show", "eth0"]).contains(&c.mac));
    c.place.command("ip", &["link", "delete", "eth0"]);
    let problems = lab.problems();
    assert!(problems.len() == 1 && problems[0].contains(&c.name) && problems[0].contains("eth0"), "{problems:?}");
    // Whatever happens beside it.
    lab.host.command("ip", &["link", "add", "br7", "type", "bridge"]);
    lab.host.command("ip", &["link", "set", "br7", "up"]);
    until("the agent has seen it", || lab.status().uplinks.iter().any(|uplink| uplink.name == "br7"));
    assert_eq!(lab.problems(), problems);
}

for_both!(
    a_container_on_macvlan_is_on_the_wire_with_its_own_address_and_mac,
    frames_for_a_container_pass_by_the_hosts_publishes,
    a_container_is_on_a_bridge_and_on_the_wire_at_once,
    it_is_there_after_a_restart_and_made_again_where_it_is_not,
);

#[test]
fn a_parent_that_goes_takes_what_lies_on_it_along_and_brings_it_back() {
    let lab = Lab::new::<V4>();
    let name = lab.name("beside");
    let _namespace = OwnNamespace::make(&name);
    let beside = Place::new(netbpf_user::rig::Namespace::named(&name), lab.version);
    let plug_in = || {
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
        lab.host.command("ip", &[&["link", "add", "lan0"][..], &peer].concat());
        lab.host.command("ip", &["link", "set", "lan0", "up"]);
        lab.add_address(&beside, "10.77.0.2/24", "eth0");
        beside.command("ip", &["link", "set", "eth0", "up"]);
    };
    plug_in();
    let network = lab.name("lan");
    let create = ["network", "create", "-d", "macvlan", "-o", "parent=lan0", "--subnet", "10.77.0.0/24"];
    lab.done(&[&create[..], &["--aux-address", "beside=10.77.0.2", &network]].concat());
    let c = lab.container("c", &["--network", "default"]);
    lab.done(&["network", "connect", "--ip", "10.77.0.9", &network, &c.name]);
    let _beside = Server::tcp(&beside, "beside", 80);
    let reached = || ask_tcp(&c.place, "10.77.0.2:80".parse().expect("an address")).map(|seen| seen.client.ip());
    let own: IpAddr = "10.77.0.9".parse().expect("an address");
    assert_eq!(reached().expect("on its link"), own);
    lab.host.command("ip", &["link", "delete", "lan0"]);
    let problems = lab.problems();
    assert!(problems.iter().any(|line| line.contains(&network) && line.contains("lan0")), "{problems:?}");
    let refused = lab.netbpf(&["create", "--name", &lab.name("d"), "--network", &network]);
    assert!(refused.refusal("without its parent").contains("lan0"));
    plug_in();
    // Before that what it sends takes another way, and nobody answers.
    until("it is made again", || lab.problems().is_empty());
    assert_eq!(reached().expect("on its link"), own);
    lab.done(&["network", "disconnect", &network, &c.name]);
    lab.done(&["network", "rm", &network]);
}

#[test]
fn what_was_on_the_wire_leaves_nothing() {
    let lab = Lab::new::<V6>();
    let before = lab.snapshot();
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let network = on_wire(&lab, "lan", &["-o", &format!("macvlan_mode={mode}")]);
        // The same address and parent at once again: nothing of the first is waited for.
        for _ in 0..2 {
            let c = lab.container("c", &["--network", &network, "--ip", "198.18.0.77"]);
            lab.done(&["rm", &c.name]);
        }
        assert_eq!(lab.done(&["network", "prune"]), format!("{network}\n"));
        lab.unchanged(&before, "what came and went");
    }
}

#[test]
fn a_namespace_that_was_taken_in_is_left_without_what_was_put_there() {
    let mut lab = Lab::new::<V4>();
    let network = on_wire(&lab, "lan", &[]);
    let namespaces = ["a", "b", "c"].map(|name| OwnNamespace::make(&lab.name(name)));
    let path = |name: &str| format!("/run/netns/{}", lab.name(name));
    let place = |name: &str| Place::new(netbpf_user::rig::Namespace::named(&lab.name(name)), lab.version);
    let attach = |name: &str| {
        let (own, netns) = (lab.name(&format!("in-{name}")), path(name));
        lab.netbpf(&["attach", "--name", &own, "--netns", &netns, "--network", &network])
    };
    place("c").command("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    let before = lab.snapshot();
    assert!(attach("c").refusal("a name in use").contains("eth0"));
    lab.unchanged(&before, "what was refused");
    assert!(!place("c").command("ip", &["-d", "link"]).contains("macvlan"), "nothing half-made");
    let has_macvlan = |name: &str| place(name).command("ip", &["-d", "link"]).contains("macvlan");
    for name in ["a", "b"] {
        assert_eq!(attach(name).code, Some(0));
        assert!(has_macvlan(name));
    }
    lab.done(&["rm", &lab.name("in-a")]);
    assert!(!has_macvlan("a"));
    lab.stop_agent();
    lab.uninstall_without_agent();
    let place = Place::new(netbpf_user::rig::Namespace::named(&lab.name("b")), lab.version);
    assert!(!place.command("ip", &["-d", "link"]).contains("macvlan"));
    drop(namespaces);
}

#[test]
fn what_cannot_lie_on_a_device_is_refused_and_changes_nothing() {
    let lab = Lab::new::<V6>();
    let (wire, network) = (lab.uplink(), on_wire(&lab, "lan", &["--gateway", "198.18.0.2"]));
    let c = lab.container("c", &["--network", &network]);
    let new = lab.name("new");
    for line in [
        "link add link WIRE name mv0 type macvlan mode bridge",
        "link add port0 type veth peer name port1",
        "link add br0 type bridge",
        "link set port0 master br0",
        "tuntap add tun0 mode tun",
    ] {
        let line = line.replace("WIRE", &wire);
        lab.host.command("ip", &line.split(' ').collect::<Vec<_>>());
    }
    until("they are uplinks", || {
        ["mv0", "port1", "br0", "tun0"].iter().all(|name| uplinks(&lab).contains(&(*name).into()))
    });
    let create = |flags: &[&str]| lab.refused(&[&["network", "create"][..], flags, &[&new]].concat());
    let on = |parent: &str, flags: &[&str]| {
        let parent = format!("parent={parent}");
        create(&[&["-d", "macvlan", "-o", &parent, "--subnet", "10.5.0.0/24"][..], flags].concat())
    };
    let taken = c.ip4.expect("IPv4").to_string();
    for (line, expected) in [
        (create(&["-d", "macvlan"]), "-o parent="),
        (create(&["-o", "parent=br0"]), "parent"),
        (create(&["-o", "ipvlan_mode=l2"]), "ipvlan_mode"),
        (on("eth9", &[]), &*wire),
        (on("eth9.5", &[]), "eth9.5"),
        (on("lo", &[]), "Ethernet"),
        (on("tun0", &[]), "Ethernet"),
        (on("netbpf0", &[]), "own"),
        (on("mv0", &[]), "itself"),
        (on("port0", &[]), "port of a bridge"),
        (on(&wire, &["-o", "macvlan_mode=fast"]), "passthru"),
        (on(&wire, &["-o", "macvlan_mode=passthru"]), &network),
        (on(&wire, &["-o", "mtu=9000"]), "1500"),
        (on(&wire, &["-o", "mode=routed"]), "macvlan_mode"),
        (on(&wire, &["-o", "masquerade=off"]), "masquerade"),
        (on(&wire, &["-o", "snat=198.18.0.1"]), "snat"),
        (on(&wire, &["-o", "isolation=off"]), "isolation"),
        (on(&wire, &["--subnet", "172.30.4.0/24"]), "same family"),
        (on(&wire, &["--ipv6", "--gateway", "10.6.0.1"]), "10.6.0.1"),
        (create(&["-d", "macvlan", "-o", "parent=br0", "--subnet", "198.18.0.0/25"]), &network),
        (create(&["-d", "macvlan", "-o", "parent=br0", "--subnet", "172.30.4.0/24"]), "default"),
        (create(&["-d", "macvlan", "-o", "parent=br0", "--subnet", "169.254.30.0/24"]), "virtual"),
        (lab.refused(&["create", "--network", &network, "-p", "80"]), "macvlan"),
        (lab.refused(&["publish", &c.name, "-p", "8080:80"]), "bypasses the host"),
        (lab.refused(&["create", "--network", &network, "--ip", "198.18.0.1"]), "in use"),
        (lab.refused(&["create", "--network", &network, "--ip", "198.18.0.2"]), "gateway"),
        (lab.refused(&["create", "--network", &network, "--ip", &taken]), &taken),
        (lab.refused(&["network", "connect", &network, &c.name]), "already"),
        (lab.refused(&["network", "rm", &network]), &c.name),
    ] {
        assert!(line.contains(expected) && !line.contains("cannot make"), "`{expected}` is not named: {line}");
    }
    let mac = Mac::new(mac_of(&lab.host, &wire)).to_string();
    assert!(lab.refused(&["create", "--network", &network, "--mac-address", &mac]).contains(&wire));
    assert!(lab.refused(&["create", "--network", &network, "--mac-address", &c.mac]).contains(&c.name));
    lab.done(&["rm", &c.name]);
    lab.done(&["network", "rm", &network]);
    // Of somebody else: mv0 lies there.
    assert!(on(&wire, &["-o", "macvlan_mode=passthru"]).contains("alone"));
    lab.host.command("ip", &["link", "delete", "mv0"]);
    let network = on_wire(&lab, "lan", &["-o", "macvlan_mode=passthru"]);
    assert!(lab.refused(&["create", "--network", &network, "--mac-address", "02:00:00:00:00:09"]).contains("passthru"));
    let first = lab.container("first", &["--network", &network]);
    assert!(lab.refused(&["create", "--network", &network]).contains(&first.name));
    assert!(on(&wire, &[]).contains(&network));
}

#[test]
fn what_the_kernel_lacks_is_said_clearly_and_changes_nothing() {
    let lab = Lab::new::<V4>();
    let name = lab.name("n");
    let wire = lab.uplink();
    let (parent, vlan) = (format!("parent={wire}"), format!("parent={wire}.50"));
    let before = lab.snapshot();
    for (kind, word, flags) in [
        (&["ipvlan", "mode", "l2"][..], "ipvlan", &["-d", "ipvlan", "-o", &parent][..]),
        (&["ipvlan", "mode", "l3"], "ipvlan", &["-d", "ipvlan", "-o", &parent, "-o", "ipvlan_mode=l3"]),
        (&["vlan", "id", "5"], "vlan", &["-d", "macvlan", "-o", &vlan]),
        (&["dummy"], "dummy", &["-d", "macvlan", "--internal"]),
    ] {
        let create = [&["network", "create"][..], flags, &[&name]].concat();
        if has_kind(&lab, kind) {
            lab.done(&create);
            let c = lab.container("c", &["--network", &name]);
            assert_eq!(lab.problems(), Vec::<String>::new(), "{word}");
            lab.done(&["rm", &c.name]);
            lab.done(&["network", "rm", &name]);
            lab.unchanged(&before, word);
        } else {
            let line = lab.refused(&create);
            assert!(line.contains(&format!("no {word} devices")), "{line}");
        }
    }
}
