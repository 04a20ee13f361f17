//! Tier 0: packets of all sides, restarts of containers, publishes, routes and time in any order. Flows
//! stay whole, and lead to nobody they were not made for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint, Event, PublishKey, PublishedPort, Rule, Uplink, generation};
use netbpf_common::path::Verdict;
use netbpf_tests::fixture::Hook;
use netbpf_tests::journey::{
    Arrival, Speech, TTL, Tuple, collect, container_of, entry, flows, frame_on, is_header_sound, is_transport_sound,
    link_on, travel,
};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{at, egress};
use netbpf_tests::world::{
    CONTAINERS, Container, FAR, GATEWAY, GATEWAY_MAC, HOST, OUTSIDE, PUBLISHES, Publish, VIRTUAL_LOOPBACK, uplink,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A ring that is never full.
const RING: u32 = 1024;

/// Another address that the uplink may come to have.
const ALSO_HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 7);
/// The virtual address of the uplink's.
const VIRTUAL_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 30, 2);
/// An address of the network that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 99);

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    /// Somebody says something.
    Speak { hook: Hook, speech: Speech, from: SocketAddrV4, to: SocketAddrV4 },
    /// A packet that has arrived is answered.
    Answer { arrival: Index, speech: Speech },
    /// A packet is sent once more.
    Repeat { arrival: Index, speech: Speech },
    /// A container goes, and all that is published of it.
    Remove(Container),
    /// A container comes, perhaps with the address of one that went.
    Create(Container),
    /// A rule leads to a container, perhaps to another than before.
    Publish(Publish, Container),
    /// A rule is withdrawn.
    Unpublish(Publish),
    /// Routes or addresses of uplinks change.
    Renumber(Ipv4Addr),
    /// Seconds pass.
    Sleep(u64),
    /// The collector looks at all flows.
    Collect,
}

fn happenings() -> impl Strategy<Value = Happening> {
    let speeches = || {
        select(vec![
            Speech::SYN,
            Speech::SYN_ACK,
            Speech::ACK,
            Speech::FIN,
            Speech::RST,
            Speech::Udp,
            Speech::Udp,
            Speech::Ping,
            Speech::Pong,
        ])
    };
    // Few of each, so that they meet.
    let ports = || select(vec![0, 53, 80, 5060, 8080, 20_000, 20_001]);
    let addresses = || {
        let others = [FAR, OUTSIDE, HOST, ALSO_HOST, GATEWAY, NOBODY, VIRTUAL_LOOPBACK, VIRTUAL_HOST];
        select([&others[..], &CONTAINERS.map(|container| container.ip)].concat())
    };
    let services = || select(vec![0, 53, 80, 90, 443, 5353, 7003, 8080, 9090, 20_000]);
    let containers = || select(&CONTAINERS[..]);
    let publishes = || select(&PUBLISHES[..]);
    let senders = prop_oneof![
        6 => containers().prop_map(|container| (egress(container), container.ip)),
        4 => select(vec![FAR, OUTSIDE]).prop_map(|address| (Hook::Uplink, address)),
        3 => select(vec![HOST, GATEWAY]).prop_map(|address| (Hook::Host, address)),
    ];
    prop_oneof![
        10 => (senders, speeches(), ports(), addresses(), services()).prop_map(
            |((hook, source), speech, port, address, service)| {
                let (from, to) = (at(source, port), at(address, service));
                Happening::Speak { hook, speech, from, to }
            }
        ),
        12 => (any::<Index>(), speeches()).prop_map(|(arrival, speech)| Happening::Answer { arrival, speech }),
        6 => (any::<Index>(), speeches()).prop_map(|(arrival, speech)| Happening::Repeat { arrival, speech }),
        1 => containers().prop_map(Happening::Remove),
        2 => containers().prop_map(Happening::Create),
        2 => (publishes(), containers()).prop_map(|(publish, container)| Happening::Publish(publish, container)),
        1 => publishes().prop_map(Happening::Unpublish),
        1 => select(vec![HOST, ALSO_HOST]).prop_map(Happening::Renumber),
        2 => select(vec![1, 2, 31, 121, 500_000]).prop_map(Happening::Sleep),
        1 => Just(Happening::Collect),
    ]
}

