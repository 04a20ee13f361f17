//! An instance to which anything may happen, in any order: packets of all sides, restarts of containers,
//! publishes, routes and time. Whatever it was, flows are whole, and lead to nobody they were not made for.

use std::net::{IpAddr, SocketAddr};

use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint, Event, GatewayMode, PublishKey, PublishedPort, Rule, generation};
use netbpf_common::path::Verdict;

use crate::family::TestFamily;
use crate::fixture::Hook;
use crate::gateway::{self, is_known_outside, outside};
use crate::headers::{is_header_sound, is_transport_sound};
use crate::in_each_family;
use crate::journey::{Arrival, Speech, TTL, Tuple, collect, container_of, entry, flows, frame_on, link_on, travel};
use crate::memory::{HashMap, Memory};
use crate::talk::egress;
use crate::world::{C1, C2, C3, Container, GATEWAY_MAC, PUBLISHES, Publish, uplink_at};

// What there is to choose from: few of each, so that they meet.

/// What may be said.
pub const SPEECHES: [Speech; 9] = [
    Speech::SYN,
    Speech::SYN_ACK,
    Speech::ACK,
    Speech::FIN,
    Speech::RST,
    Speech::Udp,
    Speech::Udp,
    Speech::Ping,
    Speech::Pong,
];
/// Ports of who speaks.
pub const PORTS: [u16; 7] = [0, 53, 80, 5060, 8080, 20_000, 20_001];
/// Ports of who is spoken to.
pub const SERVICES: [u16; 10] = [0, 53, 80, 90, 443, 5353, 7003, 8080, 9090, 20_000];
/// Addresses of who is spoken to.
pub fn addresses<F: TestFamily>() -> [IpAddr; 15] {
    [
        F::FAR,
        F::OUTSIDE,
        F::HOST,
        F::ALSO_HOST,
        F::GATEWAY,
        F::NOBODY,
        F::VIRTUAL_LOOPBACK,
        F::VIRTUAL_HOST,
        C1.ip::<F>(),
        C2.ip::<F>(),
        C3.ip::<F>(),
        outside::<F>(&C1, GatewayMode::Prefix),
        outside::<F>(&C3, GatewayMode::Prefix),
        F::CROSSING,
        F::NOWHERE,
    ]
}
/// Who speaks, and where that sets out.
pub fn senders<F: TestFamily>() -> [(Hook, IpAddr); 7] {
    [
        (egress(C1), C1.ip::<F>()),
        (egress(C2), C2.ip::<F>()),
        (egress(C3), C3.ip::<F>()),
        (Hook::Uplink, F::FAR),
        (Hook::Uplink, F::OUTSIDE),
        (Hook::Host, F::HOST),
        (Hook::Host, F::GATEWAY),
    ]
}
/// Seconds that pass: less and more than each timeout.
pub const SECONDS: [u64; 5] = [1, 2, 31, 121, 500_000];

/// What happens next.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Somebody says something.
    Speak {
        /// Where it sets out; a container's, from where it is by then.
        hook: Hook,
        /// What.
        speech: Speech,
        /// The sender.
        from: SocketAddr,
        /// The receiver.
        to: SocketAddr,
    },
    /// A packet that has arrived is answered.
    Answer {
        /// Which, of all that have: modulo their number.
        arrival: usize,
        /// What, or something of the same protocol.
        speech: Speech,
    },
    /// A packet is sent once more.
    Repeat {
        /// Which, of all that have: modulo their number.
        arrival: usize,
        /// What, or something of the same protocol.
        speech: Speech,
    },
    /// A container goes, and all that is published of it.
    Remove(Container),
    /// A container comes, perhaps with the address of one that went.
    Create(Container),
    /// A rule leads to a container, perhaps to another than before.
    Publish(Publish, Container),
    /// A rule is withdrawn.
    Unpublish(Publish),
    /// Routes or addresses of uplinks change.
    Renumber(IpAddr),
    /// Seconds pass.
    Sleep(u64),
    /// The collector looks at all flows.
    Collect,
}

