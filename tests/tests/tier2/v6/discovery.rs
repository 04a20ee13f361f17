//! Who has an IPv6 address, who says so, and who claims to be a router.

use std::net::{IpAddr, Ipv6Addr};

use netbpf_tests::headers::Headers;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::{Ethernet, Mac, ON_LINK, advertised, solicited_node};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::{silence, until};

use super::{ip, lab, v6};
use crate::lab::{Attacker, Container, Lab, dropped};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ADVERTISEMENT: u8 = 136;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;
/// What the outside router says of itself: a prefix to make addresses of.
const ADVERTISED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);

/// Type, target and receiver of a message of neighbour discovery.
fn message(frame: &[u8]) -> Option<(u8, Ipv6Addr, IpAddr)> {
    let headers = Headers::read(frame)?;
    let message = frame.get(headers.transport.clone())?;
    let is_message = headers.protocol.0 == 58 && (133..=137).contains(&message[0]);
    let target: [u8; 16] = message.get(8..24).unwrap_or(&[0; 16]).try_into().expect("sixteen bytes");
    is_message.then(|| (message[0], target.into(), headers.destination))
}

/// The link-local address of a MAC address (RFC 4291 appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// Asks who has an address; the MAC address of who says that it does, and to whom that is said.
fn who_has(link: &Link, from: Ipv6Addr, target: Ipv6Addr) -> Option<(Mac, IpAddr)> {
    let (group, to) = solicited_node(target);
    link.send(&Ethernet { from: link.mac, to }.solicitation(from.into(), group, ON_LINK, target));
    link.find(silence(), |frame| {
        let (kind, of, to) = message(frame)?;
        let sender = frame[6..12].try_into().expect("six bytes");
        (kind == ADVERTISEMENT && of == target && sender != link.mac).then_some((sender, to))
    })
}

#[test]
fn the_gateway_and_neighbours_are_resolved_by_all_their_addresses() {
    let lab = lab();
    let asker = Attacker::new(&lab);
    let neighbour = lab.container("neighbour", &[]);
    let mac = parse_mac(&neighbour.mac);
    let own = link_local(asker.link.mac);
    for (target, mac) in [(v6(lab.gateway()), asker.gateway), (ip(&neighbour), mac), (link_local(mac), mac)] {
        for from in [ip(&asker.container), own] {
            assert_eq!(who_has(&asker.link, from, target), Some((mac, from.into())), "{target}, asked by {from}");
        }
    }
}

#[test]
fn nobody_answers_for_ones_own_address_or_for_an_address_elsewhere() {
    let lab = lab();
    let asker = Attacker::new(&lab);
    let own = ip(&asker.container);
    assert_eq!(who_has(&asker.link, Ipv6Addr::UNSPECIFIED, own), None, "its own, as it is new");
    for target in [own, v6(lab.ext_ip), v6(lab.nth(0x99)), v6(lab.host_ip)] {
        assert_eq!(who_has(&asker.link, own, target), None, "{target}");
    }
}

#[test]
fn who_wants_the_address_of_a_neighbour_is_told_that_it_is_taken() {
    let lab = lab();
    let asker = Attacker::new(&lab);
    let neighbour = lab.container("neighbour", &[]);
    let to_all = Some((parse_mac(&neighbour.mac), ALL_NODES.into()));
    assert_eq!(who_has(&asker.link, Ipv6Addr::UNSPECIFIED, ip(&neighbour)), to_all);
    // The same by the kernel, which looks for duplicates of each address.
    let place = &asker.container.place;
    let add = |address: IpAddr| lab.ip(place, &format!("address add {address}/64 dev eth0"));
    let state = |address: IpAddr| {
        let shown = lab.ip(place, &format!("-oneline address show to {address}"));
        (shown.contains("dadfailed"), shown.contains("tentative"))
    };
    add(neighbour.ip);
    until("the duplicate is found", || state(neighbour.ip).0);
    let free = lab.nth(0x99);
    add(free);
    until("an address that nobody has is taken", || state(free) == (false, false));
}