/// A packet that was sent, and where it ended.
#[derive(Clone, Debug)]
struct Sent {
    hook: Hook,
    tuple: Tuple,
    arrival: Arrival,
}

/// An instance and its agent, who does what the real one does in the order the real one does it.
struct Instance {
    memory: Memory,
    sent: Vec<Sent>,
    /// Generation of the endpoint at the originator's and at the answering side of each flow, by the
    /// flow's number, when the flow was first seen; 0 for who is none.
    members: HashMap<u64, [u32; 2]>,
    last_generation: u32,
}

impl Instance {
    fn new(ring: u32, capacity: usize) -> Self {
        let mut memory = Memory::new(ring);
        memory.capacity = capacity;
        memory.locals.insert(ALSO_HOST.into(), 4);
        Self { memory, sent: Vec::new(), members: HashMap::new(), last_generation: 1 }
    }

    fn happens(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Speak { hook, speech, from, to } => {
                let hook = match hook {
                    Hook::Egress(device) => egress_now(&self.memory, container_of(*device)),
                    other => *other,
                };
                self.speak(hook, *speech, *from, *to)?;
            }
            Happening::Answer { arrival, speech } if !self.sent.is_empty() => {
                let Sent { arrival, .. } = arrival.get(&self.sent).clone();
                if let (Some(tuple), Some(hook)) = (Tuple::read(&arrival.bytes), arrival.way_back()) {
                    self.speak(hook, like(*speech, tuple.protocol).answer(), tuple.to, tuple.from)?;
                }
            }
            Happening::Repeat { arrival, speech } if !self.sent.is_empty() => {
                let Sent { hook, tuple, .. } = arrival.get(&self.sent).clone();
                self.speak(hook, like(*speech, tuple.protocol), tuple.from, tuple.to)?;
            }
            Happening::Answer { .. } | Happening::Repeat { .. } => {}
            Happening::Remove(container) => self.remove(*container),
            Happening::Create(container) => {
                self.remove(*container);
                self.create(*container);
            }
            Happening::Publish(publish, container) => self.publish(publish, *container),
            Happening::Unpublish(publish) => self.unpublish(publish),
            Happening::Renumber(address) => {
                for entry in self.memory.uplinks.values_mut() {
                    *entry = Uplink { v4: (*address).into(), ..uplink() };
                }
                self.memory.bump(generation::ROUTE_EPOCH);
            }
            Happening::Sleep(seconds) => self.memory.sleep(*seconds),
            Happening::Collect => {
                collect(&self.memory);
            }
        }
        flows(&self.memory);
        Ok(())
    }

    fn remove(&mut self, container: Container) {
        for publish in &PUBLISHES {
            if self.memory.rules[&publish.rule].endpoint == container.slot {
                self.unpublish(publish);
            }
        }
        self.memory.addresses.remove(&container.ip.into());
        self.memory.endpoints.remove(&container.slot);
    }

    fn create(&mut self, container: Container) {
        self.last_generation += 1;
        let ifindex = container.device() + self.last_generation * ENDPOINT_SLOTS;
        let endpoint = Endpoint { ifindex, ..container.endpoint(self.last_generation) };
        self.memory.endpoints.insert(container.slot, endpoint);
        self.memory.addresses.insert(container.ip.into(), container.slot);
    }

    fn publish(&mut self, publish: &Publish, container: Container) {
        let Some(endpoint) = self.memory.endpoints.get(&container.slot) else { return };
        let rule = Rule { endpoint: container.slot, generation: endpoint.generation, ..publish.rule() };
        self.memory.rules.insert(publish.rule, rule);
        self.announce(publish, publish.rule);
    }

    fn unpublish(&mut self, publish: &Publish) {
        self.announce(publish, 0);
    }

    /// The ports of a publish lead to a rule, or nowhere.
    fn announce(&mut self, publish: &Publish, rule: u32) {
        self.memory.bump(generation::FIRST_RULE + publish.rule);
        for port in publish.host_port..publish.host_port + publish.count {
            let published = match publish.address {
                None => PublishedPort { wildcard: rule, specific: 0 },
                Some(address) => {
                    let key = PublishKey::new(address.into(), publish.transport, port);
                    self.memory.published.insert(key, rule);
                    PublishedPort { wildcard: 0, specific: u32::from(rule != 0) }
                }
            };
            self.memory.ports.insert(publish.transport.port_index(port), published);
        }
        self.memory.bump(generation::PUBLISH_EPOCH);
    }

    fn speak(&mut self, hook: Hook, speech: Speech, from: SocketAddrV4, to: SocketAddrV4) -> Result<(), TestCaseError> {
        let answers = |memory: &Memory| [Event::ResetMade, Event::IcmpMade].map(|event| memory.events(event));
        let before = answers(&self.memory);
        let bytes = speech.frame(link_on(hook), from, to, TTL, b"odd");
        let Some(tuple) = Tuple::read(&bytes) else { return Err(TestCaseError::fail("no packet with ports")) };
        let mut frame = frame_on(hook, bytes.clone());
        let verdict = travel(&self.memory, hook, &mut frame);
        prop_assert!(verdict != Verdict::Pass || frame.bytes == bytes, "what is passed on is untouched");
        let arrival = Arrival::new(verdict, frame);
        let Some(way_back) = arrival.way_back() else { return Ok(()) };
        prop_assert!(is_header_sound(&arrival.bytes) && is_transport_sound(&arrival.bytes));
        if answers(&self.memory) != before {
            prop_assert_eq!(way_back, hook, "its sender is told");
            return Ok(());
        }
        self.check_members(hook, &tuple, way_back)?;
        let seen = arrival.tuple();
        match way_back {
            Hook::Egress(device) => {
                let container = container_of(device);
                prop_assert_eq!(*seen.to.ip(), container.ip, "delivered to another");
                prop_assert_eq!(&arrival.bytes[..6], container.mac);
            }
            Hook::Uplink => {
                let is_local = self.memory.locals.contains_key(&(*seen.from.ip()).into());
                prop_assert!(is_local, "{} on the wire", seen.from);
            }
            Hook::Host => prop_assert_eq!(&arrival.bytes[..6], GATEWAY_MAC),
            Hook::Forwarded => {}
        }
        self.sent.push(Sent { hook, tuple, arrival });
        Ok(())
    }

    /// A flow is between the endpoints it was made for, and no others with their addresses.
    fn check_members(&mut self, hook: Hook, tuple: &Tuple, way_back: Hook) -> Result<(), TestCaseError> {
        let Some(flow) = entry(&self.memory, hook, tuple) else {
            return Err(TestCaseError::fail(format!("{tuple:?} goes on without a flow")));
        };
        let generation = |hook| match hook {
            Hook::Egress(device) => {
                let endpoint = self.memory.endpoints.get(&container_of(device).slot);
                endpoint.filter(|endpoint| endpoint.ifindex == device).map(|endpoint| endpoint.generation)
            }
            _ => Some(0),
        };
        let (Some(sender), Some(receiver)) = (generation(hook), generation(way_back)) else {
            return Err(TestCaseError::fail(format!("{hook:?} or {way_back:?} is the device of no endpoint")));
        };
        let members = if flow.is_reply == 0 { [sender, receiver] } else { [receiver, sender] };
        prop_assert_eq!(*self.members.entry(flow.word.id()).or_insert(members), members);
        Ok(())
    }
}

/// Where a container of the world sends from today.
fn egress_now(memory: &Memory, container: Container) -> Hook {
    Hook::Egress(memory.endpoints.get(&container.slot).map_or(container.device(), |endpoint| endpoint.ifindex))
}

/// The speech, or one of the protocol if it is of another.
fn like(speech: Speech, protocol: u8) -> Speech {
    [speech, Speech::ACK, Speech::Udp, Speech::Ping]
        .into_iter()
        .find(|speech| speech.protocol() == protocol)
        .unwrap_or(speech)
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
            instance.happens(happening)?;
        }
    }
}
