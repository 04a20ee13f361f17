//! The tables of one instance as several CPUs have them at once, for a model checker (shuttle): every access to
//! what is shared is a point at which another CPU may go on. What each CPU has for itself (ring, scratch, numbers of
//! flows) is a [`Memory`] of its own.
//!
//! The flow table is what a preallocated hash of the kernel is (kernel/bpf/hashtab.c): an entry is a place in a
//! pool; a deleted one is free at once, and the next insert writes over it, word by word and in any order, while
//! others still hold a pointer to it. A lookup is one step, which is no loss: what a slow one may find, a fast one may find and hold.
//! All CPUs share one list of free places, last in, first out; in the kernel that is what happens when a CPU's own
//! list is empty.
//!
//! Not modelled: other stores that another CPU sees in another order than they were made in (x86-64 has none, arm64
//! does), and torn reads of what the agent writes.

mod cpu;
mod entry;
mod part;
mod pool;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use netbpf_common::abi::{
    Config, Endpoint, Event, Flow, FlowKey, Life, PublishedPort, Rule, Scope, TargetKind, Word, generation,
};
use netbpf_common::path::{V4, V6};

pub use self::cpu::Cpu;
pub use self::entry::Entry;
pub use self::part::Part;
pub use self::pool::Pool;
use crate::family::TestFamily;
use crate::journey::originals;
use crate::memory::Memory;

/// Buckets of the flow table: who inserts or deletes has one for himself.
const BUCKETS: u64 = 16;

/// What becomes of the place of a deleted entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// The next insert takes it, as in the kernel.
    AtOnce,
    /// It is taken after all others: never, in a large table.
    Late,
}

/// How far apart the points are at which another CPU may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grain {
    /// Between any two words that are read or written.
    Word,
    /// Between two accesses to the flow table, of which a copy of an entry is one. Few enough that all
    /// schedules of a small scenario can be tried.
    Access,
}

/// A rule of the flow table that is broken, to see that it is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A swap reads and compares first, and writes later.
    SwapInTwoSteps,
    /// Whoever loses a swap believes to have won.
    LoserWins,
    /// An insert takes the place of an entry with the same key.
    InsertReplaces,
    /// The copy of the word is stored without a look at whose entry it is by now.
    CopyWordBlindly,
}

/// Under which circumstances CPUs meet.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// What becomes of deleted entries.
    pub reuse: Reuse,
    /// Where CPUs are interrupted.
    pub grain: Grain,
    /// What is wrong.
    pub flaw: Option<Flaw>,
}

/// What one place of an array holds in the course of time. Read whole.
#[derive(Debug)]
pub struct Versions<T> {
    all: Vec<T>,
    current: AtomicUsize,
}

impl<T> Versions<T> {
    /// The first of them is there now.
    pub const fn new(all: Vec<T>) -> Self {
        Self { all, current: AtomicUsize::new(0) }
    }

    fn get(&self) -> &T {
        &self.all[self.current.load(Ordering::SeqCst)]
    }
}

fn versions<T: Copy, S>(table: &HashMap<u32, T, S>) -> HashMap<u32, Versions<T>> {
    table.iter().map(|(number, value)| (*number, Versions::new(vec![*value]))).collect()
}

/// What CPU did what, for who reads a failure.
#[derive(Clone, Copy, Debug)]
struct Deed {
    cpu: u64,
    what: What,
}

/// What a CPU does to what is shared. Slots and words are those of the flow table.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "read by Debug alone")]
enum What {
    Find { port: u16, slot: Option<usize> },
    Read { slot: usize, word: usize, value: u64 },
    Write { slot: usize, word: usize, value: u64 },
    Swap { slot: usize, from: Word, to: Word, won: bool },
    Insert { port: u16, slot: Option<usize> },
    Unlink { port: u16, slot: Option<usize> },
    Free { slot: usize },
    Link { slot: usize },
    Count(Event),
    Look { slot: u32 },
    Change { slot: u32 },
}

