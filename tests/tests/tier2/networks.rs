//! Networks: who reaches whom, and what becomes of a container that comes and goes.

use std::net::{IpAddr, SocketAddr};

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::wait::{silence, until};
use serde_json::Value;

use crate::lab::{Container, Lab, dropped};

/// A network of the lab's families; its full name.
fn network<F: TestFamily>(lab: &Lab, name: &str, flags: &[&str]) -> String {
    let name = lab.name(name);
    let ipv6: &[&str] = if F::HOST.is_ipv6() { &["--ipv6"] } else { &[] };
    lab.done(&[&["network", "create"][..], ipv6, flags, &[&name]].concat());
    name
}

/// A container's end of a network.
fn end(lab: &Lab, container: &Container, network: &str) -> Option<Value> {
    let shown = lab.json(&["inspect", &container.name]);
    let ends = shown["networks"].as_array().expect("a list of ends");
    ends.iter().find(|end| end["network"] == network).cloned()
}

/// Its address there, of the lab's family.
fn address<F: TestFamily>(lab: &Lab, container: &Container, network: &str) -> IpAddr {
    let end = end(lab, container, network).expect("it is in the network");
    let key = if F::HOST.is_ipv6() { "ip6" } else { "ip" };
    end[key].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {key} in {end}"))
}

fn networks_reach_each_other_by_publishes_alone<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (front, back) = (network::<F>(&lab, "front", &[]), network::<F>(&lab, "back", &[]));
    let web = lab.container("web", &["--network", &front, "-p", "8080:80"]);
    let neighbour = lab.container("neighbour", &["--network", &front]);
    let stranger = lab.container("stranger", &["--network", &back]);
    let default = lab.container("default", &[]);
    let (_tcp, udp) = (Server::tcp(&web.place, "web", 80), Server::udp(&web.place, "web", 53));
    assert_eq!(ask_tcp(&neighbour.place, web.at(80)).expect("of the same network").server, "web");
    for other in [&stranger, &default] {
        assert!(unanswered_udp(&other.place.any_udp(), web.at(53), silence()));
        assert_eq!(ask_tcp(&other.place, lab.at_host(8080)).expect("by the host's address").server, "web");
    }
    assert_eq!(udp.answered(), 0);
    dropped(&lab, "isolated", 2);
    // Each of them reaches the world, and the host all of them.
    let _world = Server::tcp(&lab.ext, "ext", 90);
    for container in [&web, &stranger, &default] {
        assert_eq!(ask_tcp(&container.place, lab.at_ext(90)).expect("the world").client.ip(), lab.host_ip);
    }
    assert_eq!(ask_tcp(&lab.host, web.at(80)).expect("from the host").server, "web");
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("from outside").server, "web");
}

fn open_networks_reach_each_other<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let open = ["-o", "isolation=off"];
    let networks = [network::<F>(&lab, "a", &open), network::<F>(&lab, "b", &open), network::<F>(&lab, "c", &[])];
    let [a, b, closed] = networks.map(|network| lab.container(&network, &["--network", &network]));
    let servers =
        [&a, &b, &closed].map(|it| (Server::tcp(&it.place, &it.name, 80), Server::udp(&it.place, &it.name, 53)));
    assert_eq!(ask_tcp(&a.place, b.at(80)).expect("open to open").client.ip(), a.ip);
    assert_eq!(ask_udp(&b.place.any_udp(), a.at(53)).expect("and back").0.client.ip(), b.ip);
    for (from, to) in [(&a, &closed), (&closed, &a)] {
        assert!(unanswered_udp(&from.place.any_udp(), to.at(53), silence()), "both have to be open");
    }
    assert_eq!(servers[2].1.answered(), 0);
}

fn an_internal_network_has_no_way_out_and_none_in<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let vault = network::<F>(&lab, "vault", &["--internal"]);
    let [a, b] = ["a", "b"].map(|name| lab.container(name, &["--network", &vault]));
    let published = lab.container("published", &["-p", "8080:80"]);
    let _web = Server::tcp(&published.place, "published", 80);
    let world = Server::udp(&lab.ext, "ext", 90);
    let _neighbour = Server::tcp(&b.place, "b", 80);
    assert_eq!(ask_tcp(&a.place, b.at(80)).expect("its own network").server, "b");
    assert_eq!(ask_tcp(&lab.host, b.at(80)).expect("the host looks in").server, "b");
    assert_eq!(lab.ip(&a.place, "route show default"), "", "no way out");
    // A container that gives itself a route.
    let shown = lab.json(&["network", "inspect", &vault]);
    let gateways = shown["gateways"].as_array().expect("gateways");
    let gateway = gateways.iter().filter_map(Value::as_str).find(|it| it.contains(':') == F::HOST.is_ipv6());
    lab.ip(&a.place, &format!("route add default via {}", gateway.expect("of the family")));
    assert!(unanswered_udp(&a.place.any_udp(), lab.at_ext(90), silence()));
    assert!(a.place.connect(lab.at_host(8080)).is_err(), "not by a publish of another");
    assert_eq!(world.answered(), 0);
    let refused = lab.refused(&["publish", &a.name, "-p", "9000:80"]);
    assert!(refused.contains("internal"), "{refused}");
}

