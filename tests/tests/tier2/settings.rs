//! What the settings say of the default network and of names.

use std::net::SocketAddr;

use netbpf_common::path::V4;
use netbpf_tests::server::{Server, ask_udp, unanswered_udp};
use netbpf_tests::wait::silence;

use crate::lab::Lab;

#[test]
fn the_default_network_is_what_dockers_words_say() {
    let lab = Lab::configured::<V4>(
        "bip = \"10.6.0.254/24\"\nfixed_cidr = \"10.6.0.128/25\"\nmtu = 1400\ndns = [\"198.18.0.2\"]\n\
         dns_search = [\"example.org\"]\ndns_options = [\"ndots:2\"]\n\
         default_address_pools = [{ base = \"10.7.0.0/16\", size = 26 }]\n",
    );
    let shown = lab.json(&["network", "inspect", "default"]);
    assert_eq!((&shown["subnets"][0], &shown["gateways"][0]), (&"10.6.0.0/24".into(), &"10.6.0.254".into()));
    assert_eq!((&shown["ip_ranges"][0], &shown["options"]["mtu"]), (&"10.6.0.128/25".into(), &"1400".into()));
    let (silent, own) = (lab.container("silent", &[]), lab.container("own", &["--dns-search", "example.com"]));
    assert_eq!(silent.ip.to_string(), "10.6.0.128");
    assert_eq!(lab.container("fixed", &["--ip", "10.6.0.9"]).ip.to_string(), "10.6.0.9");
    let resolv_conf = |name: &str| lab.done(&["exec", name, "--", "cat", "/etc/resolv.conf"]);
    assert_eq!(resolv_conf(&silent.name), "nameserver 10.6.0.254\nsearch example.org\noptions ndots:2\n");
    assert_eq!(resolv_conf(&own.name), "nameserver 10.6.0.254\nsearch example.com\noptions ndots:2\n");
    let network = lab.name("pooled");
    lab.done(&["network", "create", &network]);
    assert_eq!(lab.json(&["network", "inspect", &network])["subnets"][0], "10.7.0.0/26");
}

#[test]
fn without_the_resolver_containers_ask_those_that_are_named_and_the_gateway_is_the_host() {
    let mut lab = Lab::configured::<V4>("resolver = false\ndns = [\"198.18.0.2\"]\n");
    let container = lab.container("c", &[]);
    let resolv_conf = |lab: &Lab| lab.done(&["exec", &container.name, "--", "cat", "/etc/resolv.conf"]);
    assert!(resolv_conf(&lab).starts_with("nameserver 198.18.0.2\n"));
    let gateway = SocketAddr::new(lab.gateway(), 53);
    assert!(unanswered_udp(&container.place.any_udp(), gateway, silence()), "nobody is there");
    {
        let _own = Server::udp(&lab.host, "host", 53);
        assert_eq!(ask_udp(&container.place.any_udp(), gateway).expect("a service of the host").0.server, "host");
    }
    assert_eq!(lab.problems(), Vec::<String>::new());

    lab.stop_agent();
    lab.configure("");
    lab.start_agent();
    assert!(resolv_conf(&lab).starts_with("nameserver 172.30.0.1\n"), "another agent, another file");
    let found = lab.done(&["exec", &container.name, "--", "getent", "hosts", &container.name]);
    assert!(found.contains(&container.ip.to_string()), "{found}");
}
