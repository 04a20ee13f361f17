//! An instance to which anything may happen, in any order: packets of all sides, restarts of containers,
//! publishes, routes and time. Whatever it was, flows are whole, and lead to nobody they were not made for.

use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint, Event, PublishKey, PublishedPort, Rule, Uplink, generation};
use netbpf_common::path::Verdict;

use crate::fixture::Hook;
use crate::journey::{
    Arrival, Speech, TTL, Tuple, collect, container_of, entry, flows, frame_on, is_header_sound, is_transport_sound,
    link_on, travel,
};
use crate::memory::{HashMap, Memory};
use crate::talk::egress;
use crate::world::{
    C1, C2, C3, Container, FAR, GATEWAY, GATEWAY_MAC, HOST, OUTSIDE, PUBLISHES, Publish, VIRTUAL_LOOPBACK, uplink,
};

/// Another address that the uplink may come to have.
pub const ALSO_HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 7);
/// The virtual address of the uplink's.
const VIRTUAL_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 30, 2);
/// An address of the network that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 99);

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
pub const ADDRESSES: [Ipv4Addr; 11] =
    [FAR, OUTSIDE, HOST, ALSO_HOST, GATEWAY, NOBODY, VIRTUAL_LOOPBACK, VIRTUAL_HOST, C1.ip, C2.ip, C3.ip];
/// Who speaks, and where that sets out.
pub const SENDERS: [(Hook, Ipv4Addr); 7] = [
    (egress(C1), C1.ip),
    (egress(C2), C2.ip),
    (egress(C3), C3.ip),
    (Hook::Uplink, FAR),
    (Hook::Uplink, OUTSIDE),
    (Hook::Host, HOST),
    (Hook::Host, GATEWAY),
];
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
        from: SocketAddrV4,
        /// The receiver.
        to: SocketAddrV4,
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
    Renumber(Ipv4Addr),
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
}

impl Instance {
    /// The world, with a ring and a flow table of these sizes.
    pub fn new(ring: u32, capacity: usize) -> Self {
        let mut memory = Memory::new(ring);
        memory.capacity = capacity;
        memory.locals.insert(ALSO_HOST.into(), 4);
        Self { memory, sent: Vec::new(), members: HashMap::default(), last_generation: 1 }
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
                    self.speak(hook, like(*speech, tuple.protocol).answer(), tuple.to, tuple.from);
                }
            }
            Happening::Repeat { arrival, speech } if !self.sent.is_empty() => {
                let Sent { hook, tuple, .. } = self.sent[arrival % self.sent.len()].clone();
                self.speak(hook, like(*speech, tuple.protocol), tuple.from, tuple.to);
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

    fn speak(&mut self, hook: Hook, speech: Speech, from: SocketAddrV4, to: SocketAddrV4) {
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
                assert_eq!(*seen.to.ip(), container.ip, "delivered to another");
                assert_eq!(&arrival.bytes[..6], container.mac);
            }
            Hook::Uplink => {
                let is_local = self.memory.locals.contains_key(&(*seen.from.ip()).into());
                assert!(is_local, "{} on the wire", seen.from);
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
        let members = if flow.is_reply == 0 { [sender, receiver] } else { [receiver, sender] };
        assert_eq!(*self.members.entry(flow.word.id()).or_insert(members), members);
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
