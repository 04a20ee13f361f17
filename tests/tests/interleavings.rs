//! Tier 0: packets of all sides, restarts of containers, publishes, routes and time in any order. Flows
//! stay whole, and lead to nobody they were not made for.

use netbpf_tests::instance::{ADDRESSES, ALSO_HOST, Happening, Instance, PORTS, SECONDS, SENDERS, SERVICES, SPEECHES};
use netbpf_tests::survival::forgets;
use netbpf_tests::talk::at;
use netbpf_tests::world::{CONTAINERS, HOST, PUBLISHES};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A ring that is never full.
const RING: u32 = 1024;

fn happenings() -> impl Strategy<Value = Happening> {
    let speeches = || select(&SPEECHES[..]);
    let containers = || select(&CONTAINERS[..]);
    let publishes = || select(&PUBLISHES[..]);
    let (of_containers, others) = SENDERS.split_at(CONTAINERS.len());
    let senders = prop_oneof![6 => select(of_containers), 7 => select(others)];
    prop_oneof![
        10 => (senders, speeches(), select(&PORTS[..]), select(&ADDRESSES[..]), select(&SERVICES[..])).prop_map(
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
        1 => select(vec![HOST, ALSO_HOST]).prop_map(Happening::Renumber),
        2 => select(&SECONDS[..]).prop_map(Happening::Sleep),
        1 => Just(Happening::Collect),
    ]
}

proptest! {
    // What fails is written down as a fixture, not as a seed.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flows_are_whole_and_lead_to_nobody_else_whatever_happens(
        happenings in vec(happenings(), 1..120),
        ring in select(vec![2, 8, RING]),
        capacity in select(vec![7, 16, usize::MAX]),
    ) {
        let mut instance = Instance::new(ring, capacity);
        for happening in &happenings {
            instance.happens(happening);
        }
        forgets(&instance.memory);
    }
}
