//! Tier 0: endpoint-independent mappings (RFC 4787 REQ-1 and REQ-8), and networks that have none.

use netbpf_common::abi::{ConfigFlags, DropReason, Event, NetworkFlags};
use netbpf_common::path::{HostSocket, Verdict};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, Tuple, answer, collect, flows, send};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{Talk, assert_exhausted, at, egress, peer};
use netbpf_tests::world::{C1, C2, C3, GENERATION, NAT_FIRST, NAT_LAST, UPLINK, uplink_at};

for_both!(
    a_port_of_a_container_has_the_same_nat_port_towards_everybody,
    everybody_can_send_to_a_mapping_and_is_answered_from_it,
    containers_reach_each_other_and_themselves_by_their_mappings,
    a_network_without_mappings_has_none,
    a_mapping_takes_no_port_that_a_socket_of_the_host_has,
    a_mapping_goes_with_its_container_and_the_next_owner_of_the_address_gets_its_own,
    a_mapping_follows_the_address_of_the_uplink,
    a_mapping_that_nobody_uses_is_collected_after_five_minutes,
    when_every_port_is_mapped_others_share_them_towards_other_machines,
    mappings_count_among_what_a_container_may_have,
    a_service_that_the_host_begins_on_a_mapped_port_is_the_hosts,
    no_packet_follows_a_mapping_as_if_it_were_a_flow,
    the_middle_of_a_connection_opens_nothing_by_a_mapping,
);

/// The world, in which the first network has mappings.
fn world() -> Memory {
    let mut memory = Memory::new(64);
    memory.config.flags |= ConfigFlags::MAPPINGS;
    memory.networks.get_mut(&1).expect("is there").flags |= NetworkFlags::FULL_CONE;
    memory
}

fn a_port_of_a_container_has_the_same_nat_port_towards_everybody<F: TestFamily>() {
    for speech in [Speech::Udp, Speech::SYN] {
        let memory = world();
        // Somebody else has the port towards one of them already.
        let rival = Talk::of(&memory, C2, 20_000, F::SERVER).say(speech).tuple();
        assert_eq!(rival.from, at(F::HOST, 20_000));
        let mapped = |to| Talk::of(&memory, C1, 20_000, to).say(speech).tuple().from;
        let first = mapped(F::SERVER);
        assert!(first.port() != 20_000 && (NAT_FIRST..=NAT_LAST).contains(&first.port()));
        for to in [at(F::FAR, 444), at(F::OUTSIDE, 443), F::SERVER] {
            assert_eq!(mapped(to), first, "{speech:?} to {to}");
        }
        assert_eq!(memory.events(Event::MappingMade), 2);
    }
}

fn everybody_can_send_to_a_mapping_and_is_answered_from_it<F: TestFamily>() {
    let memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    let stranger = Talk::from_outside(&memory, F::CLIENT, mapped);
    let seen = stranger.say(Speech::Udp);
    assert_eq!((seen.verdict, seen.tuple().from, seen.tuple().to), (peer(C1), F::CLIENT, at(C1.ip::<F>(), 20_000)));
    assert_eq!(answer(&memory, &seen, Speech::Udp).tuple().from, mapped);
    let other = Talk::from_outside(&memory, F::CLIENT, at(F::HOST, mapped.port() + 1)).say(Speech::Udp);
    assert_eq!(other.verdict, Verdict::Pass, "a port without a mapping is the host's");
    let middle = Talk::from_outside(&memory, F::CLIENT, mapped).say(Speech::ACK);
    assert_eq!(middle.verdict, Verdict::Pass, "of another protocol it is none");
}

fn containers_reach_each_other_and_themselves_by_their_mappings<F: TestFamily>() {
    let memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    for (container, sender) in [(C2, C2.ip::<F>()), (C1, F::GATEWAY)] {
        let seen = Talk::of(&memory, container, 25_000, mapped).say(Speech::Udp);
        assert_eq!((seen.verdict, seen.tuple().to), (peer(C1), at(C1.ip::<F>(), 20_000)));
        assert_eq!(seen.tuple().from, at(sender, 25_000));
        let back = answer(&memory, &seen, Speech::Udp);
        assert_eq!((back.verdict, back.tuple().from), (peer(container), mapped));
    }
}

fn a_network_without_mappings_has_none<F: TestFamily>() {
    let memory = world();
    let seen = Talk::of(&memory, C3, 20_000, F::SERVER).say(Speech::Udp).tuple();
    assert_eq!(memory.events(Event::MappingMade), 0);
    assert_eq!(Talk::from_outside(&memory, F::CLIENT, seen.from).say(Speech::Udp).verdict, Verdict::Pass);
}

fn a_mapping_takes_no_port_that_a_socket_of_the_host_has<F: TestFamily>() {
    let mut memory = world();
    let anybody = Tuple::new(Speech::Udp, at(F::UNSPECIFIED, 0), at(F::HOST, 20_000));
    memory.bind(&anybody, HostSocket::Listening);
    assert_ne!(Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from.port(), 20_000);
}

fn a_mapping_goes_with_its_container_and_the_next_owner_of_the_address_gets_its_own<F: TestFamily>() {
    let mut memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    memory.endpoints.insert(C1.slot, C1.endpoint(GENERATION + 1));
    let stranger = Talk::from_outside(&memory, F::CLIENT, mapped).say(Speech::Udp);
    assert_eq!(stranger.verdict, Verdict::Pass);
    let again = Talk::of(&memory, C1, 20_000, at(F::FAR, 444)).say(Speech::Udp);
    assert!(again.way_back().is_some());
    assert_eq!(memory.events(Event::MappingMade), 2);
    flows(&memory);
}

