//! Tier 0: where the host's own sockets are led, and what they may bind.

use std::net::{IpAddr, Ipv4Addr};

use netbpf_common::abi::{PublishKey, Transport, generation};
use netbpf_common::path::{V4, socket};
use netbpf_tests::family::{TestFamily, nth};
use netbpf_tests::for_both;
use netbpf_tests::memory::Memory;
use netbpf_tests::world::C1;

for_both!(
    a_port_published_everywhere_is_led_from_every_address_of_the_host,
    a_port_published_on_one_address_is_led_from_that_address_alone,
    every_port_of_a_range_is_led_and_its_neighbours_are_not,
    a_socket_that_wants_something_else_goes_its_own_way,
    an_address_of_the_host_without_an_index_is_local_but_leads_nowhere,
    a_publish_whose_container_is_gone_leads_nobody_and_keeps_its_port,
    a_rule_made_for_the_last_owner_of_a_slot_leads_nobody_to_the_next,
    a_publish_on_one_address_goes_before_one_on_all,
    an_unpublished_port_leads_nobody_and_may_be_bound_again,
    a_socket_is_told_the_address_it_had_asked_for,
    an_address_that_stands_for_nothing_is_told_as_it_is,
    a_published_port_cannot_be_bound_where_it_is_published,
);

/// A second of the many loopback addresses that IPv4 has.
const ALSO_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 1, 2, 3));

fn lead<F: TestFamily>(memory: &Memory, address: IpAddr, transport: Transport, port: u16) -> Option<IpAddr> {
    socket::lead::<F, _>(&memory, F::addr(address), transport, port).map(F::Addr::into)
}

fn original<F: TestFamily>(memory: &Memory, address: IpAddr) -> Option<IpAddr> {
    socket::original::<F, _>(&memory, F::addr(address)).map(F::Addr::into)
}

fn is_held<F: TestFamily>(memory: &Memory, address: IpAddr, transport: Transport, port: u16) -> bool {
    socket::is_held::<F, _>(&memory, F::addr(address), transport, port)
}

/// IPv6 has one loopback address (RFC 4291 section 2.5.3).
#[test]
fn every_loopback_address_of_ipv4_is_the_one_and_none_is_that_which_a_port_is_published_on() {
    let memory = Memory::new(16);
    for (port, transport) in [(8080, Transport::Tcp), (5353, Transport::Udp)] {
        assert_eq!(lead::<V4>(&memory, ALSO_LOOPBACK, transport, port), Some(V4::VIRTUAL_LOOPBACK));
    }
    assert_eq!(lead::<V4>(&memory, ALSO_LOOPBACK, Transport::Tcp, 9090), None);
    assert!(is_held::<V4>(&memory, ALSO_LOOPBACK, Transport::Tcp, 8080));
}

fn a_port_published_everywhere_is_led_from_every_address_of_the_host<F: TestFamily>() {
    let memory = Memory::new(16);
    for (address, led) in [
        (F::LOOPBACK, F::VIRTUAL_LOOPBACK),
        (F::UNSPECIFIED, F::VIRTUAL_LOOPBACK),
        (F::HOST, F::VIRTUAL_HOST),
        (F::GATEWAY, F::VIRTUAL_GATEWAY),
    ] {
        assert_eq!(lead::<F>(&memory, address, Transport::Tcp, 8080), Some(led), "{address}");
        assert_eq!(lead::<F>(&memory, address, Transport::Udp, 5353), Some(led), "{address}");
    }
}

fn a_port_published_on_one_address_is_led_from_that_address_alone<F: TestFamily>() {
    let memory = Memory::new(16);
    for (address, led) in [
        (F::LOOPBACK, Some(F::VIRTUAL_LOOPBACK)),
        (F::UNSPECIFIED, Some(F::VIRTUAL_LOOPBACK)),
        (F::HOST, None),
        (F::GATEWAY, None),
    ] {
        assert_eq!(lead::<F>(&memory, address, Transport::Tcp, 9090), led, "{address}");
    }
}

fn every_port_of_a_range_is_led_and_its_neighbours_are_not<F: TestFamily>() {
    let memory = Memory::new(16);
    let led = |port| lead::<F>(&memory, F::LOOPBACK, Transport::Udp, port);
    assert!((7000..=7009).all(|port| led(port) == Some(F::VIRTUAL_LOOPBACK)));
    assert_eq!((led(6999), led(7010)), (None, None));
}

