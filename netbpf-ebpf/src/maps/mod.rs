//! The maps, and how the paths see them. With `ctx` all that has unsafe code.
//!
//! Soundness: what a lookup returns points into a map and stays readable for the run of the
//! program (RCU). A hash entry may be deleted and used again meanwhile; that is why flows are
//! read as copies and checked by their word afterwards. Array values are written by the agent
//! alone, whole; a torn read of one shows as a generation that does not fit.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_NOEXIST, bpf_fib_lookup as FibLookup, xdp_action};
use aya_ebpf::cty::c_void;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::TcContext;
use netbpf_common::abi::{
    COUNTERS as COUNTER_SLOTS, Config, DropReason, ENDPOINT_SLOTS, Endpoint, Flow, FlowKey, Fragment, FragmentKey,
    GENERATIONS as GENERATION_SLOTS, HeldFrame, HeldKey, KEPT_WORDS, NETWORKS as NETWORK_SLOTS, Network, PublishKey,
    PublishedPort, RING_SHARES, RULES as RULE_SLOTS, RingSlot, Rule, Uplink, Visitor, Visitors, program,
};
use netbpf_common::path::{Env, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, World as _};
use netbpf_common::wire::{Address as _, Be32, V4Addr, V6Addr};

mod atomic;
mod entry;
mod kernel;
mod tables;
mod world;

use atomic::compare_and_swap;
use entry::Entry;
pub(crate) use tables::Tables;

/// The virtual index in a virtual address.
const LAST_BYTE: u32 = 0xff;
const EEXIST: i32 = 17;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static NETWORKS: Array<Network> = Array::with_max_entries(NETWORK_SLOTS, 0);
#[map]
static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(4096, 0);
#[map]
static GENERATIONS: Array<u32> = Array::with_max_entries(GENERATION_SLOTS, 0);
#[map]
static RULES: Array<Rule> = Array::with_max_entries(RULE_SLOTS, 0);
#[map]
static KEPT_PORTS: Array<u64> = Array::with_max_entries(KEPT_WORDS, 0);
#[map]
static FIB: PerCpuArray<FibLookup> = PerCpuArray::with_max_entries(1, 0);
#[map]
static RING_HEAD: PerCpuArray<u64> = PerCpuArray::with_max_entries(1 + 2 * RING_SHARES, 0);
#[map]
static ROOM: PerCpuArray<HeldFrame> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CONFIRMED: Array<u64> = Array::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static MEMBERS: Array<u32> = Array::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static BROADCASTS: Array<u64> = Array::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static COUNTERS: PerCpuArray<[u64; COUNTER_SLOTS as usize]> = PerCpuArray::with_max_entries(1, 0);

#[map]
static EXPRESS: DevMap = DevMap::with_max_entries(ENDPOINT_SLOTS, 0);

/// Into the namespace of an endpoint, by slot, ahead of the host's stack.
#[inline(always)]
pub(crate) fn redirect_express(maps: &Maps, slot: u32) -> u32 {
    EXPRESS.redirect(slot, 0).unwrap_or_else(|_| {
        // Its device went a moment ago.
        maps.count_drop(DropReason::NoEndpoint);
        xdp_action::XDP_DROP
    })
}

/// The parts of the paths that are for IPv6: what `Verdict::HandOver` leads to, in the order of [`program::PARTS`].
#[map]
static PARTS: ProgramArray = ProgramArray::with_max_entries(program::PARTS.len() as u32, 0);

/// Goes on as another part. Returns only if that is not there.
#[inline(always)]
pub(crate) fn tail_call(ctx: &TcContext, part: u32) {
    // SAFETY: the context is the hook's, and the map an array of programs.
    unsafe { PARTS.tail_call(ctx, part) };
}

/// What the paths ask before the agent has filled `CONFIG`: nothing is ours.
static NO_CONFIG: Config = Config {
    abi_version: 0,
    hz: 0,
    netns_cookie: 0,
    host_ifindex: 0,
    route_ifindex: 0,
    virtual_v4: V4Addr(Be32::ZERO),
    virtual_v6: V6Addr([Be32::ZERO; 4]),
    gateway_mac: netbpf_common::wire::Mac::new([0; 6]),
    nat_first: 0,
    nat_last: 0,
    broadcast_rate: 0,
    flags: 0,
    ring_mask: 0,
    share_mask: 0,
    flow_limit: 0,
    dns_port: 0,
    padding: [0; 6],
    timeouts: [0; netbpf_common::abi::TIMEOUTS],
};

/// The maps, seen from a hook. What every packet needs is looked up once.
pub(crate) struct Maps {
    ctx: *mut c_void,
    config: &'static Config,
    counters: Option<NonNull<[u64; COUNTER_SLOTS as usize]>>,
}

impl Maps {
    /// `ctx` is the hook's context, for the helpers that want it.
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void) -> Self {
        let config = CONFIG.get(0).unwrap_or(&NO_CONFIG);
        Self { ctx, config, counters: COUNTERS.get_ptr_mut(0).and_then(NonNull::new) }
    }
}

impl<F: Tables> Env<F> for Maps {
    type Entry = Entry<F::Addr>;
    type Scratch = &'static mut Scratch<F>;
    type Parsed = &'static mut Parsed<F>;
    type Held = &'static HeldFrame;

