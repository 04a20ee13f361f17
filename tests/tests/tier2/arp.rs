//! Who has an IPv4 address, and who says so.

use std::net::Ipv4Addr;

use etherparse::ArpOperation;
use netbpf_common::path::V4;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::{BROADCAST, Ethernet, Mac};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::silence;
use netbpf_user::rig::Rig;

use crate::lab::{Attacker, Container, Lab, dropped};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

fn ip(container: &Container) -> Ipv4Addr {
    container.ip4.expect("it has IPv4")
}

fn arp_replies(link: &Link, of: Ipv4Addr) -> Option<Mac> {
    link.find(silence(), |frame| {
        let reply = frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2] && frame[28..32] == of.octets();
        reply.then(|| frame[22..28].try_into().expect("six bytes"))
    })
}

#[test]
fn the_gateway_and_neighbours_are_resolved() {
    let lab = Lab::new::<V4>();
    let asker = Attacker::new(&lab);
    let neighbour = lab.container("neighbour", &[]);
    let ethernet = Ethernet { from: asker.link.mac, to: BROADCAST };
    asker.link.send(&ethernet.arp_request(ip(&asker.container), GATEWAY));
    assert_eq!(arp_replies(&asker.link, GATEWAY), Some(asker.gateway));
    asker.link.send(&ethernet.arp_request(ip(&asker.container), ip(&neighbour)));
    assert!(arp_replies(&asker.link, ip(&neighbour)).is_some());
}

#[test]
fn nobody_answers_for_ones_own_address_or_for_an_address_elsewhere() {
    let lab = Lab::new::<V4>();
    let asker = Attacker::new(&lab);
    let own = ip(&asker.container);
    let ethernet = Ethernet { from: asker.link.mac, to: BROADCAST };
    // Duplicate address detection (RFC 5227), then the announcement.
    asker.link.send(&ethernet.arp_request(Ipv4Addr::UNSPECIFIED, own));
    asker.link.send(&ethernet.arp_request(own, own));
    assert_eq!(arp_replies(&asker.link, own), None);
    asker.link.send(&ethernet.arp_request(own, Rig::EXT_IP));
    assert_eq!(arp_replies(&asker.link, Rig::EXT_IP), None);
}

#[test]
fn lies_about_neighbours_are_dropped_counted_and_believed_by_nobody() {
    let lab = Lab::new::<V4>();
    let liar = Attacker::new(&lab);
    let (victim, peer) = (lab.container("victim", &[]), lab.container("peer", &[]));
    let _server = Server::tcp(&peer.place, "peer", 80);
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
    let neighbours = |place: &Place| place.command("ip", &["neigh", "show"]);
    let liar_mac = &liar.container.mac;

    let to_victim = Ethernet { from: liar.link.mac, to: parse_mac(&victim.mac) };
    let to_all = Ethernet { from: liar.link.mac, to: BROADCAST };
    liar.link.send(&to_victim.arp_reply(ip(&peer), ip(&victim)));
    liar.link.send(&to_victim.arp_reply(GATEWAY, ip(&victim)));
    liar.link.send(&to_all.arp_request(ip(&peer), ip(&peer)));
    liar.link.send(&to_all.arp_request(GATEWAY, ip(&victim)));
    let foreign = parse_mac(&peer.mac);
    liar.link.send(&to_all.arp(ArpOperation::REQUEST, foreign, ip(&liar.container), [0; 6], ip(&victim)));
    dropped(&lab, "spoofed-neighbour", 5);
    assert!(!neighbours(&victim.place).contains(liar_mac));
    assert!(!neighbours(&lab.host).contains(liar_mac));
    ask_tcp(&victim.place, peer.at(80)).expect("answered");
}