fn a_socket_that_wants_something_else_goes_its_own_way<F: TestFamily>() {
    let memory = Memory::new(16);
    for (says, address, transport, port) in [
        ("a port that is not published", F::LOOPBACK, Transport::Tcp, 22),
        ("the same port of the other transport", F::LOOPBACK, Transport::Udp, 8080),
        ("the same port of SCTP", F::LOOPBACK, Transport::Sctp, 8080),
        ("a published port of another machine", F::OUTSIDE, Transport::Tcp, 8080),
        ("a published port of a machine far away", F::FAR, Transport::Tcp, 8080),
        ("a container's own address", C1.ip::<F>(), Transport::Tcp, 8080),
        ("a virtual address, which is not led a second time", F::VIRTUAL_LOOPBACK, Transport::Tcp, 8080),
        ("everybody", F::GROUP, Transport::Udp, 5353),
    ] {
        assert_eq!(lead::<F>(&memory, address, transport, port), None, "{says}");
    }
}

fn an_address_of_the_host_without_an_index_is_local_but_leads_nowhere<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.of_mut::<F>().locals.insert(F::addr(F::HOST), 0);
    assert_eq!(lead::<F>(&memory, F::HOST, Transport::Tcp, 8080), None);
    assert_eq!(original::<F>(&memory, F::VIRTUAL), None);
}

fn a_publish_whose_container_is_gone_leads_nobody_and_keeps_its_port<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.endpoints.remove(&C1.slot);
    assert_eq!(lead::<F>(&memory, F::LOOPBACK, Transport::Tcp, 8080), None);
    assert!(is_held::<F>(&memory, F::UNSPECIFIED, Transport::Tcp, 8080));
}

fn a_rule_made_for_the_last_owner_of_a_slot_leads_nobody_to_the_next<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.endpoints.insert(C1.slot, C1.endpoint(2));
    assert_eq!(lead::<F>(&memory, F::LOOPBACK, Transport::Tcp, 8080), None);
}

fn a_publish_on_one_address_goes_before_one_on_all<F: TestFamily>() {
    let mut memory = Memory::new(16);
    let index = Transport::Tcp.port_index(8080);
    memory.of_mut::<F>().ports.get_mut(&index).expect("published").specific = 1;
    memory.of_mut::<F>().published.insert(PublishKey::new(F::addr(F::HOST), Transport::Tcp, 8080), 2);
    memory.endpoints.remove(&C1.slot);
    // Rule 1 leads to C1, which is gone; rule 2 to C2.
    assert_eq!(lead::<F>(&memory, F::HOST, Transport::Tcp, 8080), Some(F::VIRTUAL_HOST));
    assert_eq!(lead::<F>(&memory, F::LOOPBACK, Transport::Tcp, 8080), None);
}

fn an_unpublished_port_leads_nobody_and_may_be_bound_again<F: TestFamily>() {
    let mut memory = Memory::new(16);
    memory.of_mut::<F>().ports.remove(&Transport::Tcp.port_index(8080));
    memory.bump(generation::FIRST_RULE + 1);
    memory.bump(generation::PUBLISH_EPOCH);
    assert_eq!(lead::<F>(&memory, F::LOOPBACK, Transport::Tcp, 8080), None);
    assert!(!is_held::<F>(&memory, F::UNSPECIFIED, Transport::Tcp, 8080));
}

fn a_socket_is_told_the_address_it_had_asked_for<F: TestFamily>() {
    let memory = Memory::new(16);
    for address in [F::LOOPBACK, F::HOST, F::GATEWAY] {
        let led = lead::<F>(&memory, address, Transport::Tcp, 8080).expect("published");
        assert_eq!(original::<F>(&memory, led), Some(address));
    }
}

fn an_address_that_stands_for_nothing_is_told_as_it_is<F: TestFamily>() {
    let memory = Memory::new(16);
    for address in [
        F::LOOPBACK,
        F::HOST,
        F::OUTSIDE,
        C1.ip::<F>(),
        F::UNSPECIFIED,
        F::VIRTUAL,
        nth(F::VIRTUAL, 4),
        F::BEYOND_VIRTUAL,
    ] {
        assert_eq!(original::<F>(&memory, address), None, "{address}");
    }
}

fn a_published_port_cannot_be_bound_where_it_is_published<F: TestFamily>() {
    let memory = Memory::new(16);
    for (says, address, transport, port, held) in [
        ("published everywhere, bound everywhere", F::UNSPECIFIED, Transport::Tcp, 8080, true),
        ("published everywhere, bound on one address", F::HOST, Transport::Tcp, 8080, true),
        ("published on loopback, bound there", F::LOOPBACK, Transport::Tcp, 9090, true),
        ("published on loopback, bound everywhere", F::UNSPECIFIED, Transport::Tcp, 9090, true),
        ("published on loopback, bound on another address", F::HOST, Transport::Tcp, 9090, false),
        ("the other transport", F::UNSPECIFIED, Transport::Udp, 8080, false),
        ("the last of a range", F::UNSPECIFIED, Transport::Udp, 7009, true),
        ("behind a range", F::UNSPECIFIED, Transport::Udp, 7010, false),
        ("not published", F::UNSPECIFIED, Transport::Tcp, 22, false),
    ] {
        assert_eq!(is_held::<F>(&memory, address, transport, port), held, "{says}");
    }
}
