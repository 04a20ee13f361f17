//! The tables without a kernel, in hash maps.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

use netbpf_common::abi::{
    Config, DropReason, Endpoint, Event, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, Network, NextHop,
    PublishKey, PublishedPort, RingSlot, Rule, Sent, Stamp, Uplink, Word, generation,
};
use netbpf_common::path::{Env, FlowEntry, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, V4};
use netbpf_common::wire::{Address as _, Be32, V4Addr};

use crate::world::{self, CONTAINERS, LOCALS, PUBLISHES};

const AF_INET: u32 = 2;

/// Hashes the same in every run, so that a failure comes back and a fuzzer sees nothing but what it changed.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// A table.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;

/// A flow table in memory.
pub type Flows = HashMap<FlowKey<V4Addr>, Entry>;

/// The tables of one instance in memory.
#[derive(Debug)]
pub struct Memory {
    /// Settings.
    pub config: Config,
    /// The clock, in jiffies.
    pub now: Cell<u64>,
    /// Endpoints by slot.
    pub endpoints: HashMap<u32, Endpoint>,
    /// Networks by number.
    pub networks: HashMap<u32, Network>,
    /// Slots by address.
    pub addresses: HashMap<V4Addr, u32>,
    /// Virtual indexes by address.
    pub locals: HashMap<V4Addr, u32>,
    /// Uplinks by ifindex.
    pub uplinks: HashMap<u32, Uplink>,
    /// Generations of rules and epochs.
    pub generations: HashMap<u32, u32>,
    /// Rules by number.
    pub rules: HashMap<u32, Rule>,
    /// Publishes by port index.
    pub ports: HashMap<u32, PublishedPort>,
    /// Publishes on single addresses.
    pub published: HashMap<PublishKey<V4Addr>, u32>,
    /// Sockets of the host, by the key of the packets they receive.
    pub sockets: HashMap<FlowKey<V4Addr>, HostSocket>,
    /// The flow table.
    pub flows: RefCell<Flows>,
    /// Entries that the flow table holds.
    pub capacity: usize,
    /// Counters of drops.
    pub drops: RefCell<HashMap<DropReason, u64>>,
    /// Counters of events.
    pub events: RefCell<HashMap<Event, u64>>,
    /// First fragments that are remembered.
    pub fragments: RefCell<HashMap<FragmentKey<V4Addr>, Fragment>>,
    /// Fragments that are held.
    pub held: RefCell<HashMap<HeldKey<V4Addr>, HeldFrame>>,
    room: RefCell<HeldFrame>,
    /// Confirmed flows by the slot they are counted for.
    pub confirmed: RefCell<HashMap<u32, i64>>,
    /// The ring of members of each network, by slot.
    pub members: HashMap<u32, u32>,
    /// Broadcasts in the current second, by slot.
    pub broadcasts: RefCell<HashMap<u32, (u64, u16)>>,
    kept: RefCell<HashSet<u32, Hasher>>,
    /// By share.
    rings: RefCell<Vec<VecDeque<RingSlot<V4Addr>>>>,
    flow_id: Cell<u64>,
    seed: Cell<u32>,
    scratch: RefCell<Scratch<V4>>,
    parsed: RefCell<Parsed<V4>>,
}

impl Memory {
    /// The world of [`crate::world`], with a ring of this size.
    pub fn new(ring: u32) -> Self {
        let mut ports = HashMap::default();
        let mut published = HashMap::default();
        let mut rules = HashMap::default();
        let mut generations = HashMap::default();
        for publish in PUBLISHES {
            rules.insert(publish.rule, publish.rule());
            generations.insert(generation::FIRST_RULE + publish.rule, world::GENERATION);
            for port in publish.host_port..publish.host_port + publish.count {
                let entry: &mut PublishedPort = ports.entry(publish.transport.port_index(port)).or_default();
                match publish.address {
                    None => entry.wildcard = publish.rule,
                    Some(address) => {
                        entry.specific += 1;
                        published.insert(PublishKey::new(address.into(), publish.transport, port), publish.rule);
                    }
                }
            }
        }
        Self {
            config: world::config(ring),
            now: Cell::new(1_000_000),
            endpoints: CONTAINERS.iter().map(|c| (c.slot, c.endpoint(world::GENERATION))).collect(),
            networks: world::networks().into_iter().collect(),
            addresses: CONTAINERS.iter().map(|c| (c.ip.into(), c.slot)).collect(),
            locals: LOCALS.iter().map(|(address, index)| ((*address).into(), *index)).collect(),
            uplinks: HashMap::from_iter([(world::UPLINK, world::uplink())]),
            generations,
            rules,
            ports,
            published,
            sockets: HashMap::default(),
            flows: RefCell::default(),
            capacity: usize::MAX,
            drops: RefCell::default(),
            events: RefCell::default(),
            fragments: RefCell::default(),
            held: RefCell::default(),
            room: RefCell::new(bytemuck::Zeroable::zeroed()),
            confirmed: RefCell::default(),
            members: world::members().into_iter().collect(),
            broadcasts: RefCell::default(),
            kept: RefCell::default(),
            rings: RefCell::new(vec![
                vec![RingSlot::default(); ring as usize].into();
                world::config(ring).share_mask as usize + 1
            ]),
            flow_id: Cell::new(0),
            seed: Cell::new(0x1234_5678),
            scratch: RefCell::default(),
            parsed: RefCell::default(),
        }
    }