/// A packet that was sent, and where it ended.
#[derive(Clone, Debug)]
struct Sent {
    hook: Hook,
    tuple: Tuple,
    arrival: Arrival,
}

/// An instance and its agent, who does what the real one does in the order the real one does it.
pub struct Instance {
    /// Its tables.
    pub memory: Memory,
    sent: Vec<Sent>,
    /// Generation of the endpoint at the originator's and at the answering side of each flow, by the
    /// flow's number, when the flow was first seen; 0 for who is none.
    members: HashMap<u64, [u32; 2]>,
    last_generation: u32,
    mode: GatewayMode,
}

impl Instance {
    /// The world, with a ring and a flow table of these sizes.
    pub fn new(ring: u32, capacity: usize) -> Self {
        Self::with_mode(ring, capacity, GatewayMode::Masquerade)
    }

    /// The same where networks reach the world in another way.
    pub fn with_mode(ring: u32, capacity: usize, mode: GatewayMode) -> Self {
        let mut memory = Memory::new(ring);
        gateway::change(&mut memory, mode);
        memory.capacity = capacity;
        in_each_family!(F => memory.of_mut::<F>().locals.insert(F::addr(F::ALSO_HOST), 4));
        Self { memory, sent: Vec::new(), members: HashMap::default(), last_generation: 1, mode }
    }

