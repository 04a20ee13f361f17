//! A CPU: what it has for itself, and its way to what all share.

use std::cell::RefMut;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netbpf_common::abi::{
    Config, DropReason, Endpoint, Event, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, Network, PublishKey,
    PublishedPort, RingSlot, Rule, Uplink, Visitor,
};
use netbpf_common::path::{Env, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, World};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread::{JoinHandle, spawn};

use super::pool::to_words;
use super::{Entry, Flaw, Grain, Pooled, Shared, What, held};
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

impl<'a> World for &'a Cpu {
    type Room = RefMut<'a, HeldFrame>;

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
        World::count_drop(&&self.own, reason);
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

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.own.uplinks.get(&ifindex)
    }

    fn takes_express(&self, slot: u32) -> bool {
        World::takes_express(&&self.own, slot)
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

    fn is_kept(&self, port_index: u32) -> bool {
        self.look(port_index, |shared| held(&shared.kept).contains(&port_index))
    }

    fn keep(&self, port_index: u32) {
        self.look(port_index, |shared| held(&shared.kept).insert(port_index));
    }

    fn next_flow_id(&self) -> u64 {
        const CPU_BITS: u32 = 12;
        World::next_flow_id(&&self.own) << CPU_BITS | self.number
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

    fn room(&self) -> Option<RefMut<'a, HeldFrame>> {
        let cpu: &'a Cpu = self;
        World::room(&&cpu.own)
    }

    fn next_member(&self, slot: u32) -> u32 {
        World::next_member(&&self.own, slot)
    }

    fn may_multiply(&self, slot: u32) -> bool {
        World::may_multiply(&&self.own, slot)
    }
}

impl<'a, F: Pooled> Env<F> for &'a Cpu {
    type Entry = Entry<'a, F>;
    type Scratch = RefMut<'a, Scratch<F>>;
    type Parsed = RefMut<'a, Parsed<F>>;
    type Held = Box<HeldFrame>;

    fn slot_of(&self, address: F::Addr) -> u32 {
        Env::<F>::slot_of(&&self.own, address)
    }

    fn is_local(&self, address: F::Addr) -> bool {
        Env::<F>::is_local(&&self.own, address)
    }

    fn virtual_index(&self, address: F::Addr) -> u32 {
        Env::<F>::virtual_index(&&self.own, address)
    }

    fn is_virtual(&self, address: F::Addr) -> bool {
        Env::<F>::is_virtual(&&self.own, address)
    }

    fn behind_virtual(&self, address: F::Addr) -> Option<F::Addr> {
        Env::<F>::behind_virtual(&&self.own, address)
    }

    fn virtual_address(&self, index: u32) -> F::Addr {
        Env::<F>::virtual_address(&&self.own, index)
    }

    fn published(&self, port_index: u32) -> PublishedPort {
        match self.shared.ports.get(&port_index) {
            Some(port) => self.look(port_index, |_| *port.get()),
            None => PublishedPort::default(),
        }
    }

    fn published_on(&self, key: &PublishKey<F::Addr>) -> u32 {
        Env::<F>::published_on(&&self.own, key)
    }

    fn is_allowed(&self, visitor: Visitor<F::Addr>) -> bool {
        Env::<F>::is_allowed(&&self.own, visitor)
    }

    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<Entry<'a, F>> {
        let cpu: &'a Cpu = self;
        let slot = cpu.point(|| {
            let slot = F::pool(&cpu.shared).find(key);
            (What::Find { port: key.sport.get(), slot }, slot)
        });
        Some(Entry { cpu, slot: slot?, family: PhantomData })
    }

    /// As `htab_map_update_elem` does it: all of it in possession of the bucket, and visible at the end.
    fn insert(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError> {
        let (pool, conditions) = (F::pool(&self.shared), self.shared.conditions);
        let _bucket = self.shared.bucket(key);
        let slot = if pool.find(key).is_some() && conditions.flaw != Some(Flaw::InsertReplaces) {
            Err(InsertError::Exists)
        } else {
            pool.take().ok_or(InsertError::Full)
        };
        self.shared.note(self.number, What::Insert { port: key.sport.get(), slot: slot.ok() });
        let slot = slot?;
        let words = to_words::<F>(flow);
        for word in in_some_order(words.len()) {
            let value = words[word];
            match conditions.grain {
                Grain::Word => Entry::<F> { cpu: self, slot, family: PhantomData }.store(word, |_| value),
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
    fn remove(&self, key: &FlowKey<F::Addr>) {
        let pool = F::pool(&self.shared);
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

    fn scratch(&self) -> Option<RefMut<'a, Scratch<F>>> {
        let cpu: &'a Cpu = self;
        Env::<F>::scratch(&&cpu.own)
    }

    fn parsed(&self) -> Option<RefMut<'a, Parsed<F>>> {
        let cpu: &'a Cpu = self;
        Env::<F>::parsed(&&cpu.own)
    }

    fn exchange_ring(&self, payer: u32, slot: &mut RingSlot<F::Addr>) {
        Env::<F>::exchange_ring(&&self.own, payer, slot);
    }

    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment) {
        Env::<F>::remember(&&self.own, key, fragment);
    }

    fn recall(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        Env::<F>::recall(&&self.own, key)
    }

    fn take_place(&self, key: &FragmentKey<F::Addr>) -> Option<u64> {
        Env::<F>::take_place(&&self.own, key)
    }

    fn hold(&self, key: &HeldKey<F::Addr>, frame: &HeldFrame) -> bool {
        Env::<F>::hold(&&self.own, key, frame)
    }

    fn held(&self, key: &HeldKey<F::Addr>) -> Option<Box<HeldFrame>> {
        Env::<F>::held(&&self.own, key)
    }

    fn let_go(&self, key: &HeldKey<F::Addr>) {
        Env::<F>::let_go(&&self.own, key);
    }

    fn host_socket(&self, key: &FlowKey<F::Addr>) -> HostSocket {
        Env::<F>::host_socket(&&self.own, key)
    }

    fn route(&self, query: &RouteQuery<F::Addr>, route: &mut Route) -> Result<(), DropReason> {
        Env::<F>::route(&&self.own, query, route)
    }
}

/// The order in which `memcpy` writes an entry: it promises none, and where it is `rep movsb` it has none.
fn in_some_order(words: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..words).collect();
    if thread_rng().r#gen() {
        for last in (1..words).rev() {
            order.swap(last, thread_rng().gen_range(0..=last));
        }
    }
    order
}