    /// The same with so many rings, one for each share.
    pub fn with_shares(ring: u32, shares: u32) -> Self {
        let mut memory = Self::new(ring);
        memory.config.share_mask = shares - 1;
        let one = vec![RingSlot::default(); ring as usize];
        *memory.rings.get_mut() = vec![one.into(); shares as usize];
        memory
    }

    /// Lets seconds pass.
    pub fn sleep(&self, seconds: u64) {
        self.now.set(self.now.get() + seconds * u64::from(world::HZ));
    }

    /// Changes a generation.
    pub fn bump(&mut self, slot: u32) {
        *self.generations.entry(slot).or_default() += 1;
    }

    /// How often something was counted.
    pub fn events(&self, event: Event) -> u64 {
        self.events.borrow().get(&event).copied().unwrap_or(0)
    }

    /// How often this was a reason to drop where a path counts it itself.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.borrow().get(&reason).copied().unwrap_or(0)
    }
}

/// A flow entry in memory.
#[derive(Clone, Debug)]
pub struct Entry(Rc<RefCell<Flow<V4Addr>>>);

impl FlowEntry<V4Addr> for Entry {
    fn read_into(&self, flow: &mut Flow<V4Addr>) {
        *flow = *self.0.borrow();
    }

    fn other(&self) -> FlowKey<V4Addr> {
        self.0.borrow().other
    }

    fn word(&self) -> Word {
        self.0.borrow().word
    }

    fn sent(&self) -> Sent {
        self.0.borrow().sent
    }

    fn payer(&self) -> u32 {
        self.0.borrow().payer
    }

    fn mtu(&self) -> u16 {
        self.0.borrow().mtu
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        let word = &mut self.0.borrow_mut().word;
        let won = *word == from;
        if won {
            *word = to;
        }
        won
    }

    fn copy_word(&self, word: Word) {
        self.0.borrow_mut().word = word;
    }

    fn touch(&self, now: u64, bytes: u32) {
        let mut flow = self.0.borrow_mut();
        flow.seen = now;
        flow.packets += 1;
        flow.bytes += u64::from(bytes);
    }

    fn track(&self, sent: &Sent) {
        self.0.borrow_mut().sent = *sent;
    }

    fn restamp(&self, _: &Flow<V4Addr>, owner: Stamp) {
        self.0.borrow_mut().owner = owner;
    }

    fn reroute(&self, flow: &Flow<V4Addr>, epoch: u32) {
        let mut entry = self.0.borrow_mut();
        entry.uplink = flow.uplink;
        entry.next_hop = flow.next_hop;
        entry.mtu = flow.mtu;
        entry.routed = flow.routed;
        entry.route_epoch = epoch;
    }
}

impl<'a> Env<V4> for &'a Memory {
    type Entry = Entry;
    type Scratch = RefMut<'a, Scratch<V4>>;
    type Parsed = RefMut<'a, Parsed<V4>>;
    type Room = RefMut<'a, HeldFrame>;
    type Held = Box<HeldFrame>;

    fn now(&self) -> u64 {
        self.now.get()
    }

    /// xorshift: the same in every run, so that a failure comes back.
    fn random(&self) -> u32 {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.seed.set(x);
        x
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn count_drop(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }

    fn count(&self, event: Event) {
        *self.events.borrow_mut().entry(event).or_default() += 1;
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.get(&slot)
    }

    fn network(&self, number: u16) -> Option<&Network> {
        self.networks.get(&u32::from(number))
    }

    fn slot_of(&self, address: V4Addr) -> u32 {
        self.addresses.get(&address).copied().unwrap_or(0)
    }

    fn is_local(&self, address: V4Addr) -> bool {
        self.locals.contains_key(&address)
    }

    fn virtual_index(&self, address: V4Addr) -> u32 {
        self.locals.get(&address).copied().unwrap_or(0)
    }

    fn is_virtual(&self, address: V4Addr) -> bool {
        address.low() & !0xff == self.config.virtual_v4.low()
    }

    fn behind_virtual(&self, address: V4Addr) -> Option<V4Addr> {
        let index = address.low().checked_sub(self.config.virtual_v4.low())?;
        self.locals.iter().find(|(_, i)| **i == index && index != 0).map(|(address, _)| *address)
    }

    fn virtual_address(&self, index: u32) -> V4Addr {
        V4Addr(Be32::new(self.config.virtual_v4.low() | index))
    }

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.uplinks.get(&ifindex)
    }

