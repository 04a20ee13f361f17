//! What `netbpf exposure` tells is what holds.

use std::net::{IpAddr, SocketAddr};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Server, ask_tcp};
use serde_json::{Value, json};

use crate::lab::{Container, Lab};

for_both!(what_it_tells_is_what_holds, ports_without_a_listener_are_told_apart);

/// The ways to a port of a container: from where, and to which address and port.
fn ways(lab: &Lab, container: &Container, port: u16) -> Vec<(Vec<Value>, SocketAddr)> {
    let shown = lab.json(&["exposure", &container.name, "--json"]);
    let ways = shown.as_array().expect("a list").iter().filter(|way| way["port"] == port);
    let read = |way: &Value| -> Option<(Vec<Value>, SocketAddr)> {
        let address: IpAddr = way["address"].as_str()?.parse().ok()?;
        Some((way["from"].as_array()?.clone(), SocketAddr::new(address, way["at_port"].as_u64()?.try_into().ok()?)))
    };
    ways.map(|way| read(way).unwrap_or_else(|| panic!("{way}"))).collect()
}

fn what_it_tells_is_what_holds<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let networks = ["front", "back"].map(|name| lab.name(name));
    let ipv6: &[&str] = if F::HOST.is_ipv6() { &["--ipv6"] } else { &[] };
    for network in &networks {
        lab.done(&[&["network", "create"][..], ipv6, &[network]].concat());
    }
    let [front, back] = &networks;
    let web = lab.container("web", &["--network", front, "-p", &lab.on_host("8080:80")]);
    let near = lab.container("near", &["--network", front]);
    let apart = lab.container("apart", &["--network", back]);
    // Each with what it is in the words of the answer.
    let member = |network: &String| vec![json!("containers"), json!({ "network": network })];
    let places = [
        (vec![json!("host")], &lab.host),
        (vec![json!("world")], &lab.ext),
        (member(front), &near.place),
        (member(back), &apart.place),
    ];
    let _published = Server::tcp(&web.place, "web", 80);
    let _private = Server::tcp(&web.place, "web", 81);
    let mut told = 0;
    for port in [80, 81] {
        for (from, at) in ways(&lab, &web, port).into_iter().filter(|(_, at)| at.is_ipv4() == F::HOST.is_ipv4()) {
            for (origins, place) in &places {
                let is_told = origins.iter().any(|origin| from.contains(origin));
                assert_eq!(ask_tcp(place, at).is_ok(), is_told, "{origins:?} to {at}: {from:?}");
                told += u32::from(is_told);
            }
        }
    }
    // By the publish from all four; directly to both ports from the host and its own network.
    assert_eq!(told, 4 + 2 * 2);
}

fn ports_without_a_listener_are_told_apart<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let web = lab.container("web", &["-p", "8080-8083:80-83", "-p", "9000:9000/sctp"]);
    let listeners = || -> Vec<Value> {
        let shown = lab.json(&["exposure", &web.name, "--json"]);
        let published = shown.as_array().expect("a list").iter().filter(|way| way["address"] != web.ip.to_string());
        published.map(|way| json!([way["protocol"], way["listeners"]])).filter(|it| it[0] != "udp").collect()
    };
    let silent = listeners();
    assert!(silent.contains(&json!(["tcp", 0])) && silent.contains(&json!(["sctp", null])), "{silent:?}");
    let _one = Server::tcp(&web.place, "web", 81);
    let _two = Server::tcp(&web.place, "web", 83);
    assert!(listeners().contains(&json!(["tcp", 2])), "{:?}", listeners());
    assert!(lab.done(&["exposure"]).contains("2 of 4"));
    // Who shares a network is reached as the one whose it is.
    let sharer = lab.name("sharer");
    lab.done(&["create", "--name", &sharer, "--network", &format!("container:{}", web.name)]);
    assert_eq!(lab.json(&["exposure", &sharer, "--json"]), lab.json(&["exposure", &web.name, "--json"]));
    let housed = lab.name("housed");
    lab.done(&["create", "--name", &housed, "--network", "host"]);
    assert!(lab.refused(&["exposure", &housed]).contains("the host's own network"));
    let line = lab.refused(&["exposure", "nobody"]);
    assert!(line.contains("no container 'nobody'"), "{line}");
}
