//! How containers reach the world, and the world them, other than under the host's address.

use std::io;
use std::net::SocketAddr;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::packet::{Datagram, Ethernet, addresses};
use netbpf_tests::ping::Pinger;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{silence, soon};

use crate::lab::{Attacker, Lab, Offloads, dropped};

/// A lab whose family has this mode, and further settings.
pub(crate) fn in_mode<F: TestFamily>(mode: &str, settings: &str) -> Lab {
    let name = match Version::of(F::HOST) {
        Version::V4 => "mode",
        Version::V6 => "mode_v6",
    };
    Lab::configured::<F>(&format!("{name} = \"{mode}\"\n{settings}"))
}

/// The outside machine routes for the host.
pub(crate) fn route_to_containers(lab: &Lab) {
    lab.ip(&lab.ext, &format!("route add {} via {}", lab.subnet(), lab.host_ip));
}

fn routed_containers_are_reached_by_their_own_addresses_and_seen_under_them<F: TestFamily>() {
    let lab = in_mode::<F>("routed", "");
    route_to_containers(&lab);
    let (c1, c2) = (lab.container("c1", &["-p", "8080:80"]), lab.container("c2", &[]));
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _dns = Server::udp(&c1.place, "c1", 53);
    let _world = [Server::tcp(&lab.ext, "ext", 90), Server::tcp(&lab.ext, "ext", 91)];
    let _world_dns = Server::udp(&lab.ext, "ext", 90);
    for offloads in [Offloads::On, Offloads::Off] {
        lab.offloads(offloads);
        let seen = ask_tcp(&lab.ext, c1.at(80)).expect("reached by its own address");
        assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", lab.ext_ip));
        let (seen, from) = ask_udp(&lab.ext.any_udp(), c1.at(53)).expect("answered");
        assert_eq!((seen.client.ip(), from), (lab.ext_ip, c1.at(53)));
        for container in [&c1, &c2] {
            assert_eq!(ask_tcp(&container.place, lab.at_ext(90)).expect("answered").client.ip(), container.ip);
            let (seen, _) = ask_udp(&container.place.any_udp(), lab.at_ext(90)).expect("answered");
            assert_eq!(seen.client.ip(), container.ip);
        }
        let seen = ask_tcp(&lab.ext, lab.at_host(8080)).expect("published ports are served as ever");
        assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", lab.ext_ip));
    }
    for (from, to) in [(&lab.ext, c1.ip), (&c1.place, lab.ext_ip), (&c2.place, c1.ip)] {
        let ping = Pinger::new(from, 7);
        ping.send(to, 1, b"hello").expect("sent");
        assert_eq!(ping.reply(soon()), Some((to, 1, b"hello".to_vec())));
    }
    let refused = lab.ext.connect(c1.at(81)).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "by the container itself");
    let spoofed = Attacker::new(&lab);
    let wire = lab.ext_link();
    let foreign = SocketAddr::new(F::FAR, 20_000);
    spoofed.link.send(&spoofed.to_gateway().udp(foreign, lab.at_ext(90), b"not mine"));
    let leaked = wire.find(silence(), |frame| Datagram::parse(frame).filter(|datagram| datagram.from == foreign));
    assert_eq!(leaked, None);
}

fn nobody_outside_speaks_with_containers_of_a_closed_network<F: TestFamily>() {
    let lab = in_mode::<F>("closed", "");
    route_to_containers(&lab);
    let (c1, c2) = (lab.container("c1", &[]), lab.container("c2", &[]));
    let web = Server::tcp(&c1.place, "c1", 80);
    let world = Server::udp(&lab.ext, "ext", 90);
    let (wire, inside) = (lab.ext_link(), Link::open(&c1.place, "eth0"));
    assert!(unanswered_udp(&c1.place.any_udp(), lab.at_ext(90), silence()));
    let to_gateway = Ethernet { from: inside.mac, to: lab.gateway_mac(&c1) };
    inside.send(&to_gateway.syn(c1.at(20_000), lab.at_ext(90), 1));
    inside.send(&to_gateway.echo(c1.ip, lab.ext_ip, true, 7, 64));
    dropped(&lab, "no-masquerade", 3);
    let leaked = wire.find(silence(), |frame| addresses(frame).filter(|(_, to)| *to == lab.ext_ip));
    assert_eq!(leaked, None);
    let to_host = Ethernet { from: wire.mac, to: lab.host_mac() };
    wire.send(&to_host.udp(lab.at_ext(5000), c1.at(53), b"from outside"));
    let entered = inside.find(silence(), |frame| Datagram::parse(frame).filter(|datagram| datagram.to.port() == 53));
    assert_eq!(entered, None);
    assert_eq!((web.answered(), world.answered()), (0, 0));
    assert_eq!(ask_tcp(&c2.place, c1.at(80)).expect("neighbours").server, "c1");
    assert_eq!(ask_tcp(&lab.host, c1.at(80)).expect("the host").server, "c1");
}

fn a_client_outside_of_a_routed_container_that_was_replaced_is_reset<F: TestFamily>() {
    let lab = in_mode::<F>("routed", "");
    route_to_containers(&lab);
    let old = lab.container("old", &[]);
    let _server = Server::tcp(&old.place, "old", 80);
    let mut conversation = Conversation::on(lab.ext.connect(old.at(80)).expect("connected")).expect("greeted");
    lab.done(&["rm", "-f", &old.name]);
    let new = lab.container("new", &[lab.ip_flag(), &old.ip.to_string()]);
    let _server = Server::tcp(&new.place, "new", 80);
    let told = conversation.exchange(b"still there?").map_err(|error| error.kind());
    assert_eq!(told, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(ask_tcp(&lab.ext, new.at(80)).expect("answered").server, "new");
}

for_both!(
    a_client_outside_of_a_routed_container_that_was_replaced_is_reset,
    routed_containers_are_reached_by_their_own_addresses_and_seen_under_them,
    nobody_outside_speaks_with_containers_of_a_closed_network,
);