fn a_container_comes_into_a_network_and_goes_while_its_connections_live<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (front, back) = (network::<F>(&lab, "front", &[]), network::<F>(&lab, "back", &[]));
    let web = lab.container("web", &["--network", &front, "-p", "8080:80"]);
    let database = lab.container("database", &["--network", &back]);
    let _web = Server::tcp(&web.place, "web", 80);
    let _database = Server::tcp(&database.place, "database", 5432);
    let client = lab.ext.any_udp();
    let _dns = Server::udp(&web.place, "web", 53);
    lab.done(&["publish", &web.name, "-p", "5353:53/udp"]);
    let asked = || ask_udp(&client, lab.at_host(5353)).expect("served all the time").0.server;
    assert_eq!(asked(), "web");

    lab.done(&["network", "connect", "--alias", "www", &back, &web.name]);
    assert_eq!(asked(), "web");
    let own = address::<F>(&lab, &web, &back);
    assert_eq!(ask_tcp(&web.place, database.at(5432)).expect("a neighbour now").client.ip(), own);
    assert_eq!(ask_tcp(&database.place, SocketAddr::new(own, 80)).expect("and the other way").server, "web");
    let second = end(&lab, &web, &back).expect("shown");
    assert_eq!((second["name"].as_str(), &second["aliases"][0]), (Some("eth1"), &Value::from("www")));
    // By the end that was asked, also to whom it has on another link.
    assert_eq!(ask_tcp(&database.place, lab.at_host(8080)).expect("by the host's address").server, "web");
    assert_eq!(ask_tcp(&lab.host, SocketAddr::new(own, 80)).expect("from the host").server, "web");
    let again = lab.refused(&["network", "connect", &back, &web.name]);
    assert!(again.contains("already"), "{again}");

    lab.done(&["network", "disconnect", &back, &web.name]);
    assert_eq!(asked(), "web");
    assert!(end(&lab, &web, &back).is_none());
    until("its device is gone", || !web.place.command("ip", &["-o", "link"]).contains("eth1"));
    assert!(lab.refused(&["network", "disconnect", &back, &web.name]).contains("not in network"));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

fn the_host_is_answered_by_a_container_of_its_first_network_and_another<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let front = network::<F>(&lab, "front", &[]);
    let web = lab.container("web", &["--network", &front, "-p", "8080:80"]);
    let _web = Server::tcp(&web.place, "web", 80);
    lab.done(&["network", "connect", "default", &web.name]);
    // From the gateway of the default network, which the container has on a link of its own now.
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("published").server, "web");
    assert_eq!(ask_tcp(&lab.host, lab.at_host(8080)).expect("published").server, "web");
    lab.done(&["network", "disconnect", &front, &web.name]);
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("published").server, "web");
    let rules = web.place.command("ip", &["rule"]);
    assert!(!rules.contains("172.31."), "{rules}");
}

fn who_loses_the_network_of_his_default_route_goes_out_by_another<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (first, second) = (network::<F>(&lab, "first", &[]), network::<F>(&lab, "second", &[]));
    let vault = network::<F>(&lab, "vault", &["--internal"]);
    let container = lab.container("c", &["--network", &vault]);
    let key = if F::HOST.is_ipv6() { "default_route6" } else { "default_route" };
    let leads = |network: &str| end(&lab, &container, network).expect("in it")[key] == true;
    for network in [&first, &second] {
        lab.done(&["network", "connect", network, &container.name]);
    }
    lab.done(&["publish", &container.name, "-p", "8080:80"]);
    let _web = Server::tcp(&container.place, "c", 80);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let works = |by: &str| {
        assert_eq!(ask_tcp(&container.place, lab.at_ext(90)).expect(by).client.ip(), lab.host_ip);
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect(by).server, "c");
    };
    assert!(!leads(&vault) && leads(&first) && !leads(&second), "the first that is not internal");
    works("by the first");
    lab.done(&["network", "disconnect", &first, &container.name]);
    assert!(leads(&second));
    works("by the second");
    lab.done(&["network", "disconnect", &second, &container.name]);
    let out = container.place.connect(lab.at_ext(90)).is_err();
    assert!(out && lab.ext.connect(lab.at_host(8080)).is_err(), "an internal network leads nowhere");
    lab.done(&["network", "connect", &first, &container.name]);
    works("by the first again");
}

fn networks_are_there_after_a_restart<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let back = network::<F>(&lab, "back", &["-o", "mtu=1400"]);
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    lab.done(&["network", "connect", &back, &c1.name]);
    let c2 = lab.container("c2", &["--network", &back]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let before = lab.snapshot();
    let shown = lab.done(&["network", "inspect", &back]);
    for stop in [Lab::stop_agent, Lab::kill_agent] {
        stop(&mut lab);
        lab.start_agent();
        lab.unchanged(&before, "a restart");
        assert_eq!(lab.done(&["network", "inspect", &back]), shown);
        let own = SocketAddr::new(address::<F>(&lab, &c1, &back), 80);
        assert_eq!(ask_tcp(&c2.place, own).expect("neighbours still").server, "c1");
    }
    assert!(c2.place.command("ip", &["link", "show", "eth0"]).contains("mtu 1400"));
}

