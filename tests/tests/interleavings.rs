//! Tier 0: packets of all sides, restarts of containers, publishes, routes and time in any order. Flows
//! stay whole, and lead to nobody they were not made for.

use netbpf_common::abi::GatewayMode;
use netbpf_common::path::{V4, V6};
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::instance::{Happening, Instance, PORTS, SECONDS, SERVICES, SPEECHES, addresses, senders};
use netbpf_tests::survival::forgets;
use netbpf_tests::talk::at;
use netbpf_tests::world::{CONTAINERS, PUBLISHES};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

for_both!(flows_are_whole_and_lead_to_nobody_else_whatever_happens);

/// A ring that is never full.
const RING: u32 = 1024;

fn happenings<F: TestFamily>() -> impl Strategy<Value = Happening> {
    let speeches = || select(&SPEECHES[..]);
    let containers = || select(&CONTAINERS[..]);
    let publishes = || select(&PUBLISHES[..]);
    let (senders, addresses) = (senders::<F>(), addresses::<F>());
    let (of_containers, others) = senders.split_at(CONTAINERS.len());
    let senders = prop_oneof![6 => select(of_containers.to_vec()), 7 => select(others.to_vec())];
    prop_oneof![
        10 => (senders, speeches(), select(&PORTS[..]), select(addresses.to_vec()), select(&SERVICES[..])).prop_map(
            |((hook, source), speech, port, address, service)| {
                let (from, to) = (at(source, port), at(address, service));
                Happening::Speak { hook, speech, from, to }
            }
        ),
        12 => (any::<usize>(), speeches()).prop_map(|(arrival, speech)| Happening::Answer { arrival, speech }),
        6 => (any::<usize>(), speeches()).prop_map(|(arrival, speech)| Happening::Repeat { arrival, speech }),
        1 => containers().prop_map(Happening::Remove),
        2 => containers().prop_map(Happening::Create),
        2 => (publishes(), containers()).prop_map(|(publish, container)| Happening::Publish(publish, container)),
        1 => publishes().prop_map(Happening::Unpublish),
        1 => select(vec![F::HOST, F::ALSO_HOST]).prop_map(Happening::Renumber),
        2 => select(&SECONDS[..]).prop_map(Happening::Sleep),
        1 => Just(Happening::Collect),
    ]
}

fn flows_are_whole_and_lead_to_nobody_else_whatever_happens<F: TestFamily>() {
    check(happenings::<F>);
}

#[test]
fn flows_of_both_families_in_one_instance_are_whole_too() {
    check(|| prop_oneof![happenings::<V4>(), happenings::<V6>()]);
}

fn check<S: Strategy<Value = Happening>>(happenings: impl Fn() -> S) {
    // What fails is written down as a fixture, not as a seed.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(
        happenings in vec(happenings(), 1..120),
        ring in select(vec![2, 8, RING]),
        capacity in select(vec![7, 16, usize::MAX]),
        mode in select(vec![GatewayMode::Masquerade, GatewayMode::Routed, GatewayMode::Prefix, GatewayMode::Closed]),
    )| {
        let mut instance = Instance::with_mode(ring, capacity, mode);
        for happening in &happenings {
            instance.happens(happening);
        }
        forgets(&instance.memory);
    });
}
