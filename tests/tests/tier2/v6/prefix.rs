//! Prefix translation (RFC 6296): one address outside for each container.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netbpf_common::path::V6;
use netbpf_tests::ping::Pinger;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp, ask_udp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::wait::{soon, uninterrupted};

use super::v6;
use crate::lab::{Far, Lab, Offloads};

const EXTERNAL: [u16; 4] = [0x2001, 0xdb8, 0x300, 0];

fn lab() -> Lab {
    let lab = Lab::configured::<V6>("mode_v6 = \"prefix\"\nexternal_prefix_v6 = \"2001:db8:300::/64\"\n");
    lab.ip(&lab.ext, &format!("route add 2001:db8:300::/64 via {}", lab.host_ip));
    lab
}

/// The address that a machine outside sees a container under, which is one of the prefix.
#[track_caller]
fn outside_of(place: &Place, lab: &Lab) -> Ipv6Addr {
    let address = v6(ask_tcp(place, lab.at_ext(90)).expect("answered").client.ip());
    assert_eq!(address.segments()[..4], EXTERNAL, "{address}");
    address
}

/// The sum of an address in ones' complement, which the translation leaves as it is.
fn sum(address: Ipv6Addr) -> u32 {
    let sum: u32 = address.segments().into_iter().map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) % 0xffff
}

#[test]
fn a_container_is_seen_under_an_address_of_the_prefix_and_reached_by_it() {
    let lab = lab();
    let containers = ["c1", "c2"].map(|name| lab.container(name, &[]));
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let _world_dns = Server::udp(&lab.ext, "ext", 90);
    for offloads in [Offloads::On, Offloads::HostTxChecksumOff, Offloads::Off] {
        lab.offloads(offloads);
        for container in &containers {
            let _web = Server::tcp(&container.place, &container.name, 80);
            let _dns = Server::udp(&container.place, &container.name, 53);
            let outside = outside_of(&container.place, &lab);
            assert_eq!(sum(outside), sum(v6(container.ip)), "{outside} has the checksum of {}", container.ip);
            let seen = ask_tcp(&lab.ext, (outside, 80).into()).expect("reached by its address outside");
            assert_eq!((&seen.server, seen.client.ip()), (&container.name, lab.ext_ip));
            let to = SocketAddr::from((outside, 53));
            let (seen, from) = ask_udp(&lab.ext.any_udp(), to).expect("answered");
            assert_eq!((&seen.server, seen.client.ip(), from), (&container.name, lab.ext_ip, to));
            let socket = container.place.udp(container.at(5060)).expect("bound");
            let (seen, _) = ask_udp(&socket, lab.at_ext(90)).expect("answered");
            assert_eq!(seen.client, SocketAddr::from((outside, 5060)), "ports are left alone");
        }
    }
    let [first, second] = containers.each_ref().map(|container| outside_of(&container.place, &lab));
    assert_ne!(first, second);
}

#[test]
fn data_pings_and_errors_go_both_ways() {
    const NARROW: u32 = 1300;
    let lab = lab();
    let far = Far::behind(&lab, NARROW);
    let c1 = lab.container("c1", &[]);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let outside = outside_of(&c1.place, &lab);
    lab.offloads(Offloads::Off);
    let inside = c1.place.listen(lab.everywhere(80)).expect("listening");
    let client = far.place.connect((outside, 80).into()).expect("connected");
    let (server, _) = inside.accept().expect("a connection waits");
    server.set_read_timeout(Some(soon())).expect("a timeout");
    transfer(&client, &server, 8 << 20).expect("all of it arrives");
    transfer(&server, &client, 8 << 20).expect("all of it arrives");
    assert_eq!(far.path_mtu(&c1.place), Some(NARROW));
    let ping = Pinger::new(&lab.ext, 7);
    ping.send(outside.into(), 1, b"hello").expect("sent");
    assert_eq!(ping.reply(soon()), Some((IpAddr::V6(outside), 1, b"hello".to_vec())));
    // Nobody listens: the container says so under its address outside.
    let socket = lab.ext.any_udp();
    lab.ext.run(|| socket.connect((outside, 99))).expect("UDP connects at once");
    socket.send(b"anybody?").expect("sent");
    let told = uninterrupted(|| socket.recv(&mut [0; 8])).expect_err("nobody answers");
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionRefused);
}
