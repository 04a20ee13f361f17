//! 1280 bytes, which every way takes (RFC 8200 section 5).

use netbpf_tests::packet::{Ethernet, IcmpError};
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::until;

use super::lab;

/// The MTU that a place has learned of the way to an address, if it has.
fn learned(place: &netbpf_tests::place::Place, to: std::net::IpAddr) -> Option<u32> {
    let route = place.command("ip", &["route", "get", &to.to_string()]);
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

#[test]
fn who_is_told_of_a_way_below_the_minimum_goes_on_with_the_minimum() {
    let lab = lab();
    let c1 = lab.container("c1", &[]);
    let _server = Server::tcp(&lab.ext, "ext", 90);
    let own = 20_000;
    let mut kept =
        netbpf_tests::server::Conversation::on(c1.place.connect_from(own, lab.at_ext(90)).expect("connected"))
            .expect("greeted");
    let wire = lab.ext_link();
    let out = Ethernet { from: lab.host_mac(), to: wire.mac };
    let back = Ethernet { from: wire.mac, to: lab.host_mac() };
    for mtu in [600, 1279, 1280] {
        let about = out.tcp_ack(lab.at_host(own), lab.at_ext(90));
        let error = IcmpError::fragmentation_needed(mtu);
        wire.send(&back.icmp_error(lab.ext_ip, lab.host_ip, 64, error, &about[14..]));
        kept.exchange(&[7; 20_000]).expect("all of it arrives");
        assert!(learned(&c1.place, lab.ext_ip).is_none_or(|mtu| mtu >= 1280), "told of {mtu}");
    }
    until("the last was believed", || learned(&c1.place, lab.ext_ip) == Some(1280));
    ask_tcp(&c1.place, lab.at_ext(90)).expect("answered");
}
