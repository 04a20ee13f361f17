//! The tables without a kernel, in hash maps.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::rc::Rc;

use netbpf_common::abi::{
    Config, DropReason, Endpoint, Event, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, Network, PublishKey,
    PublishedPort, RingSlot, Rule, Scope, Sent, Stamp, Uplink, Word, generation,
};
use netbpf_common::path::{
    Env, Family, FlowEntry, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, V4, V6, World,
};
use netbpf_common::wire::Address as _;

use crate::family::{TestFamily, nth};
use crate::journey::Tuple;
use crate::world::{self, CONTAINERS, PUBLISHES, Publish};
use crate::{in_each_family, in_family};

/// Hashes the same in every run, so that a failure comes back and a fuzzer sees nothing but what it changed.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// A table.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;

/// A flow table in memory.
pub type Flows<F> = HashMap<FlowKey<Addr<F>>, Entry<F>>;

type Addr<F> = <F as Family>::Addr;

/// The tables that an instance has for each family.
#[derive(Debug)]
pub struct Tables<F: Family> {
    /// Slots by address.
    pub addresses: HashMap<F::Addr, u32>,
    /// Virtual indexes by address.
    pub locals: HashMap<F::Addr, u32>,
    /// Publishes by port index.
    pub ports: HashMap<u32, PublishedPort>,
    /// Publishes on single addresses.
    pub published: HashMap<PublishKey<F::Addr>, u32>,
    /// Sockets of the host, by the key of the packets they receive.
    pub sockets: HashMap<FlowKey<F::Addr>, HostSocket>,
    /// The flow table.
    pub flows: RefCell<Flows<F>>,
    /// First fragments that are remembered.
    pub fragments: RefCell<HashMap<FragmentKey<F::Addr>, Fragment>>,
    /// Fragments that are held.
    pub held: RefCell<HashMap<HeldKey<F::Addr>, HeldFrame>>,
    /// By share.
    rings: RefCell<Vec<VecDeque<RingSlot<F::Addr>>>>,
    scratch: RefCell<Scratch<F>>,
    parsed: RefCell<Parsed<F>>,
}

impl<F: TestFamily> Tables<F> {
    fn new(ring: u32, shares: u32) -> Self {
        let mut ports: HashMap<u32, PublishedPort> = HashMap::default();
        let mut published = HashMap::default();
        for publish in PUBLISHES {
            for port in publish.host_ports() {
                let entry = ports.entry(publish.transport.port_index(port)).or_default();
                if publish.is_on_loopback {
                    entry.specific += 1;
                    published.insert(PublishKey::new(F::addr(F::LOOPBACK), publish.transport, port), publish.rule);
                } else {
                    entry.wildcard = publish.rule;
                }
            }
        }
        let one = vec![RingSlot::default(); ring as usize];
        Self {
            addresses: CONTAINERS.iter().map(|c| (F::addr(c.ip::<F>()), c.slot)).collect(),
            locals: world::locals::<F>().into_iter().map(|(address, index)| (F::addr(address), index)).collect(),
            ports,
            published,
            sockets: HashMap::default(),
            flows: RefCell::default(),
            fragments: RefCell::default(),
            held: RefCell::default(),
            rings: RefCell::new(vec![one.into(); shares as usize]),
            scratch: RefCell::default(),
            parsed: RefCell::default(),
        }
    }
}

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
    /// Uplinks by ifindex.
    pub uplinks: HashMap<u32, Uplink>,
    /// Generations of rules and epochs.
    pub generations: HashMap<u32, u32>,
    /// Rules by number.
    pub rules: HashMap<u32, Rule>,
    /// Entries that each flow table holds.
    pub capacity: usize,
    /// Counters of drops.
    pub drops: RefCell<HashMap<DropReason, u64>>,
    /// Counters of events.
    pub events: RefCell<HashMap<Event, u64>>,
    room: RefCell<HeldFrame>,
    /// Confirmed flows by the slot they are counted for.
    pub confirmed: RefCell<HashMap<u32, i64>>,
    /// The ring of members of each network, by slot.
    pub members: HashMap<u32, u32>,
    /// Broadcasts in the current second, by slot.
    pub broadcasts: RefCell<HashMap<u32, (u64, u16)>>,
    kept: RefCell<HashSet<u32, Hasher>>,
    flow_id: Cell<u64>,
    seed: Cell<u32>,
    pub(crate) v4: Tables<V4>,
    pub(crate) v6: Tables<V6>,
}

impl Memory {
    /// The world of [`crate::world`], with a ring of this size.
    pub fn new(ring: u32) -> Self {
        Self::with_shares(ring, 1)
    }