fn a_mapping_follows_the_address_of_the_uplink<F: TestFamily>() {
    let mut memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    let moved = F::ALSO_HOST;
    memory.of_mut::<F>().locals.insert(F::addr(moved), 9);
    memory.uplinks.insert(UPLINK, uplink_at(moved));
    let again = Talk::of(&memory, C1, 20_000, at(F::FAR, 444)).say(Speech::Udp).tuple().from;
    assert_eq!(again, at(moved, mapped.port()));
    flows(&memory);
}

fn a_mapping_that_nobody_uses_is_collected_after_five_minutes<F: TestFamily>() {
    let memory = world();
    Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp);
    assert_eq!(flows(&memory).len(), 2);
    memory.sleep(300);
    assert_eq!(collect(&memory), 1, "the flow");
    memory.sleep(1);
    assert_eq!(collect(&memory), 1, "the mapping");
}

fn when_every_port_is_mapped_others_share_them_towards_other_machines<F: TestFamily>() {
    let mut memory = world();
    (memory.config.nat_first, memory.config.nat_last) = (20_000, 20_000);
    Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp);
    let shared = Talk::of(&memory, C2, 20_000, at(F::FAR, 444)).say(Speech::Udp);
    assert_eq!(shared.tuple().from, at(F::HOST, 20_000));
    assert_eq!(answer(&memory, &shared, Speech::Udp).verdict, peer(C2));
    let refused = Talk::of(&memory, C2, 20_000, F::SERVER).say(Speech::Udp);
    assert_exhausted(&memory, C2, &refused, DropReason::NoPort);
    assert_eq!(memory.events(Event::MappingMade), 1);
    flows(&memory);
}

fn mappings_count_among_what_a_container_may_have<F: TestFamily>() {
    let mut memory = world();
    memory.config.flow_limit = 10;
    for port in 0..10 {
        Talk::of(&memory, C1, 20_000 + port, F::SERVER).say(Speech::Udp);
    }
    let refused = Talk::of(&memory, C1, 21_000, F::SERVER).say(Speech::Udp);
    assert_exhausted(&memory, C1, &refused, DropReason::FlowLimit);
    assert!(Talk::of(&memory, C2, 21_000, F::SERVER).say(Speech::Udp).way_back().is_some());
    memory.sleep(301);
    collect(&memory);
    assert!(memory.confirmed.borrow().values().all(|count| *count == 0), "{:?}", memory.confirmed);
}

fn a_service_that_the_host_begins_on_a_mapped_port_is_the_hosts<F: TestFamily>() {
    let mut memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    let known = Talk::from_outside(&memory, F::CLIENT, mapped);
    assert_eq!(known.say(Speech::Udp).verdict, peer(C1));
    let stranger = at(F::FAR, 5000);
    for from in [stranger, F::CLIENT] {
        memory.bind(&Tuple::new(Speech::Udp, from, mapped), HostSocket::Listening);
    }
    let stranger = Talk::from_outside(&memory, stranger, mapped).say(Speech::Udp);
    assert_eq!(stranger.verdict, Verdict::Pass);
    let known = Talk::from_outside(&memory, F::CLIENT, mapped);
    assert_eq!(known.say(Speech::Udp).verdict, peer(C1), "a conversation that was there stays");
}

fn no_packet_follows_a_mapping_as_if_it_were_a_flow<F: TestFamily>() {
    let memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::Udp).tuple().from;
    let nobody = at(F::UNSPECIFIED, 0);
    let before = flows(&memory).len();
    let outside = send(&memory, Hook::Uplink, Speech::Udp, nobody, mapped);
    assert_eq!(outside.verdict, Verdict::Pass);
    let inside = send(&memory, egress(C1), Speech::Udp, at(C1.ip::<F>(), 20_000), nobody);
    assert_eq!(inside.verdict, Verdict::Drop(DropReason::Martian));
    // The key that the container's side of a mapping has: the address of the uplink, and no port.
    let inside = send(&memory, egress(C1), Speech::Udp, at(C1.ip::<F>(), 20_000), at(F::HOST, 0));
    assert!(matches!(inside.verdict, Verdict::Drop(_)), "{:?}", inside.verdict);
    assert_eq!(flows(&memory).len(), before);
}

fn the_middle_of_a_connection_opens_nothing_by_a_mapping<F: TestFamily>() {
    let memory = world();
    let mapped = Talk::of(&memory, C1, 20_000, F::SERVER).say(Speech::SYN).tuple().from;
    let before = flows(&memory).len();
    for speech in [Speech::ACK, Speech::FIN, Speech::RST, Speech::SYN_ACK] {
        let stranger = Talk::from_outside(&memory, F::CLIENT, mapped).say(speech);
        assert_eq!(stranger.verdict, Verdict::Pass, "{speech:?} from outside");
        assert_eq!(flows(&memory).len(), before);
    }
    for speech in [Speech::ACK, Speech::FIN, Speech::RST, Speech::SYN_ACK] {
        let neighbour = Talk::of(&memory, C2, 25_000, mapped).say(speech);
        assert_ne!(neighbour.verdict, peer(C1), "{speech:?}");
    }
    assert_eq!(Talk::from_outside(&memory, F::CLIENT, mapped).say(Speech::SYN).verdict, peer(C1));
}
