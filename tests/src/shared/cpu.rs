//! A CPU: what it has for itself, and its way to what all share.

use std::array;
use std::cell::RefMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netbpf_common::abi::{
    Config, DropReason, Endpoint, Event, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, Network, PublishKey,
    PublishedPort, RingSlot, Rule, Uplink,
};
use netbpf_common::path::{Env, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, V4};
use netbpf_common::wire::V4Addr;
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread::{JoinHandle, spawn};

use super::pool::WORDS;
use super::{Entry, Flaw, Grain, Shared, What, held};
use crate::memory::Memory;

/// A CPU of the instance.
#[derive(Debug)]
pub struct Cpu {
    number: u64,
    own: Memory,
    /// What all CPUs share.
    pub shared: Arc<Shared>,
}

impl Cpu {
    /// Each has another number.
    pub fn new(shared: &Arc<Shared>, number: u64) -> Self {
        let mut own = Memory::new(shared.ring);
        own.config = shared.config;
        Self { number, own, shared: shared.clone() }
    }

    /// Lets another CPU do something meanwhile.
    pub fn start<T: Send + 'static>(
        shared: &Arc<Shared>,
        number: u64,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        shared.begin();
        let shared = shared.clone();
        spawn(move || work(&Self::new(&shared, number)))
    }

    /// Here another CPU may go on; then this one does something that none can interrupt.
    pub(super) fn point<T>(&self, access: impl FnOnce() -> (What, T)) -> T {
        self.shared.interrupt();
        let (what, result) = access();
        self.shared.note(self.number, what);
        result
    }

    /// A look at what the agent writes.
    fn look<'a, T>(&'a self, slot: u32, read: impl FnOnce(&'a Shared) -> T) -> T {
        match self.shared.conditions.grain {
            Grain::Word => self.point(|| (What::Look { slot }, read(&self.shared))),
            Grain::Access => read(&self.shared),
        }
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.shared.tell();
    }
}

impl<'a> Env<V4> for &'a Cpu {
    type Entry = Entry<'a>;
    type Scratch = RefMut<'a, Scratch<V4>>;
    type Parsed = RefMut<'a, Parsed<V4>>;
    type Room = RefMut<'a, HeldFrame>;
    type Held = Box<HeldFrame>;

    fn now(&self) -> u64 {
        self.shared.now.load(Ordering::SeqCst)
    }

    fn random(&self) -> u32 {
        thread_rng().r#gen()
    }

    fn config(&self) -> &Config {
        &self.own.config
    }

    fn count_drop(&self, reason: DropReason) {
        (&self.own).count_drop(reason);
    }

    fn count(&self, event: Event) {
        self.shared.note(self.number, What::Count(event));
        *held(&self.shared.events).entry(event).or_default() += 1;
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.look(slot, |shared| shared.endpoints.get(&slot).map(|endpoint| endpoint.get()))
    }

    fn network(&self, number: u16) -> Option<&Network> {
        self.own.networks.get(&u32::from(number))
    }

    fn slot_of(&self, address: V4Addr) -> u32 {
        (&self.own).slot_of(address)
    }

    fn is_local(&self, address: V4Addr) -> bool {
        (&self.own).is_local(address)
    }

    fn virtual_index(&self, address: V4Addr) -> u32 {
        (&self.own).virtual_index(address)
    }

    fn is_virtual(&self, address: V4Addr) -> bool {
        (&self.own).is_virtual(address)
    }

    fn behind_virtual(&self, address: V4Addr) -> Option<V4Addr> {
        (&self.own).behind_virtual(address)
    }

