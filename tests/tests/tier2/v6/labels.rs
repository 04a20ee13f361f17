//! Flow labels, which routers may spread packets by.

use netbpf_tests::link::Link;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::wait::soon;

use super::lab;
use crate::lab::Attacker;

/// Traffic class and flow label, behind the version.
const WORD: [u8; 4] = [0x6b, 0x81, 0x23, 0x45];

fn labelled(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14..18].copy_from_slice(&WORD);
    frame
}

/// The first word of the packet that ends with this.
fn seen(link: &Link, payload: &[u8]) -> Option<Vec<u8>> {
    link.find(soon(), |frame| frame.ends_with(payload).then(|| frame[14..18].to_vec()))
}

#[test]
fn flow_labels_and_traffic_classes_are_kept() {
    let lab = lab();
    let inside = Attacker::new(&lab);
    lab.done(&["publish", &inside.container.name, "-p", "5353:53/udp"]);
    let wire = lab.ext_link();
    let to_host = Ethernet { from: wire.mac, to: lab.host_mac() };
    let own = inside.container.at(20_000);
    inside.link.send(&labelled(inside.to_gateway().udp(own, lab.at_ext(90), b"out")));
    assert_eq!(seen(&wire, b"out").as_deref(), Some(&WORD[..]));
    wire.send(&labelled(to_host.udp(lab.at_ext(90), lab.at_host(20_000), b"back")));
    assert_eq!(seen(&inside.link, b"back").as_deref(), Some(&WORD[..]));
    wire.send(&labelled(to_host.udp(lab.at_ext(5000), lab.at_host(5353), b"published")));
    assert_eq!(seen(&inside.link, b"published").as_deref(), Some(&WORD[..]));
}