    fn generation(&self, slot: u32) -> u32 {
        self.generations.get(&slot).copied().unwrap_or(0)
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(&number)
    }

    fn published(&self, port_index: u32) -> PublishedPort {
        self.ports.get(&port_index).copied().unwrap_or_default()
    }

    fn published_on(&self, key: &PublishKey<V4Addr>) -> u32 {
        self.published.get(key).copied().unwrap_or(0)
    }

    fn is_kept(&self, port_index: u32) -> bool {
        self.kept.borrow().contains(&port_index)
    }

    fn keep(&self, port_index: u32) {
        self.kept.borrow_mut().insert(port_index);
    }

    fn flow(&self, key: &FlowKey<V4Addr>) -> Option<Entry> {
        self.flows.borrow().get(key).cloned()
    }

    fn insert(&self, key: &FlowKey<V4Addr>, flow: &Flow<V4Addr>) -> Result<(), InsertError> {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= self.capacity {
            return Err(InsertError::Full);
        }
        flows.insert(*key, Entry(Rc::new(RefCell::new(*flow))));
        Ok(())
    }

    fn remove(&self, key: &FlowKey<V4Addr>) {
        self.flows.borrow_mut().remove(key);
    }

    fn scratch(&self) -> Option<RefMut<'a, Scratch<V4>>> {
        let memory: &'a Memory = self;
        Some(memory.scratch.borrow_mut())
    }

    fn parsed(&self) -> Option<RefMut<'a, Parsed<V4>>> {
        let memory: &'a Memory = self;
        Some(memory.parsed.borrow_mut())
    }

    fn next_flow_id(&self) -> u64 {
        self.flow_id.set(self.flow_id.get() + 1);
        self.flow_id.get()
    }

    fn exchange_ring(&self, payer: u32, slot: &RingSlot<V4Addr>) -> RingSlot<V4Addr> {
        let mut rings = self.rings.borrow_mut();
        let ring = &mut rings[(payer & self.config.share_mask) as usize];
        ring.push_back(*slot);
        ring.pop_front().expect("one more than before")
    }

    fn count_confirmed(&self, payer: u32, change: i64) {
        *self.confirmed.borrow_mut().entry(payer).or_default() += change;
    }

    fn confirmed(&self, payer: u32) -> u64 {
        let count = self.confirmed.borrow().get(&payer).copied().unwrap_or(0);
        u64::try_from(count).expect("never less than none")
    }

    fn remember(&self, key: &FragmentKey<V4Addr>, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn recall(&self, key: &FragmentKey<V4Addr>) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn take_place(&self, key: &FragmentKey<V4Addr>) -> Option<u64> {
        let mut fragments = self.fragments.borrow_mut();
        let held = &mut fragments.get_mut(key)?.held;
        *held += 1;
        Some(*held - 1)
    }

    fn room(&self) -> Option<RefMut<'a, HeldFrame>> {
        let memory: &'a Memory = self;
        Some(memory.room.borrow_mut())
    }

    fn hold(&self, key: &HeldKey<V4Addr>, frame: &HeldFrame) -> bool {
        self.held.borrow_mut().insert(*key, *frame);
        true
    }

    fn held(&self, key: &HeldKey<V4Addr>) -> Option<Box<HeldFrame>> {
        self.held.borrow().get(key).copied().map(Box::new)
    }

    fn let_go(&self, key: &HeldKey<V4Addr>) {
        self.held.borrow_mut().remove(key);
    }

    fn next_member(&self, slot: u32) -> u32 {
        self.members.get(&slot).copied().unwrap_or(0)
    }

    /// So many in each second of the clock.
    fn may_multiply(&self, slot: u32) -> bool {
        let second = self.now.get() / u64::from(world::HZ);
        let mut broadcasts = self.broadcasts.borrow_mut();
        let (last, count) = broadcasts.entry(slot).or_default();
        if *last != second {
            (*last, *count) = (second, 0);
        }
        *count += 1;
        *count <= self.config.broadcast_rate
    }

    fn host_socket(&self, key: &FlowKey<V4Addr>) -> HostSocket {
        self.sockets.get(key).copied().unwrap_or(HostSocket::None)
    }

    fn route(&self, query: &RouteQuery<V4Addr>) -> Result<Route, DropReason> {
        let to: std::net::Ipv4Addr = query.dst.into();
        let (ifindex, next_hop) = match to.octets() {
            [198, 18, 0, _] => (world::UPLINK, to),
            [10, 66, ..] => return Err(DropReason::NoRoute),
            [10, 77, ..] => (world::FOREIGN, to),
            [172, 30 | 31, ..] => (world::HOST_DEVICE, to),
            _ => (world::UPLINK, world::OUTSIDE),
        };
        let address = V4Addr::from(next_hop).words();
        Ok(Route { ifindex, next_hop: NextHop { family: AF_INET, address }, mtu: world::MTU })
    }
}