    /// The same with so many rings, one for each share.
    pub fn with_shares(ring: u32, shares: u32) -> Self {
        let generation_of = |publish: &Publish| (generation::FIRST_RULE + publish.rule, world::GENERATION);
        Self {
            config: Config { share_mask: shares - 1, ..world::config(ring) },
            now: Cell::new(1_000_000),
            endpoints: CONTAINERS.iter().map(|c| (c.slot, c.endpoint(world::GENERATION))).collect(),
            networks: world::networks().into_iter().collect(),
            uplinks: HashMap::from_iter([(world::UPLINK, world::uplink())]),
            generations: PUBLISHES.iter().map(generation_of).collect(),
            rules: PUBLISHES.iter().map(|publish| (publish.rule, publish.rule())).collect(),
            capacity: usize::MAX,
            drops: RefCell::default(),
            events: RefCell::default(),
            room: RefCell::new(bytemuck::Zeroable::zeroed()),
            confirmed: RefCell::default(),
            members: world::members().into_iter().collect(),
            broadcasts: RefCell::default(),
            kept: RefCell::default(),
            flow_id: Cell::new(0),
            seed: Cell::new(0x1234_5678),
            v4: Tables::new(ring, shares),
            v6: Tables::new(ring, shares),
        }
    }

    /// The tables of a family.
    pub fn of<F: TestFamily>(&self) -> &Tables<F> {
        F::tables(self)
    }

    /// The same, to change them.
    pub fn of_mut<F: TestFamily>(&mut self) -> &mut Tables<F> {
        F::tables_mut(self)
    }

    /// A process of the host has a socket for such packets from outside.
    pub fn bind(&mut self, tuple: &Tuple, socket: HostSocket) {
        in_family!(tuple.from.ip(), F => self.of_mut::<F>().sockets.insert(tuple.key::<F>(Scope::Uplink), socket));
    }

    /// Forgets all flows, as a table does that is lost.
    pub fn forget_flows(&self) {
        in_each_family!(F => self.of::<F>().flows.borrow_mut().clear());
    }

    /// Whether the address is one of the host's.
    pub fn is_local(&self, address: IpAddr) -> bool {
        in_family!(address, F => self.of::<F>().locals.contains_key(&F::addr(address)))
    }

    /// Fragments that are held.
    pub fn held(&self) -> usize {
        in_each_family!(F => self.of::<F>().held.borrow().len()).iter().sum()
    }