/// What a container says of neighbours and routers, each with what it is.
fn lies(liar: &Attacker, victim: &Container, peer: Ipv6Addr, gateway: Ipv6Addr) -> Vec<(&'static str, Vec<u8>)> {
    let to_victim = Ethernet { from: liar.link.mac, to: parse_mac(&victim.mac) };
    let to_all = Ethernet { from: liar.link.mac, to: ALL_NODES_MAC };
    let (own, all, victim) = (IpAddr::V6(ip(&liar.container)), IpAddr::V6(ALL_NODES), victim.ip);
    let local = IpAddr::V6(link_local(liar.link.mac));
    let unasked = advertised::OVERRIDE;
    vec![
        ("a neighbour", to_victim.advertisement(own, victim, unasked | advertised::SOLICITED, peer)),
        ("a neighbour, to all", to_all.advertisement(own, all, unasked, peer)),
        ("the gateway", to_victim.advertisement(own, victim, unasked | advertised::ROUTER, gateway)),
        ("itself, unasked", to_all.advertisement(own, all, unasked, ip(&liar.container))),
        ("a router", to_all.icmp_v6(local, all, ON_LINK, ROUTER_ADVERTISEMENT, &router(ADVERTISED))),
        ("a better way", to_victim.icmp_v6(local, victim, ON_LINK, REDIRECT, &redirect(local, peer))),
    ]
}

/// The body of a router advertisement with a prefix (RFC 4861 sections 4.2 and 4.6.2).
fn router(prefix: Ipv6Addr) -> Vec<u8> {
    let header = [64, 0, 0, 120, 0, 0, 0, 0, 0, 0, 0, 0];
    // For addresses and on the link; for an hour.
    let option = [3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0];
    [&header[..], &option, &prefix.octets()].concat()
}

/// The body of a redirect (RFC 4861 section 4.5).
fn redirect(by: IpAddr, destination: Ipv6Addr) -> Vec<u8> {
    [&[0; 4][..], &v6(by).octets(), &destination.octets()].concat()
}

#[test]
fn lies_about_neighbours_and_routers_are_dropped_counted_and_believed_by_nobody() {
    let lab = lab();
    let liar = Attacker::new(&lab);
    let (victim, peer) = (lab.container("victim", &[]), lab.container("peer", &[]));
    let _server = Server::tcp(&peer.place, "peer", 80);
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
    let (inside, wire) = (Link::open(&victim.place, "eth0"), lab.ext_link());
    let host = Link::open(&lab.host, "netbpf0");
    let lies = lies(&liar, &victim, ip(&peer), v6(lab.gateway()));
    // That of the link becomes a lasting one meanwhile.
    let addresses = |place: &Place| lab.ip(place, "-oneline address show").replace(" tentative", "");
    let before = [&victim.place, &lab.host].map(addresses);
    for (_, frame) in &lies {
        liar.link.send(frame);
    }
    dropped(&lab, "spoofed-neighbour", lies.len() as u64);
    for (name, link) in [("the neighbour", &inside), ("outside", &wire), ("the host", &host)] {
        let told = link.find(silence(), |frame| message(frame).filter(|_| frame[6..12] == liar.link.mac));
        assert_eq!(told, None, "{name}");
    }
    let liar_mac = &liar.container.mac;
    for place in [&victim.place, &lab.host] {
        let known = lab.ip(place, "neigh show");
        assert!(!known.contains(liar_mac), "{known}");
        let routes = lab.ip(place, "route show table all");
        assert!(!routes.contains("proto ra") && !routes.contains("redirect"), "{routes}");
    }
    assert_eq!([&victim.place, &lab.host].map(addresses), before);
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
}

#[test]
fn a_router_outside_configures_the_uplink_alone() {
    let lab = lab();
    let c1 = lab.container("c1", &[]);
    let devices =
        [("netbpf0", &lab.host), ("netbpf1", &lab.host), (c1.device.as_str(), &lab.host), ("eth0", &c1.place)];
    let shown = |lab: &Lab| {
        devices.map(|(device, place)| {
            // That of the link becomes a lasting one meanwhile.
            let of =
                |what: &str| lab.ip(place, &format!("-oneline {what} show dev {device}")).replace(" tentative", "");
            [of("address"), of("route")]
        })
    };
    let before = shown(&lab);
    let wire = lab.ext_link();
    let from = IpAddr::V6(link_local(wire.mac));
    let to_all = Ethernet { from: wire.mac, to: ALL_NODES_MAC };
    wire.send(&to_all.icmp_v6(from, ALL_NODES.into(), ON_LINK, ROUTER_ADVERTISEMENT, &router(ADVERTISED)));
    until("the uplink has an address of the prefix", || {
        lab.ip(&lab.host, &format!("-oneline address show dev {}", lab.uplink())).contains("2001:db8:bad:")
    });
    assert_eq!(shown(&lab), before);
    // It has all that it needs, and asks no router.
    let inside = Link::open(&lab.host, &c1.device);
    assert_eq!(inside.find(silence(), |frame| message(frame).filter(|(kind, ..)| *kind == 133)), None);
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}
