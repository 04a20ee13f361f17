//! The tables without a kernel, in hash maps.

mod entry;
mod tables;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use netbpf_common::abi::{Config, DropReason, Endpoint, Event, HeldFrame, Network, Rule, Scope, Uplink, generation};
use netbpf_common::path::{HostSocket, V4, V6, World};

pub use self::entry::Entry;
pub use self::tables::{Flows, Tables};
use crate::family::TestFamily;
use crate::journey::Tuple;
use crate::world::{self, CONTAINERS, Container, PUBLISHES, Publish};
use crate::{in_each_family, in_family};

/// Hashes the same in every run, so that a failure comes back and a fuzzer sees nothing but what it changed.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// A table.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;

/// The tables of one instance in memory.
#[derive(Debug)]
pub struct Memory {
    /// Settings.
    pub config: Config,
    /// The clock, in jiffies.
    pub now: Cell<u64>,
    /// Endpoints by slot.
    pub endpoints: HashMap<u32, Endpoint>,
    /// Slots of endpoints that take frames ahead of the host's stack.
    pub express: HashSet<u32>,
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
            express: CONTAINERS.iter().map(|container| container.slot).collect(),
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

    /// Leaves a container with IPv4 alone.
    ///
    /// # Panics
    /// When it is not there.
    pub fn take_ipv6(&mut self, container: Container) {
        self.endpoints.get_mut(&container.slot).expect("a container").v6 = V6::addr(V6::UNSPECIFIED);
        self.v6.addresses.retain(|_, slot| *slot != container.slot);
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

    fn takes_express(&self, slot: u32) -> bool {
        self.express.contains(&slot)
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