    #[inline(always)]
    fn slot_of(&self, address: F::Addr) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { F::addresses().get(address) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_local(&self, address: F::Addr) -> bool {
        F::locals().get_ptr(address).is_some()
    }

    #[inline(always)]
    fn virtual_index(&self, address: F::Addr) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { F::locals().get(address) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_virtual(&self, address: F::Addr) -> bool {
        address.with_last_byte(0) == F::virtual_base(self.config)
    }

    #[inline(always)]
    fn behind_virtual(&self, address: F::Addr) -> Option<F::Addr> {
        if !Env::<F>::is_virtual(self, address) {
            return None;
        }
        F::virtuals().get(address.low() & LAST_BYTE).copied().filter(|meant| *meant != F::Addr::default())
    }

    #[inline(always)]
    fn virtual_address(&self, index: u32) -> F::Addr {
        F::virtual_base(self.config).with_last_byte(index as u8)
    }

    #[inline(always)]
    fn published(&self, port_index: u32) -> PublishedPort {
        F::ports().get(port_index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn published_on(&self, key: &PublishKey<F::Addr>) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { F::published().get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_allowed(&self, visitor: Visitor<F::Addr>) -> bool {
        let Visitors { bits, first } = Visitors::one(visitor);
        F::allowed().get(Key::new(bits, first)).is_some()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<Entry<F::Addr>> {
        let flow = NonNull::new(F::flows().get_ptr_mut(key)?)?;
        // SAFETY: it does.
        Some(unsafe { Entry::new(flow) })
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError> {
        F::flows()
            .insert(key, flow, u64::from(BPF_NOEXIST))
            .map_err(|error| if error == -EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey<F::Addr>) {
        // Absent already: the aim is reached.
        let _ = F::flows().remove(key);
    }

    #[inline(always)]
    fn scratch(&self) -> Option<Self::Scratch> {
        // SAFETY: this CPU's own, and TC programs run with softirqs off: none interrupts another. All
        // zero is a valid value of every field.
        F::scratch().get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn parsed(&self) -> Option<Self::Parsed> {
        // SAFETY: as for `scratch`.
        F::parsed().get_ptr_mut(0).map(|parsed| unsafe { &mut *parsed })
    }

    #[inline(always)]
    fn exchange_ring(&self, payer: u32, slot: &mut RingSlot<F::Addr>) {
        let share = payer & self.config.share_mask;
        let turn = RING_HEAD.get_ptr_mut(1 + F::FIRST_SHARE + share).map(|head| {
            // SAFETY: this CPU's own counter.
            unsafe {
                *head += 1;
                *head as u32
            }
        });
        let position = share * (self.config.ring_mask + 1) + (turn.unwrap_or(0) & self.config.ring_mask);
        match F::ring().get_ptr_mut(position) {
            // SAFETY: this CPU's own ring.
            Some(place) => core::mem::swap(unsafe { &mut *place }, slot),
            None => *slot = RingSlot::default(),
        }
    }

    #[inline(always)]
    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment) {
        // When it is full the oldest go; when the kernel has no memory the later fragments are dropped by name.
        let _ = F::fragments().insert(key, fragment, 0);
    }

    #[inline(always)]
    fn recall(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        // SAFETY: copied at once; of a reused entry the next fragment's ports, whose flow it is not.
        unsafe { F::fragments().get(key) }.copied()
    }

    #[inline(always)]
    fn take_place(&self, key: &FragmentKey<F::Addr>) -> Option<u64> {
        let fragment = F::fragments().get_ptr_mut(key)?;
        // SAFETY: points into the map.
        let held = unsafe { &raw mut (*fragment).held };
        // SAFETY: as above. Of two CPUs one has it; the other's fragment is lost, as on a wire.
        let place = unsafe { held.read_volatile() };
        // SAFETY: as above.
        unsafe { compare_and_swap(held, place, place + 1) }.then_some(place)
    }

    #[inline(always)]
    fn hold(&self, key: &HeldKey<F::Addr>, frame: &HeldFrame) -> bool {
        F::held().insert(key, frame, 0).is_ok()
    }

    #[inline(always)]
    fn held(&self, key: &HeldKey<F::Addr>) -> Option<&'static HeldFrame> {
        // SAFETY: points into the map. Of a reused entry another packet's fragment, which is received again as what it is.
        F::held().get_ptr(key).map(|held| unsafe { &*held })
    }

    #[inline(always)]
    fn let_go(&self, key: &HeldKey<F::Addr>) {
        // Absent already: the aim is reached.
        let _ = F::held().remove(key);
    }

    #[inline(always)]
    fn host_socket(&self, key: &FlowKey<F::Addr>) -> HostSocket {
        kernel::host_socket::<F>(self.ctx, key)
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery<F::Addr>, route: &mut Route) -> Result<(), DropReason> {
        // SAFETY: a struct of integers in this CPU's own room, see `scratch`.
        let fib = unsafe { &mut *FIB.get_ptr_mut(0).ok_or(DropReason::Internal)? };
        kernel::route::<F>(self.ctx, fib, self.config.route_ifindex, query, route)
    }
}