fn a_network_is_removed_when_nobody_is_in_it_and_leaves_nothing<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let before = lab.snapshot();
    let (used, unused) = (network::<F>(&lab, "used", &[]), network::<F>(&lab, "unused", &[]));
    let container = lab.container("c", &["--network", &used]);
    let refused = lab.refused(&["network", "rm", &used]);
    assert!(refused.contains(&container.name), "{refused}");
    assert!(lab.refused(&["network", "rm", "default"]).contains("settings"));
    assert_eq!(lab.done(&["network", "prune"]), format!("{unused}\n"));
    lab.done(&["rm", &container.name]);
    assert_eq!(lab.done(&["network", "rm", &used]), format!("{used}\n"));
    lab.unchanged(&before, "networks that came and went");
}

fn packets_leave_under_the_address_that_a_network_names_or_their_own<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let snat: IpAddr = if F::HOST.is_ipv6() { "2001:db8:198::77" } else { "198.18.0.77" }.parse().expect("an address");
    lab.add_address(&lab.host, &lab.on_wire(snat), &lab.uplink());
    until("the address is known", || {
        let option = if F::HOST.is_ipv6() { "snat_v6" } else { "snat" };
        let name = lab.name("fixed");
        let ipv6: &[&str] = if F::HOST.is_ipv6() { &["--ipv6"] } else { &[] };
        let option = format!("{option}={snat}");
        let made = lab.netbpf(&[&["network", "create"][..], ipv6, &["-o", &option, &name]].concat());
        made.code == Some(0)
    });
    let plain = network::<F>(&lab, "plain", &["-o", "masquerade=off"]);
    let fixed = lab.container("fixed", &["--network", &lab.name("fixed")]);
    let own = lab.container("own", &["--network", &plain]);
    lab.ip(&lab.ext, &format!("route add {} via {}", own.ip, lab.host_ip));
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let seen = |container: &Container| ask_tcp(&container.place, lab.at_ext(90)).expect("the world").client.ip();
    assert_eq!(seen(&fixed), snat);
    assert_eq!(seen(&own), own.ip);
    let dns = Server::udp(&own.place, "own", 53);
    assert!(unanswered_udp(&lab.ext.any_udp(), own.at(53), silence()), "answers come in, and nothing else");
    assert_eq!(dns.answered(), 0);
}

for_both!(
    networks_reach_each_other_by_publishes_alone,
    open_networks_reach_each_other,
    an_internal_network_has_no_way_out_and_none_in,
    a_container_comes_into_a_network_and_goes_while_its_connections_live,
    the_host_is_answered_by_a_container_of_its_first_network_and_another,
    who_loses_the_network_of_his_default_route_goes_out_by_another,
    networks_are_there_after_a_restart,
    a_network_is_removed_when_nobody_is_in_it_and_leaves_nothing,
    packets_leave_under_the_address_that_a_network_names_or_their_own,
);

#[test]
fn a_network_without_a_subnet_gets_one_that_nobody_has() {
    let lab = Lab::new::<V4>();
    lab.ip(&lab.host, "route add 172.31.0.0/24 via 198.18.0.2");
    let subnet = |name: &str| {
        let name = network::<V4>(&lab, name, &[]);
        lab.json(&["network", "inspect", &name])["subnets"][0].as_str().expect("a subnet").to_owned()
    };
    assert_eq!(subnet("a"), "172.31.1.0/24", "the host has a route to the first");
    lab.done(&["network", "create", "--subnet", "172.31.2.0/23", &lab.name("named")]);
    assert_eq!(subnet("b"), "172.31.4.0/24");
    lab.done(&["network", "rm", &lab.name("a")]);
    assert_eq!(subnet("c"), "172.31.1.0/24");
}

#[test]
fn a_container_without_a_network_has_loopback_alone() {
    let lab = Lab::new::<V4>();
    let name = lab.name("alone");
    lab.done(&["create", "--name", &name, "--network", "none"]);
    let shown = lab.json(&["inspect", &name]);
    assert_eq!((shown["network"].as_str(), shown["ip"].is_null()), (Some("none"), true));
    let devices = lab.json(&["inspect", &name])["networks"].as_array().map(Vec::len);
    assert_eq!(devices, Some(0));
    lab.done(&["network", "connect", "default", &name]);
    let now = lab.find(&name);
    let _web = Server::tcp(&now.place, "alone", 80);
    assert_eq!(ask_tcp(&lab.host, now.at(80)).expect("it has a network now").server, "alone");
}

#[test]
fn a_process_in_the_hosts_network_has_the_hosts_devices() {
    let lab = Lab::new::<V4>();
    let name = lab.name("host");
    let seen = lab.done(&["run", "--rm", "--name", &name, "--network", "host", "--", "ip", "-o", "link"]);
    assert!(seen.contains("netbpf0") && seen.contains(&lab.uplink()), "{seen}");
}