    /// Lets it happen, and looks whether all is well.
    ///
    /// # Panics
    /// When a flow is not whole, or leads to somebody it was not made for.
    pub fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Speak { hook, speech, from, to } => {
                let hook = match hook {
                    Hook::Egress(device) => egress_now(&self.memory, container_of(*device)),
                    other => *other,
                };
                self.speak(hook, *speech, *from, *to);
            }
            Happening::Answer { arrival, speech } if !self.sent.is_empty() => {
                let Sent { arrival, .. } = self.sent[arrival % self.sent.len()].clone();
                if let (Some(tuple), Some(hook)) = (Tuple::read(&arrival.bytes), arrival.way_back()) {
                    self.speak(hook, like(*speech, &tuple).answer(), tuple.to, tuple.from);
                }
            }
            Happening::Repeat { arrival, speech } if !self.sent.is_empty() => {
                let Sent { hook, tuple, .. } = self.sent[arrival % self.sent.len()].clone();
                self.speak(hook, like(*speech, &tuple), tuple.from, tuple.to);
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
                    *entry = uplink_at(*address);
                }
                self.memory.bump(generation::ROUTE_EPOCH);
            }
            Happening::Sleep(seconds) => self.memory.sleep(*seconds),
            Happening::Collect => {
                collect(&self.memory);
            }
        }
        flows(&self.memory);
    }

    fn remove(&mut self, container: Container) {
        for publish in &PUBLISHES {
            if self.memory.rules[&publish.rule].endpoint == container.slot {
                self.unpublish(publish);
            }
        }
        for mode in [GatewayMode::Routed, self.mode] {
            in_each_family!(F => {
                let address = F::addr(outside::<F>(&container, mode));
                self.memory.of_mut::<F>().addresses.remove(&address)
            });
        }
        self.memory.endpoints.remove(&container.slot);
    }

    fn create(&mut self, container: Container) {
        self.last_generation += 1;
        let ifindex = container.device() + self.last_generation * ENDPOINT_SLOTS;
        let endpoint = Endpoint { ifindex, ..container.endpoint(self.last_generation) };
        self.memory.endpoints.insert(container.slot, endpoint);
        for mode in [GatewayMode::Routed, self.mode] {
            in_each_family!(F => {
                let address = F::addr(outside::<F>(&container, mode));
                self.memory.of_mut::<F>().addresses.insert(address, container.slot)
            });
        }
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
        in_each_family!(F => self.lead::<F>(publish, rule));
        self.memory.bump(generation::PUBLISH_EPOCH);
    }

    fn lead<F: TestFamily>(&mut self, publish: &Publish, rule: u32) {
        let tables = self.memory.of_mut::<F>();
        for port in publish.host_ports() {
            let published = if publish.is_on_loopback {
                tables.published.insert(PublishKey::new(F::addr(F::LOOPBACK), publish.transport, port), rule);
                PublishedPort { wildcard: 0, specific: u32::from(rule != 0) }
            } else {
                PublishedPort { wildcard: rule, specific: 0 }
            };
            tables.ports.insert(publish.transport.port_index(port), published);
        }
    }

    fn speak(&mut self, hook: Hook, speech: Speech, from: SocketAddr, to: SocketAddr) {
        let answers = |memory: &Memory| [Event::ResetMade, Event::IcmpMade].map(|event| memory.events(event));
        let before = answers(&self.memory);
        let bytes = speech.frame(link_on(hook), from, to, TTL, b"odd");
        let tuple = Tuple::read(&bytes).expect("a packet with ports");
        let mut frame = frame_on(hook, bytes.clone());
        let verdict = travel(&self.memory, hook, &mut frame);
        assert!(verdict != Verdict::Pass || frame.bytes == bytes, "what is passed on is untouched");
        let arrival = Arrival::new(verdict, frame);
        let Some(way_back) = arrival.way_back() else { return };
        assert!(is_header_sound(&arrival.bytes) && is_transport_sound(&arrival.bytes));
        if answers(&self.memory) != before {
            assert_eq!(way_back, hook, "its sender is told");
            return;
        }
        self.check_members(hook, &tuple, way_back);
        let seen = arrival.tuple();
        match way_back {
            Hook::Egress(device) => {
                let container = container_of(device);
                assert_eq!(seen.to.ip(), container.ip_like(seen.to.ip()), "delivered to another");
                assert_eq!(&arrival.bytes[..6], container.mac);
            }
            Hook::Uplink => {
                assert!(is_known_outside(&self.memory, seen.from.ip()), "{} on the wire", seen.from);
            }
            Hook::Host => assert_eq!(&arrival.bytes[..6], GATEWAY_MAC),
            Hook::Forwarded => {}
        }
        self.sent.push(Sent { hook, tuple, arrival });
    }

    /// A flow is between the endpoints it was made for, and no others with their addresses.
    fn check_members(&mut self, hook: Hook, tuple: &Tuple, way_back: Hook) {
        let flow = entry(&self.memory, hook, tuple);
        let flow = flow.unwrap_or_else(|| panic!("{tuple:?} goes on without a flow"));
        let generation = |hook| match hook {
            Hook::Egress(device) => {
                let endpoint = self.memory.endpoints.get(&container_of(device).slot);
                endpoint.filter(|endpoint| endpoint.ifindex == device).map(|endpoint| endpoint.generation)
            }
            _ => Some(0),
        };
        let (Some(sender), Some(receiver)) = (generation(hook), generation(way_back)) else {
            panic!("{hook:?} or {way_back:?} is the device of no endpoint");
        };
        let members = if flow.is_reply { [receiver, sender] } else { [sender, receiver] };
        assert_eq!(*self.members.entry(flow.word.id()).or_insert(members), members);
    }
}

/// Where a container of the world sends from today.
fn egress_now(memory: &Memory, container: Container) -> Hook {
    Hook::Egress(memory.endpoints.get(&container.slot).map_or(container.device(), |endpoint| endpoint.ifindex))
}

/// The speech, or one of the protocol of a packet if it is of another.
fn like(speech: Speech, tuple: &Tuple) -> Speech {
    [speech, Speech::ACK, Speech::Udp, Speech::Ping]
        .into_iter()
        .find(|speech| speech.protocol(tuple.from.ip()) == tuple.protocol)
        .unwrap_or(speech)
}