/// What all CPUs of one instance share.
#[derive(Debug)]
pub struct Shared {
    conditions: Conditions,
    config: Config,
    ring: u32,
    /// Endpoints by slot.
    pub endpoints: HashMap<u32, Versions<Endpoint>>,
    /// Rules by number.
    pub rules: HashMap<u32, Versions<Rule>>,
    /// Publishes by port index, the same in both families.
    pub ports: HashMap<u32, Versions<PublishedPort>>,
    generations: HashMap<u32, AtomicU32>,
    kept: Mutex<HashSet<u32>>,
    v4: Pool<V4>,
    v6: Pool<V6>,
    buckets: Vec<shuttle::sync::Mutex<()>>,
    /// The clock, in jiffies.
    pub now: AtomicU64,
    racing: AtomicBool,
    steps: shuttle::sync::atomic::AtomicU64,
    events: Mutex<HashMap<Event, u64>>,
    confirmed: Mutex<HashMap<u32, i64>>,
    deaths: Mutex<Vec<Word>>,
    deeds: Mutex<Vec<Deed>>,
}

/// A family, and where its flow table is.
pub trait Pooled: TestFamily {
    /// The places of its entries.
    fn pool(shared: &Shared) -> &Pool<Self>;
}

impl Pooled for V4 {
    fn pool(shared: &Shared) -> &Pool<Self> {
        &shared.v4
    }
}

impl Pooled for V6 {
    fn pool(shared: &Shared) -> &Pool<Self> {
        &shared.v6
    }
}

impl Shared {
    /// The world of [`crate::world`] with rings of `ring` slots on every CPU and room for `entries` entries.
    pub fn new(conditions: Conditions, ring: u32, entries: usize) -> Self {
        let world = Memory::new(ring);
        let mut generations: HashMap<u32, AtomicU32> =
            world.generations.iter().map(|(slot, value)| (*slot, AtomicU32::new(*value))).collect();
        for epoch in [generation::PUBLISH_EPOCH, generation::ROUTE_EPOCH] {
            generations.insert(epoch, AtomicU32::new(0));
        }
        Self {
            conditions,
            ring,
            config: world.config,
            endpoints: versions(&world.endpoints),
            rules: versions(&world.rules),
            ports: versions(&world.v4.ports),
            generations,
            kept: Mutex::default(),
            v4: Pool::new(entries, conditions.reuse),
            v6: Pool::new(entries, conditions.reuse),
            buckets: (0..BUCKETS).map(|_| shuttle::sync::Mutex::new(())).collect(),
            now: AtomicU64::new(world.now.get()),
            racing: AtomicBool::new(false),
            steps: shuttle::sync::atomic::AtomicU64::new(0),
            events: Mutex::default(),
            confirmed: Mutex::default(),
            deaths: Mutex::default(),
            deeds: Mutex::default(),
        }
    }

    /// Settings, as long as no CPU runs.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// A rule that will be.
    pub fn expect_rule(&mut self, number: u32, versions: Vec<Rule>) {
        self.generations.entry(generation::FIRST_RULE + number).or_default();
        self.rules.insert(number, Versions::new(versions));
    }

    /// From here on CPUs interrupt each other.
    pub fn begin(&self) {
        self.racing.store(true, Ordering::SeqCst);
    }

    /// How many steps were made: what is seen at a smaller number was seen before.
    pub fn steps(&self) -> u64 {
        if self.racing.load(Ordering::SeqCst) { self.steps.load(shuttle::sync::atomic::Ordering::SeqCst) } else { 0 }
    }

    /// How often something was counted on all CPUs.
    pub fn events(&self, event: Event) -> u64 {
        held(&self.events).get(&event).copied().unwrap_or(0)
    }

    /// The last words of the flows that were ended.
    pub fn deaths(&self) -> Vec<Word> {
        held(&self.deaths).clone()
    }

    /// All entries of a family.
    pub fn entries<F: Pooled>(&self) -> HashMap<FlowKey<F::Addr>, Flow<F::Addr>> {
        F::pool(self).entries()
    }