    fn virtual_address(&self, index: u32) -> V4Addr {
        (&self.own).virtual_address(index)
    }

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.own.uplinks.get(&ifindex)
    }

    fn generation(&self, slot: u32) -> u32 {
        match self.shared.generations.get(&slot) {
            Some(generation) => self.look(slot, |_| generation.load(Ordering::SeqCst)),
            None => 0,
        }
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.look(number, |shared| shared.rules.get(&number).map(|rule| rule.get()))
    }

    fn published(&self, port_index: u32) -> PublishedPort {
        match self.shared.ports.get(&port_index) {
            Some(port) => self.look(port_index, |_| *port.get()),
            None => PublishedPort::default(),
        }
    }

    fn published_on(&self, key: &PublishKey<V4Addr>) -> u32 {
        (&self.own).published_on(key)
    }

    fn is_kept(&self, port_index: u32) -> bool {
        self.look(port_index, |shared| held(&shared.kept).contains(&port_index))
    }

    fn keep(&self, port_index: u32) {
        self.look(port_index, |shared| held(&shared.kept).insert(port_index));
    }

    fn flow(&self, key: &FlowKey<V4Addr>) -> Option<Entry<'a>> {
        let cpu: &'a Cpu = self;
        let slot = cpu.point(|| {
            let slot = cpu.shared.pool.find(key);
            (What::Find { port: key.sport.get(), slot }, slot)
        });
        Some(Entry { cpu, slot: slot? })
    }

    /// As `htab_map_update_elem` does it: all of it in possession of the bucket, and visible at the end.
    fn insert(&self, key: &FlowKey<V4Addr>, flow: &Flow<V4Addr>) -> Result<(), InsertError> {
        let Shared { pool, conditions, .. } = &*self.shared;
        let _bucket = self.shared.bucket(key);
        let slot = if pool.find(key).is_some() && conditions.flaw != Some(Flaw::InsertReplaces) {
            Err(InsertError::Exists)
        } else {
            pool.take().ok_or(InsertError::Full)
        };
        self.shared.note(self.number, What::Insert { port: key.sport.get(), slot: slot.ok() });
        let slot = slot?;
        let words: [u64; WORDS] = bytemuck::cast(*flow);
        for word in in_some_order() {
            let value = words[word];
            match conditions.grain {
                Grain::Word => Entry { cpu: self, slot }.store(word, |_| value),
                Grain::Access => pool.word(slot, word).store(value, Ordering::SeqCst),
            }
        }
        let replaced = self.point(|| (What::Link { slot }, pool.link(key, slot)));
        if let Some(replaced) = replaced {
            pool.release(replaced);
        }
        Ok(())
    }

    /// As `htab_map_delete_elem` does it: the place is free once the bucket is given back.
    fn remove(&self, key: &FlowKey<V4Addr>) {
        let pool = &self.shared.pool;
        if self.shared.conditions.grain == Grain::Access {
            return self.point(|| {
                let slot = pool.unlink(key);
                slot.into_iter().for_each(|slot| pool.release(slot));
                (What::Unlink { port: key.sport.get(), slot }, ())
            });
        }
        let bucket = self.shared.bucket(key);
        let slot = pool.unlink(key);
        self.shared.note(self.number, What::Unlink { port: key.sport.get(), slot });
        drop(bucket);
        if let Some(slot) = slot {
            self.point(|| (What::Free { slot }, pool.release(slot)));
        }
    }

    fn scratch(&self) -> Option<RefMut<'a, Scratch<V4>>> {
        let cpu: &'a Cpu = self;
        (&cpu.own).scratch()
    }

    fn next_flow_id(&self) -> u64 {
        const CPU_BITS: u32 = 12;
        (&self.own).next_flow_id() << CPU_BITS | self.number
    }

    fn parsed(&self) -> Option<RefMut<'a, Parsed<V4>>> {
        let cpu: &'a Cpu = self;
        (&cpu.own).parsed()
    }

    fn exchange_ring(&self, payer: u32, slot: &RingSlot<V4Addr>) -> RingSlot<V4Addr> {
        (&self.own).exchange_ring(payer, slot)
    }

    /// Changed at once, and looked at when all is over: only sums matter.
    fn count_confirmed(&self, payer: u32, change: i64) {
        *held(&self.shared.confirmed).entry(payer).or_default() += change;
    }

    fn confirmed(&self, payer: u32) -> u64 {
        let count = held(&self.shared.confirmed).get(&payer).copied().unwrap_or(0);
        // One CPU may have counted an end before another has counted the beginning.
        u64::try_from(count).unwrap_or(0)
    }

    fn remember(&self, key: &FragmentKey<V4Addr>, fragment: &Fragment) {
        (&self.own).remember(key, fragment);
    }

    fn recall(&self, key: &FragmentKey<V4Addr>) -> Option<Fragment> {
        (&self.own).recall(key)
    }

    fn take_place(&self, key: &FragmentKey<V4Addr>) -> Option<u64> {
        (&self.own).take_place(key)
    }

    fn room(&self) -> Option<RefMut<'a, HeldFrame>> {
        let cpu: &'a Cpu = self;
        (&cpu.own).room()
    }

    fn hold(&self, key: &HeldKey<V4Addr>, frame: &HeldFrame) -> bool {
        (&self.own).hold(key, frame)
    }

    fn held(&self, key: &HeldKey<V4Addr>) -> Option<Box<HeldFrame>> {
        (&self.own).held(key)
    }

    fn let_go(&self, key: &HeldKey<V4Addr>) {
        (&self.own).let_go(key);
    }

    fn next_member(&self, slot: u32) -> u32 {
        (&self.own).next_member(slot)
    }

    fn may_multiply(&self, slot: u32) -> bool {
        (&self.own).may_multiply(slot)
    }

    fn host_socket(&self, key: &FlowKey<V4Addr>) -> HostSocket {
        (&self.own).host_socket(key)
    }

    fn route(&self, query: &RouteQuery<V4Addr>) -> Result<Route, DropReason> {
        (&self.own).route(query)
    }
}

/// The order in which `memcpy` writes an entry: it promises none, and where it is `rep movsb` it has none.
fn in_some_order() -> [usize; WORDS] {
    let mut order = array::from_fn(|word| word);
    if thread_rng().r#gen() {
        for last in (1..WORDS).rev() {
            order.swap(last, thread_rng().gen_range(0..=last));
        }
    }
    order
}
