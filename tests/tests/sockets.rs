//! Tier 0: where the host's own sockets are led, and what they may bind.

use std::net::Ipv4Addr;

use netbpf_common::abi::{PublishKey, Transport, generation};
use netbpf_common::path::{V4, socket};
use netbpf_common::wire::V4Addr;
use netbpf_tests::memory::Memory;
use netbpf_tests::world::{C1, FAR, GATEWAY, HOST, OUTSIDE, VIRTUAL, VIRTUAL_LOOPBACK};

const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ALSO_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);

/// The virtual address with an index.
const fn virtual_address(index: u8) -> Ipv4Addr {
    let [a, b, c, _] = VIRTUAL.octets();
    Ipv4Addr::new(a, b, c, index)
}

fn lead(memory: &Memory, address: Ipv4Addr, transport: Transport, port: u16) -> Option<Ipv4Addr> {
    socket::lead::<V4, _>(&memory, address.into(), transport, port).map(Ipv4Addr::from)
}

fn original(memory: &Memory, address: Ipv4Addr) -> Option<Ipv4Addr> {
    socket::original::<V4, _>(&memory, V4Addr::from(address)).map(Ipv4Addr::from)
}

fn is_held(memory: &Memory, address: Ipv4Addr, transport: Transport, port: u16) -> bool {
    socket::is_held::<V4, _>(&memory, address.into(), transport, port)
}

#[test]
fn a_port_published_everywhere_is_led_from_every_address_of_the_host() {
    let memory = Memory::new(16);
    for (address, led) in [
        (LOOPBACK, VIRTUAL_LOOPBACK),
        (ALSO_LOOPBACK, VIRTUAL_LOOPBACK),
        (UNSPECIFIED, VIRTUAL_LOOPBACK),
        (HOST, virtual_address(2)),
        (GATEWAY, virtual_address(3)),
    ] {
        assert_eq!(lead(&memory, address, Transport::Tcp, 8080), Some(led), "{address}");
        assert_eq!(lead(&memory, address, Transport::Udp, 5353), Some(led), "{address}");
    }
}

#[test]
fn a_port_published_on_one_address_is_led_from_that_address_alone() {
    let memory = Memory::new(16);
    for (address, led) in [
        (LOOPBACK, Some(VIRTUAL_LOOPBACK)),
        (ALSO_LOOPBACK, None),
        (UNSPECIFIED, Some(VIRTUAL_LOOPBACK)),
        (HOST, None),
        (GATEWAY, None),
    ] {
        assert_eq!(lead(&memory, address, Transport::Tcp, 9090), led, "{address}");
    }
}

#[test]
fn every_port_of_a_range_is_led_and_its_neighbours_are_not() {
    let memory = Memory::new(16);
    let led = |port| lead(&memory, LOOPBACK, Transport::Udp, port);
    assert!((7000..=7009).all(|port| led(port) == Some(VIRTUAL_LOOPBACK)));
    assert_eq!((led(6999), led(7010)), (None, None));
}

#[test]
fn a_socket_that_wants_something_else_goes_its_own_way() {
    let memory = Memory::new(16);
    for (says, address, transport, port) in [
        ("a port that is not published", LOOPBACK, Transport::Tcp, 22),
        ("the same port of the other transport", LOOPBACK, Transport::Udp, 8080),
        ("the same port of SCTP", LOOPBACK, Transport::Sctp, 8080),
        ("a published port of another machine", OUTSIDE, Transport::Tcp, 8080),
        ("a published port of a machine far away", FAR, Transport::Tcp, 8080),
        ("a container's own address", C1.ip, Transport::Tcp, 8080),
        ("a virtual address, which is not led a second time", VIRTUAL_LOOPBACK, Transport::Tcp, 8080),
        ("everybody", Ipv4Addr::BROADCAST, Transport::Udp, 5353),
    ] {
        assert_eq!(lead(&memory, address, transport, port), None, "{says}");
    }
}

