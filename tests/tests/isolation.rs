//! Tier 0: networks that meet others, and networks that meet nobody.

use std::net::IpAddr;

use netbpf_common::abi::{ConfigFlags, DropReason, GatewayMode, NetworkFlags, generation};
use netbpf_common::path::Verdict;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::gateway::world;
use netbpf_tests::journey::{Speech, Tuple, answer, flows, send};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{Talk, at, peer};
use netbpf_tests::world::{C1, C2, C3, UPLINK, neighbour};

for_both!(
    networks_meet_when_both_are_open,
    an_internal_network_is_among_itself,
    nobody_comes_into_an_internal_network_but_the_host,
    the_resolver_answers_at_the_gateway_whatever_is_published,
    without_masquerading_answers_come_in_and_nothing_else,
    a_network_masquerades_under_an_address_of_its_own,
);

/// Gives networks these flags, by number.
fn flagged(flags: [u32; 2]) -> Memory {
    let mut memory = Memory::new(64);
    for (number, flags) in [1, 2].into_iter().zip(flags) {
        memory.networks.get_mut(&number).expect("there are two").flags |= flags;
    }
    memory
}

fn networks_meet_when_both_are_open<F: TestFamily>() {
    const OPEN: u32 = NetworkFlags::OPEN;
    for (flags, meet) in [([OPEN, OPEN], true), ([OPEN, 0], false), ([0, OPEN], false), ([0, 0], false)] {
        for speech in [Speech::SYN, Speech::Udp] {
            let memory = flagged(flags);
            let talk = Talk::of(&memory, C1, 20_000, at(C3.ip::<F>(), 53));
            let seen = talk.say(speech);
            if meet {
                assert_eq!(seen.verdict, peer(C3), "{flags:?}");
                assert_eq!(seen.tuple(), Tuple::new(speech, at(C1.ip::<F>(), 20_000), at(C3.ip::<F>(), 53)));
                assert_eq!(answer(&memory, &seen, speech.answer()).verdict, peer(C1));
            } else {
                assert_eq!(seen.verdict, Verdict::Drop(DropReason::Isolated), "{flags:?}");
            }
        }
    }
}

/// The world, in which the network of C1 and C2 is internal.
fn internal() -> Memory {
    let mut memory = flagged([NetworkFlags::INTERNAL, 0]);
    memory.config.dns_port = 32_767;
    memory
}

fn an_internal_network_is_among_itself<F: TestFamily>() {
    // An address of the world, the host's, a port that another has published, a service of the host at the gateway.
    for to in [F::SERVER, at(F::HOST, 22), F::WEB, F::DNS, at(F::GATEWAY, 22)] {
        for speech in [Speech::SYN, Speech::Udp] {
            let memory = internal();
            let told = Talk::of(&memory, C1, 20_000, to).say(speech);
            assert_eq!(told.verdict, peer(C1), "its sender is told: {to}");
            assert_eq!((memory.drops(DropReason::Isolated), flows(&memory).len()), (1, 0), "{to}");
        }
    }
    let memory = internal();
    Talk::of(&memory, C1, 20_000, at(C2.ip::<F>(), 53)).establish(Speech::Udp);
    Talk::of(&memory, C1, 77, at(F::GATEWAY, 0)).establish(Speech::Ping);
    let apart = Talk::of(&memory, C1, 20_000, at(C3.ip::<F>(), 53)).say(Speech::Udp);
    assert_eq!(apart.verdict, Verdict::Drop(DropReason::Isolated));
}

fn nobody_comes_into_an_internal_network_but_the_host<F: TestFamily>() {
    let memory = internal();
    for to in [F::WEB, F::DNS] {
        assert_eq!(send(&memory, Hook::Uplink, Speech::SYN, F::CLIENT, to).verdict, Verdict::Pass);
        assert_eq!(send(&memory, Hook::Uplink, Speech::Udp, F::CLIENT, to).verdict, Verdict::Pass);
    }
    assert_eq!(flows(&memory), []);
    let seen = send(&memory, Hook::Host, Speech::SYN, at(F::GATEWAY, 45_000), at(C1.ip::<F>(), 22));
    assert_eq!(seen.verdict, Verdict::Device { ifindex: C1.device() });
}