    /// Fragments that are remembered.
    pub fn remembered(&self) -> usize {
        in_each_family!(F => self.of::<F>().fragments.borrow().len()).iter().sum()
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
pub struct Entry<F: Family>(Rc<RefCell<Flow<F::Addr>>>);

impl<F: Family> FlowEntry<F::Addr> for Entry<F> {
    fn read_into(&self, flow: &mut Flow<F::Addr>) {
        *flow = *self.0.borrow();
    }

    fn other(&self) -> FlowKey<F::Addr> {
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

    fn restamp(&self, _: &Flow<F::Addr>, owner: Stamp) {
        self.0.borrow_mut().owner = owner;
    }

    fn reroute(&self, flow: &Flow<F::Addr>, epoch: u32) {
        let mut entry = self.0.borrow_mut();
        entry.uplink = flow.uplink;
        entry.next_hop = flow.next_hop;
        entry.mtu = flow.mtu;
        entry.routed = flow.routed;
        entry.route_epoch = epoch;
    }
}

impl<'a> World for &'a Memory {
    type Room = RefMut<'a, HeldFrame>;

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

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.uplinks.get(&ifindex)
    }

    fn generation(&self, slot: u32) -> u32 {
        self.generations.get(&slot).copied().unwrap_or(0)
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(&number)
    }

    fn is_kept(&self, port_index: u32) -> bool {
        self.kept.borrow().contains(&port_index)
    }

    fn keep(&self, port_index: u32) {
        self.kept.borrow_mut().insert(port_index);
    }

    fn next_flow_id(&self) -> u64 {
        self.flow_id.set(self.flow_id.get() + 1);
        self.flow_id.get()
    }

    fn count_confirmed(&self, payer: u32, change: i64) {
        *self.confirmed.borrow_mut().entry(payer).or_default() += change;
    }

    fn confirmed(&self, payer: u32) -> u64 {
        let count = self.confirmed.borrow().get(&payer).copied().unwrap_or(0);
        u64::try_from(count).expect("never less than none")
    }

    fn room(&self) -> Option<RefMut<'a, HeldFrame>> {
        let memory: &'a Memory = self;
        Some(memory.room.borrow_mut())
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
}

impl<'a, F: TestFamily> Env<F> for &'a Memory {
    type Entry = Entry<F>;
    type Scratch = RefMut<'a, Scratch<F>>;
    type Parsed = RefMut<'a, Parsed<F>>;
    type Held = Box<HeldFrame>;

    fn slot_of(&self, address: F::Addr) -> u32 {
        self.of::<F>().addresses.get(&address).copied().unwrap_or(0)
    }

    fn is_local(&self, address: F::Addr) -> bool {
        self.of::<F>().locals.contains_key(&address)
    }

    fn virtual_index(&self, address: F::Addr) -> u32 {
        self.of::<F>().locals.get(&address).copied().unwrap_or(0)
    }

    fn is_virtual(&self, address: F::Addr) -> bool {
        index_of::<F>(address).is_some()
    }

    fn behind_virtual(&self, address: F::Addr) -> Option<F::Addr> {
        let index = index_of::<F>(address)?;
        self.of::<F>().locals.iter().find(|(_, i)| **i == index && index != 0).map(|(address, _)| *address)
    }

    fn virtual_address(&self, index: u32) -> F::Addr {
        F::addr(nth(F::VIRTUAL, index))
    }

    fn published(&self, port_index: u32) -> PublishedPort {
        self.of::<F>().ports.get(&port_index).copied().unwrap_or_default()
    }

    fn published_on(&self, key: &PublishKey<F::Addr>) -> u32 {
        self.of::<F>().published.get(key).copied().unwrap_or(0)
    }

    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<Entry<F>> {
        self.of::<F>().flows.borrow().get(key).cloned()
    }

    fn insert(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError> {
        let mut flows = self.of::<F>().flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= self.capacity {
            return Err(InsertError::Full);
        }
        flows.insert(*key, Entry::<F>(Rc::new(RefCell::new(*flow))));
        Ok(())
    }

    fn remove(&self, key: &FlowKey<F::Addr>) {
        self.of::<F>().flows.borrow_mut().remove(key);
    }

    fn scratch(&self) -> Option<RefMut<'a, Scratch<F>>> {
        let memory: &'a Memory = self;
        Some(memory.of::<F>().scratch.borrow_mut())
    }

    fn parsed(&self) -> Option<RefMut<'a, Parsed<F>>> {
        let memory: &'a Memory = self;
        Some(memory.of::<F>().parsed.borrow_mut())
    }

    fn exchange_ring(&self, payer: u32, slot: &mut RingSlot<F::Addr>) {
        let mut rings = self.of::<F>().rings.borrow_mut();
        let ring = &mut rings[(payer & self.config.share_mask) as usize];
        ring.push_back(*slot);
        *slot = ring.pop_front().expect("one more than before");
    }

    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment) {
        self.of::<F>().fragments.borrow_mut().insert(*key, *fragment);
    }

    fn recall(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        self.of::<F>().fragments.borrow().get(key).copied()
    }

    fn take_place(&self, key: &FragmentKey<F::Addr>) -> Option<u64> {
        let mut fragments = self.of::<F>().fragments.borrow_mut();
        let held = &mut fragments.get_mut(key)?.held;
        *held += 1;
        Some(*held - 1)
    }

    fn hold(&self, key: &HeldKey<F::Addr>, frame: &HeldFrame) -> bool {
        self.of::<F>().held.borrow_mut().insert(*key, *frame);
        true
    }

    fn held(&self, key: &HeldKey<F::Addr>) -> Option<Box<HeldFrame>> {
        self.of::<F>().held.borrow().get(key).copied().map(Box::new)
    }

    fn let_go(&self, key: &HeldKey<F::Addr>) {
        self.of::<F>().held.borrow_mut().remove(key);
    }

    fn host_socket(&self, key: &FlowKey<F::Addr>) -> HostSocket {
        self.of::<F>().sockets.get(key).copied().unwrap_or(HostSocket::None)
    }

    fn route(&self, query: &RouteQuery<F::Addr>, route: &mut Route) -> Result<(), DropReason> {
        let (ifindex, next_hop) = world::way(query.dst.into())?;
        *route = Route { ifindex, next_hop: world::neighbour(next_hop), mtu: world::MTU };
        Ok(())
    }
}

/// The virtual index of a virtual address.
fn index_of<F: TestFamily>(address: F::Addr) -> Option<u32> {
    let index = address.low() & 0xff;
    (address == F::addr(nth(F::VIRTUAL, index))).then_some(index)
}