#[test]
fn an_address_of_the_host_without_an_index_is_local_but_leads_nowhere() {
    let mut memory = Memory::new(16);
    memory.locals.insert(HOST.into(), 0);
    assert_eq!(lead(&memory, HOST, Transport::Tcp, 8080), None);
    assert_eq!(original(&memory, VIRTUAL), None);
}

#[test]
fn a_publish_whose_container_is_gone_leads_nobody_and_keeps_its_port() {
    let mut memory = Memory::new(16);
    memory.endpoints.remove(&C1.slot);
    assert_eq!(lead(&memory, LOOPBACK, Transport::Tcp, 8080), None);
    assert!(is_held(&memory, UNSPECIFIED, Transport::Tcp, 8080));
}

#[test]
fn a_rule_made_for_the_last_owner_of_a_slot_leads_nobody_to_the_next() {
    let mut memory = Memory::new(16);
    memory.endpoints.insert(C1.slot, C1.endpoint(2));
    assert_eq!(lead(&memory, LOOPBACK, Transport::Tcp, 8080), None);
}

#[test]
fn a_publish_on_one_address_goes_before_one_on_all() {
    let mut memory = Memory::new(16);
    let index = Transport::Tcp.port_index(8080);
    memory.ports.get_mut(&index).expect("published").specific = 1;
    memory.published.insert(PublishKey::new(HOST.into(), Transport::Tcp, 8080), 2);
    memory.endpoints.remove(&C1.slot);
    // Rule 1 leads to C1, which is gone; rule 2 to C2.
    assert_eq!(lead(&memory, HOST, Transport::Tcp, 8080), Some(virtual_address(2)));
    assert_eq!(lead(&memory, LOOPBACK, Transport::Tcp, 8080), None);
}

#[test]
fn an_unpublished_port_leads_nobody_and_may_be_bound_again() {
    let mut memory = Memory::new(16);
    memory.ports.remove(&Transport::Tcp.port_index(8080));
    memory.bump(generation::FIRST_RULE + 1);
    memory.bump(generation::PUBLISH_EPOCH);
    assert_eq!(lead(&memory, LOOPBACK, Transport::Tcp, 8080), None);
    assert!(!is_held(&memory, UNSPECIFIED, Transport::Tcp, 8080));
}

#[test]
fn a_socket_is_told_the_address_it_had_asked_for() {
    let memory = Memory::new(16);
    for address in [LOOPBACK, HOST, GATEWAY] {
        let led = lead(&memory, address, Transport::Tcp, 8080).expect("published");
        assert_eq!(original(&memory, led), Some(address));
    }
}

#[test]
fn an_address_that_stands_for_nothing_is_told_as_it_is() {
    let memory = Memory::new(16);
    let beyond = Ipv4Addr::new(169, 254, 31, 1);
    for address in [LOOPBACK, HOST, OUTSIDE, C1.ip, UNSPECIFIED, VIRTUAL, virtual_address(4), beyond] {
        assert_eq!(original(&memory, address), None, "{address}");
    }
}

#[test]
fn a_published_port_cannot_be_bound_where_it_is_published() {
    let memory = Memory::new(16);
    for (says, address, transport, port, held) in [
        ("published everywhere, bound everywhere", UNSPECIFIED, Transport::Tcp, 8080, true),
        ("published everywhere, bound on one address", HOST, Transport::Tcp, 8080, true),
        ("published everywhere, bound on loopback", ALSO_LOOPBACK, Transport::Tcp, 8080, true),
        ("published on loopback, bound there", LOOPBACK, Transport::Tcp, 9090, true),
        ("published on loopback, bound everywhere", UNSPECIFIED, Transport::Tcp, 9090, true),
        ("published on loopback, bound on another address", HOST, Transport::Tcp, 9090, false),
        ("the other transport", UNSPECIFIED, Transport::Udp, 8080, false),
        ("the last of a range", UNSPECIFIED, Transport::Udp, 7009, true),
        ("behind a range", UNSPECIFIED, Transport::Udp, 7010, false),
        ("not published", UNSPECIFIED, Transport::Tcp, 22, false),
    ] {
        assert_eq!(is_held(&memory, address, transport, port), held, "{says}");
    }
}