    /// The original keys of all flows, after a look at all that must be true once every CPU has come to rest.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn rest<F: Pooled>(&self) -> Vec<FlowKey<F::Addr>> {
        self.racing.store(false, Ordering::SeqCst);
        let entries = self.entries::<F>();
        let originals = originals::<F>(&entries);
        for key in &originals {
            let flow = &entries[key];
            let owner = self.owner_of::<F>(key, &flow.other);
            for half in [flow, &entries[&flow.other]] {
                assert_eq!(half.owner.slot, owner, "it rests on what another flow rests on: {half:?}");
                let leads_there =
                    self.endpoints.get(&half.target).is_some_and(|e| F::address_of(e.get()) == half.other.src);
                let is_endpoint = half.target_kind == TargetKind::Endpoint as u8;
                assert!(!is_endpoint || leads_there, "it leads where another flow leads: {half:?}");
            }
        }
        let deaths = self.deaths().len() as u64;
        assert_eq!(self.events(Event::FlowMade), originals.len() as u64 + deaths, "made is alive or ended");
        let mut confirmed: HashMap<u32, i64> = HashMap::new();
        for flow in originals.iter().filter_map(|key| entries.get(key)) {
            *confirmed.entry(flow.payer).or_default() += i64::from(flow.word.life() == Life::Established);
        }
        let counted = held(&self.confirmed).clone();
        for (payer, count) in &counted {
            assert_eq!(confirmed.get(payer).copied().unwrap_or(0), *count, "confirmed flows of {payer}");
        }
        assert!(deaths >= self.events(Event::FlowEvicted) + self.events(Event::FlowCollected), "one end for each flow");
        assert_eq!(F::pool(self).free(), F::pool(self).size() - entries.len(), "a place is free or taken");
        originals
    }

    /// The place in `GENERATIONS` that a flow with these keys must rest on: a rule that led from the one to the
    /// other, or nothing that changes.
    fn owner_of<F: Pooled>(&self, original: &FlowKey<F::Addr>, reply: &FlowKey<F::Addr>) -> u32 {
        let (from, to) = (original.dport.get(), reply.sport.get());
        let leads_there = |rule: &Rule| {
            let endpoint = self.endpoints.get(&rule.endpoint);
            endpoint.is_some_and(|endpoint| endpoint.all.iter().any(|endpoint| F::address_of(endpoint) == reply.src))
                && rule.container_port_for(from) == to
        };
        let rules = self.rules.iter().filter(|_| original.scope == Scope::Uplink as u16);
        let mut owners = rules.filter(|(_, rule)| rule.all.iter().any(leads_there));
        owners.next().map_or(generation::ALWAYS, |(rule, _)| generation::FIRST_RULE + rule)
    }

    /// The agent writes the next version of an endpoint.
    pub fn change_endpoint(&self, slot: u32) {
        self.change(&self.endpoints[&slot], slot);
    }

    /// The agent writes the next version of a rule.
    pub fn change_rule(&self, number: u32) {
        self.change(&self.rules[&number], number);
    }

    /// The agent writes the next version of what a port is published as.
    pub fn change_port(&self, index: u32) {
        self.change(&self.ports[&index], index);
    }

    /// The agent reads a generation and writes the next one.
    pub fn bump(&self, slot: u32) {
        self.interrupt();
        self.note(AGENT, What::Change { slot });
        self.generations[&slot].fetch_add(1, Ordering::SeqCst);
    }

    fn change<T>(&self, versions: &Versions<T>, slot: u32) {
        self.interrupt();
        self.note(AGENT, What::Change { slot });
        versions.current.fetch_add(1, Ordering::SeqCst);
    }

    /// Here another CPU may go on.
    fn interrupt(&self) {
        if self.racing.load(Ordering::SeqCst) {
            self.steps.fetch_add(1, shuttle::sync::atomic::Ordering::SeqCst);
        }
    }

    fn note(&self, cpu: u64, what: What) {
        held(&self.deeds).push(Deed { cpu, what });
    }

    fn bucket(&self, key: &impl Hash) -> Option<shuttle::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let bucket = &self.buckets[(hasher.finish() % BUCKETS) as usize];
        self.racing.load(Ordering::SeqCst).then(|| bucket.lock().expect("nobody panics and goes on"))
    }

    /// Prints who did what, if there is a failure.
    fn tell(&self) {
        if std::thread::panicking() {
            for Deed { cpu, what } in held(&self.deeds).iter() {
                eprintln!("CPU {cpu}: {what:x?}");
            }
        }
    }
}

/// The agent among CPUs.
const AGENT: u64 = 99;

/// What no CPU holds at a point where another may go on.
fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.try_lock().expect("held over a point, or by two threads")
}
