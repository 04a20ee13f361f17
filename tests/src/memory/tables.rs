//! The tables that an instance has for each family.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;

use netbpf_common::abi::{
    DropReason, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, PublishKey, PublishedPort, RingSlot, Visitor,
    Visitors,
};
use netbpf_common::path::{Env, Family, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch};
use netbpf_common::wire::Address as _;

use super::{Entry, HashMap, Memory};
use crate::family::{TestFamily, nth};
use crate::world::{self, CONTAINERS, PUBLISHES};

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
    /// Whom restricted publishes let in.
    pub allowed: Vec<Visitors<F::Addr>>,
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
    pub(super) fn new(ring: u32, shares: u32) -> Self {
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
            allowed: Vec::new(),
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

    fn is_allowed(&self, visitor: Visitor<F::Addr>) -> bool {
        let is_set = |of: &Visitor<F::Addr>, bit: u32| {
            bytemuck::bytes_of(of)[(bit / u8::BITS) as usize] << (bit % u8::BITS) & 0x80 != 0
        };
        let begins_like =
            |them: &Visitors<F::Addr>| (0..them.bits).all(|bit| is_set(&them.first, bit) == is_set(&visitor, bit));
        self.of::<F>().allowed.iter().any(begins_like)
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
        flows.insert(*key, Entry::new(flow));
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