fn the_resolver_answers_at_the_gateway_whatever_is_published<F: TestFamily>() {
    for flags in [0, NetworkFlags::INTERNAL] {
        let mut memory = internal();
        memory.networks.get_mut(&1).expect("C1's").flags = flags;
        for speech in [Speech::Udp, Speech::SYN] {
            let question = at(F::GATEWAY, 53);
            let seen = Talk::of(&memory, C1, 20_000, question).say(speech);
            let expected = Tuple::new(speech, at(C1.ip::<F>(), 20_000), at(F::GATEWAY, 32_767));
            assert_eq!((seen.way_back(), seen.tuple()), (Some(Hook::Host), expected));
            let back = answer(&memory, &seen, speech.answer());
            assert_eq!((back.verdict, back.tuple().from), (Verdict::Device { ifindex: C1.device() }, question));
        }
    }
    // The gateway of another network is the host's, as any of its addresses.
    let memory = internal();
    let other = Talk::of(&memory, C3, 20_000, at(F::GATEWAY, 53)).say(Speech::Udp);
    assert_eq!(other.tuple().to, at(F::GATEWAY, 53));
}

fn without_masquerading_answers_come_in_and_nothing_else<F: TestFamily>() {
    let mut memory = world(GatewayMode::Plain);
    memory.config.flags |= ConfigFlags::REACHABLE;
    for speech in [Speech::SYN, Speech::Udp, Speech::Ping] {
        let seen = Talk::of(&memory, C1, 20_000, F::SERVER).say(speech);
        assert_eq!(seen.tuple().from.ip(), C1.ip::<F>(), "{speech:?}");
        assert_eq!(answer(&memory, &seen, speech.answer()).verdict, peer(C1));
        let entered = send(&memory, Hook::Uplink, speech, F::CLIENT, at(C1.ip::<F>(), 22));
        assert_eq!(entered.verdict, Verdict::Pass, "{speech:?}: the host's affair, who forwards nothing");
    }
    assert_eq!(flows(&memory).len(), 3);
    Talk::from_outside(&memory, F::CLIENT, F::WEB).establish(Speech::SYN);
}

fn a_network_masquerades_under_an_address_of_its_own<F: TestFamily>() {
    let mut memory = Memory::new(64);
    let own: IpAddr = F::ALSO_HOST;
    let network = memory.networks.get_mut(&1).expect("C1's");
    F::subnet_of_mut(network).external = F::addr(own);
    memory.of_mut::<F>().locals.insert(F::addr(own), 9);
    let seen = |container| {
        let seen = Talk::of(&memory, container, 20_000, F::SERVER).say(Speech::Udp);
        assert_eq!(seen.verdict, Verdict::Neighbour { ifindex: UPLINK, next_hop: neighbour(F::OUTSIDE) });
        seen.tuple().from.ip()
    };
    assert_eq!((seen(C1), seen(C3)), (own, F::HOST));
    let back = send(&memory, Hook::Uplink, Speech::Udp, F::SERVER, at(own, 20_000));
    assert_eq!((back.verdict, back.tuple().to), (peer(C1), at(C1.ip::<F>(), 20_000)));
    // An address that the host has lost is nobody's to send from, in flows that there are as in new ones.
    memory.of_mut::<F>().locals.remove(&F::addr(own));
    memory.bump(generation::ROUTE_EPOCH);
    for port in [20_000, 20_001] {
        let lost = Talk::of(&memory, C1, port, F::SERVER).say(Speech::Udp);
        assert_eq!(lost.verdict, Verdict::Drop(DropReason::NoUplink));
    }
}
