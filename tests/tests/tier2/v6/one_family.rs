//! Networks of one family have nothing of the other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_common::path::{V4, V6};
use netbpf_tests::link::Link;
use netbpf_tests::packet::{BROADCAST, Ethernet};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, until};
use netbpf_user::rig::Rig;

use crate::lab::{Attacker, Lab};

/// What a place shows of a version of IP on a device: addresses and routes.
fn shown(place: &Place, version: Version, device: &str) -> [String; 2] {
    ["address", "route"].map(|what| place.command("ip", &[version.flag(), "-oneline", what, "show", "dev", device]))
}

fn nothing() -> [String; 2] {
    [String::new(), String::new()]
}

#[test]
fn an_ipv4_network_has_no_address_route_or_packet_of_ipv6() {
    let lab = Lab::new::<V4>();
    let attacker = Attacker::new(&lab);
    let victim = lab.container("victim", &[]);
    assert_eq!((victim.ip6, attacker.container.ip6), (None, None));
    for (place, device) in [(&victim.place, "eth0"), (&lab.host, &victim.device)] {
        assert_eq!(shown(place, Version::V6, device), nothing(), "{device}");
        let off = place.run(|| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")));
        assert_eq!(off.expect("readable").trim(), "1", "{device}");
    }
    // The host comes from an address of its own to what it publishes, and has none of a link there.
    for (device, addresses) in [("netbpf0", 1), ("netbpf1", 0)] {
        let [own, _] = shown(&lab.host, Version::V6, device);
        assert_eq!((own.lines().count(), own.contains("fe80")), (addresses, false), "{own}");
    }
    // Whoever brings his own packets is not served.
    let (wire, inside, host) = (lab.ext_link(), Link::open(&victim.place, "eth0"), Link::open(&lab.host, "netbpf0"));
    let own = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 2);
    let local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x42, 0xacff, 0xfe1e, 2);
    let from = |address: Ipv6Addr| SocketAddr::new(address.into(), 20_000);
    let mut sent = 0;
    for address in [own, local] {
        for to in [Rig::EXT_IP6, Rig::HOST_IP6, Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 3)] {
            attacker.link.send(&attacker.to_gateway().udp(from(address), (to, 90), b"of the other family"));
            sent += 1;
        }
    }
    until("all of them are dropped", || {
        ["spoofed-address", "unsupported-protocol"].map(|reason| lab.drops(reason)).iter().sum::<u64>() == sent
    });
    for link in [&wire, &inside, &host] {
        assert_eq!(link.find(silence(), |frame| frame.ends_with(b"other family").then_some(())), None);
    }
}

#[test]
fn what_is_shown_as_published_on_ipv6_is_served_there_by_a_network_without_it() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "5353:53/udp"]);
    let ports = lab.ports(&c1.name);
    assert!(ports.iter().any(|port| port.host_ip.is_ipv6()), "{ports:?}");
    let _dns = Server::udp(&c1.place, "c1", 53);
    for (place, address) in [(&lab.ext, Rig::HOST_IP6), (&lab.host, Rig::HOST_IP6), (&lab.host, Ipv6Addr::LOCALHOST)] {
        let to = SocketAddr::from((address, 5353));
        let client = place.speaking(Version::V6).any_udp();
        let (seen, from) = ask_udp(&client, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!((seen.client.ip(), from), (Ipv4Addr::new(169, 254, 30, 255).into(), to));
    }
}

#[test]
fn an_ipv6_network_has_no_address_or_route_of_ipv4() {
    let lab = Lab::configured::<V6>("ipv4 = false\n");
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let c2 = lab.container("c2", &[]);
    assert_eq!((c1.ip4, c2.ip4), (None, None));
    for (place, device) in
        [(&c1.place, "eth0"), (&lab.host, "netbpf0"), (&lab.host, "netbpf1"), (&lab.host, &c1.device)]
    {
        assert_eq!(shown(place, Version::V4, device), nothing(), "{device}");
    }
    let ports = lab.ports(&c1.name);
    assert!(ports.iter().all(|port| port.host_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)), "{ports:?}");
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _dns = Server::udp(&c1.place, "c1", 53);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&lab.host, lab.loopback(8080)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&c2.place, c1.at(80)).expect("answered").server, "c1");
    assert_eq!(ask_tcp(&c2.place, lab.at_ext(90)).expect("answered").client.ip(), lab.host_ip);
    assert_eq!(ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("answered").0.server, "c1");
    let refused = lab.ext.connect((Rig::HOST_IP, 8080).into()).expect_err("not published");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    lab.refused(&["publish", &c1.name, "-p", "127.0.0.1:9090:90"]);
    // Whoever brings his own packets is not served.
    let link = Link::open(&c2.place, "eth0");
    let (wire, to) = (lab.ext_link(), lab.gateway_mac(&c2));
    let own = Ipv4Addr::new(172, 30, 0, 3);
    let before = lab.drops("spoofed-address") + lab.drops("unsupported-protocol");
    link.send(&Ethernet { from: link.mac, to }.udp((own, 20_000), (Rig::EXT_IP, 90), b"of the other family"));
    until("it is dropped", || lab.drops("spoofed-address") + lab.drops("unsupported-protocol") == before + 1);
    link.send(&Ethernet { from: link.mac, to: BROADCAST }.arp_request(own, Ipv4Addr::new(172, 30, 0, 1)));
    assert_eq!(link.find(silence(), |frame| (frame[12..14] == [8, 6] && frame[21] == 2).then_some(())), None);
    assert_eq!(wire.find(silence(), |frame| frame.ends_with(b"other family").then_some(())), None);
}

#[test]
fn the_addresses_of_an_ipv6_network_are_drawn_once_where_none_are_set() {
    let mut lab = Lab::new::<V4>();
    let old = lab.container("old", &[]);
    lab.stop_agent();
    lab.configure("ipv6 = true\n");
    lab.start_agent();
    assert_eq!(lab.find(&old.name).ip6, None, "made before there was any");
    let c1 = lab.container("c1", &[]);
    let own = c1.ip6.expect("it has one");
    assert_eq!(own.octets()[0], 0xfd, "a unique local address (RFC 4193)");
    lab.kill_agent();
    lab.start_agent();
    let c2 = lab.container("c2", &[]);
    let other = c2.ip6.expect("it has one");
    assert_eq!(own.segments()[..4], other.segments()[..4]);
    let dual = c1.place.speaking(Version::V6);
    let _server = Server::tcp(&dual, "c1", 80);
    assert_eq!(ask_tcp(&c2.place, (own, 80).into()).expect("answered").client.ip(), IpAddr::V6(other));
}
