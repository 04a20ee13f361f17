//! The maps, and how the paths see them. One of the two files with unsafe code.
//!
//! Soundness: what a lookup returns points into a map and stays readable for the run of the
//! program (RCU). A hash entry may be deleted and used again meanwhile; that is why flows are
//! read as copies and checked by their word afterwards. Array values are written by the agent
//! alone, whole; a torn read of one shows as a generation that does not fit.

use core::marker::PhantomData;
use core::ptr::NonNull;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_NOEXIST, bpf_fib_lookup as FibLookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as SockTuple,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release,
    bpf_skc_lookup_tcp,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use netbpf_common::abi::{
    COUNTERS as COUNTER_SLOTS, Config, DropReason, ENDPOINT_SLOTS, Endpoint, Event, Flow, FlowKey, Fragment,
    FragmentKey, GENERATIONS as GENERATION_SLOTS, HeldFrame, HeldKey, KEPT_WORDS, NETWORKS as NETWORK_SLOTS,
    NO_COUNTER, Network, NextHop, PORT_TABLE, PublishKey, PublishedPort, RING_SHARES, RULES as RULE_SLOTS, RingSlot,
    Rule, Sent, Stamp, Uplink, VIRTUALS, Word,
};
use netbpf_common::path::{Env, FlowEntry, HostSocket, InsertError, Parsed, Route, RouteQuery, Scratch, V4};
use netbpf_common::wire::{Address as _, Be32, V4Addr, protocol};

const AF_INET: u8 = 2;
/// The virtual index in a virtual address.
const LAST_BYTE: u32 = 0xff;
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const EEXIST: i32 = 17;

/// Sizes that are settings are raised by the loader.
const DEFAULT_ENTRIES: u32 = 1;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static NETWORKS: Array<Network> = Array::with_max_entries(NETWORK_SLOTS, 0);
#[map]
static ADDRESSES_V4: HashMap<V4Addr, u32> = HashMap::with_max_entries(ENDPOINT_SLOTS, 0);
#[map]
static LOCALS_V4: HashMap<V4Addr, u32> = HashMap::with_max_entries(4096, 0);
#[map]
static VIRTUALS_V4: Array<V4Addr> = Array::with_max_entries(VIRTUALS, 0);
#[map]
static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(4096, 0);
#[map]
static GENERATIONS: Array<u32> = Array::with_max_entries(GENERATION_SLOTS, 0);
#[map]
static RULES: Array<Rule> = Array::with_max_entries(RULE_SLOTS, 0);
#[map]
static PORTS: Array<PublishedPort> = Array::with_max_entries(PORT_TABLE, 0);
#[map]
static PUBLISHED_V4: HashMap<PublishKey<V4Addr>, u32> = HashMap::with_max_entries(RULE_SLOTS, 1);
#[map]
static KEPT_PORTS: Array<u64> = Array::with_max_entries(KEPT_WORDS, 0);
#[map]
static FLOWS_V4: HashMap<FlowKey<V4Addr>, Flow<V4Addr>> = HashMap::with_max_entries(DEFAULT_ENTRIES, 0);
#[map]
static RING_V4: PerCpuArray<RingSlot<V4Addr>> = PerCpuArray::with_max_entries(DEFAULT_ENTRIES, 0);
#[map]
static SCRATCH_V4: PerCpuArray<Scratch<V4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PARSED_V4: PerCpuArray<Parsed<V4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static FIB: PerCpuArray<FibLookup> = PerCpuArray::with_max_entries(1, 0);
#[map]
static RING_HEAD: PerCpuArray<u64> = PerCpuArray::with_max_entries(1 + RING_SHARES, 0);
#[map]
static FRAGMENTS_V4: LruHashMap<FragmentKey<V4Addr>, Fragment> = LruHashMap::with_max_entries(DEFAULT_ENTRIES, 0);
#[map]
static HELD_V4: LruHashMap<HeldKey<V4Addr>, HeldFrame> = LruHashMap::with_max_entries(DEFAULT_ENTRIES, 0);
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

/// What the paths ask before the agent has filled `CONFIG`: nothing is ours.
static NO_CONFIG: Config = Config {
    abi_version: 0,
    hz: 0,
    netns_cookie: 0,
    host_ifindex: 0,
    route_ifindex: 0,
    virtual_v4: V4Addr(Be32::ZERO),
    gateway_mac: netbpf_common::wire::Mac::new([0; 6]),
    nat_first: 0,
    nat_last: 0,
    broadcast_rate: 0,
    flags: 0,
    ring_mask: 0,
    share_mask: 0,
    flow_limit: 0,
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

    #[inline(always)]
    fn increment(&self, counter: u32) {
        if let Some(mut counters) = self.counters {
            // SAFETY: this CPU's own counters.
            if let Some(value) = unsafe { counters.as_mut() }.get_mut(bounded(counter) as usize) {
                *value += 1;
            }
        }
    }
}

/// An entry of the flow table.
pub(crate) struct Entry<A> {
    flow: NonNull<Flow<A>>,
    family: PhantomData<A>,
}

impl<A: Copy> FlowEntry<A> for Entry<A> {
    #[inline(always)]
    fn read_into(&self, flow: &mut Flow<A>) {
        let from: *const u64 = self.flow.as_ptr().cast();
        let to: *mut u64 = (&raw mut *flow).cast();
        // Word by word: read whole, the entry would pass through the stack.
        for word in 0..size_of::<Flow<A>>() / size_of::<u64>() {
            // SAFETY: both are flows, aligned to eight bytes and a multiple of them long; volatile, so
            // that the word of the flow that is read afterwards is read afterwards.
            unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
        }
    }

    #[inline(always)]
    fn other(&self) -> FlowKey<A> {
        // SAFETY: points into the map.
        unsafe { (&raw const (*self.flow.as_ptr()).other).read_volatile() }
    }

    #[inline(always)]
    fn word(&self) -> Word {
        // SAFETY: points into the map.
        unsafe { (&raw const (*self.flow.as_ptr()).word).read_volatile() }
    }

    #[inline(always)]
    fn sent(&self) -> Sent {
        // SAFETY: points into the map. A torn read lets a segment be believed or not for once.
        unsafe { (&raw const (*self.flow.as_ptr()).sent).read_volatile() }
    }

    #[inline(always)]
    fn payer(&self) -> u32 {
        // SAFETY: points into the map.
        unsafe { (&raw const (*self.flow.as_ptr()).payer).read_volatile() }
    }

    #[inline(always)]
    fn mtu(&self) -> u16 {
        // SAFETY: points into the map.
        unsafe { (&raw const (*self.flow.as_ptr()).mtu).read_volatile() }
    }

    #[inline(always)]
    fn swap(&self, from: Word, to: Word) -> bool {
        // SAFETY: points to an aligned u64 in the map.
        unsafe { compare_and_swap((&raw mut (*self.flow.as_ptr()).word).cast(), from.0, to.0) }
    }

    #[inline(always)]
    fn copy_word(&self, word: Word) {
        // A plain store would give a reused entry the word of another flow.
        let before = self.word();
        if before.same_flow(word) && before.is_alive() {
            self.swap(before, word);
        }
    }

    #[inline(always)]
    fn touch(&self, now: u64, bytes: u32) {
        let flow = self.flow.as_ptr();
        // SAFETY: points into the map. A reused entry gains a packet at most.
        unsafe {
            let seen = &raw mut (*flow).seen;
            if seen.read_volatile() != now {
                seen.write_volatile(now);
            }
            add(&raw mut (*flow).packets, 1);
            add(&raw mut (*flow).bytes, u64::from(bytes));
        }
    }

    #[inline(always)]
    fn track(&self, sent: &Sent) {
        // SAFETY: points into the map. In a reused entry it is put right by the next segment.
        unsafe { (&raw mut (*self.flow.as_ptr()).sent).write_volatile(*sent) };
    }

    #[inline(always)]
    fn restamp(&self, flow: &Flow<A>, owner: Stamp) {
        let (from, to): (u64, u64) = (bytemuck::cast(flow.owner), bytemuck::cast(owner));
        // SAFETY: points to eight bytes in the map, aligned by the fields before them.
        let swap = |from, to| unsafe { compare_and_swap((&raw mut (*self.flow.as_ptr()).owner).cast(), from, to) };
        if self.word().same_flow(flow.word) && swap(from, to) && !self.word().same_flow(flow.word) {
            swap(to, from);
        }
    }

    #[inline(always)]
    fn reroute(&self, flow: &Flow<A>, epoch: u32) {
        if !self.word().same_flow(flow.word) {
            return;
        }
        let entry = self.flow.as_ptr();
        // SAFETY: points into the map. The epoch is written last: a reader that sees it sees the route.
        unsafe {
            (&raw mut (*entry).uplink).write_volatile(flow.uplink);
            (&raw mut (*entry).next_hop).write_volatile(flow.next_hop);
            (&raw mut (*entry).mtu).write_volatile(flow.mtu);
            (&raw mut (*entry).routed).write_volatile(flow.routed);
            (&raw mut (*entry).route_epoch).write_volatile(epoch);
            if !self.word().same_flow(flow.word) {
                // Used again meanwhile: its next packet asks for the route of its own.
                (&raw mut (*entry).uplink).write_volatile(0);
            }
        }
    }
}

impl Env<V4> for Maps {
    type Entry = Entry<V4Addr>;
    type Scratch = &'static mut Scratch<V4>;
    type Parsed = &'static mut Parsed<V4>;
    type Room = &'static mut HeldFrame;
    type Held = &'static HeldFrame;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn config(&self) -> &Config {
        self.config
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        self.increment(reason as u32);
    }

    #[inline(always)]
    fn count(&self, event: Event) {
        self.increment(event as u32);
    }

    #[inline(always)]
    fn forget(&self, code: u64) -> u64 {
        let Some(mut counters) = self.counters else { return code };
        // SAFETY: this CPU's own; volatile, so that it is written and read.
        unsafe {
            let place = &raw mut counters.as_mut()[NO_COUNTER as usize];
            place.write_volatile(code);
            place.read_volatile()
        }
    }

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(slot)
    }

    #[inline(always)]
    fn network(&self, number: u16) -> Option<&Network> {
        NETWORKS.get(u32::from(number))
    }

    #[inline(always)]
    fn slot_of(&self, address: V4Addr) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { ADDRESSES_V4.get(address) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_local(&self, address: V4Addr) -> bool {
        LOCALS_V4.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn virtual_index(&self, address: V4Addr) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { LOCALS_V4.get(address) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_virtual(&self, address: V4Addr) -> bool {
        address.low() & !LAST_BYTE == self.config.virtual_v4.low()
    }

    #[inline(always)]
    fn behind_virtual(&self, address: V4Addr) -> Option<V4Addr> {
        if !self.is_virtual(address) {
            return None;
        }
        VIRTUALS_V4.get(address.low() & LAST_BYTE).copied().filter(|meant| *meant != V4Addr::default())
    }

    #[inline(always)]
    fn virtual_address(&self, index: u32) -> V4Addr {
        V4Addr(Be32::new(self.config.virtual_v4.low() | index))
    }

    #[inline(always)]
    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        // SAFETY: written whole by the agent; a torn one shows an old address for an instant.
        unsafe { UPLINKS.get(ifindex) }
    }

    #[inline(always)]
    fn generation(&self, slot: u32) -> u32 {
        GENERATIONS.get(slot).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn rule(&self, number: u32) -> Option<&Rule> {
        RULES.get(number)
    }

    #[inline(always)]
    fn published(&self, port_index: u32) -> PublishedPort {
        PORTS.get(port_index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn published_on(&self, key: &PublishKey<V4Addr>) -> u32 {
        // SAFETY: a u32 is read whole.
        unsafe { PUBLISHED_V4.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_kept(&self, port_index: u32) -> bool {
        KEPT_PORTS.get(port_index / 64).is_some_and(|word| word & 1 << (port_index % 64) != 0)
    }

    #[inline(always)]
    fn keep(&self, port_index: u32) {
        if let Some(word) = KEPT_PORTS.get_ptr_mut(port_index / 64) {
            // SAFETY: points to an aligned u64 in the map.
            unsafe { or(word, 1 << (port_index % 64)) };
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<V4Addr>) -> Option<Entry<V4Addr>> {
        let flow = NonNull::new(FLOWS_V4.get_ptr_mut(key)?)?;
        Some(Entry { flow, family: PhantomData })
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey<V4Addr>, flow: &Flow<V4Addr>) -> Result<(), InsertError> {
        FLOWS_V4
            .insert(key, flow, u64::from(BPF_NOEXIST))
            .map_err(|error| if error == -EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey<V4Addr>) {
        // Absent already: the aim is reached.
        let _ = FLOWS_V4.remove(key);
    }

    #[inline(always)]
    fn scratch(&self) -> Option<Self::Scratch> {
        // SAFETY: this CPU's own, and TC programs run with softirqs off: none interrupts another. All
        // zero is a valid value of every field.
        SCRATCH_V4.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn parsed(&self) -> Option<Self::Parsed> {
        // SAFETY: as for `scratch`.
        PARSED_V4.get_ptr_mut(0).map(|parsed| unsafe { &mut *parsed })
    }

    #[inline(always)]
    fn next_flow_id(&self) -> u64 {
        const CPU_BITS: u32 = 12;
        let Some(head) = RING_HEAD.get_ptr_mut(0) else { return 0 };
        // SAFETY: this CPU's own counter; bit 12 and up count, the rest names the CPU.
        unsafe {
            *head += 1;
            *head << CPU_BITS | u64::from(bpf_get_smp_processor_id())
        }
    }

    #[inline(always)]
    fn exchange_ring(&self, payer: u32, slot: &RingSlot<V4Addr>) -> RingSlot<V4Addr> {
        let share = payer & self.config.share_mask;
        let Some(head) = RING_HEAD.get_ptr_mut(1 + share) else { return RingSlot::default() };
        // SAFETY: this CPU's own counter.
        let turn = unsafe {
            *head += 1;
            *head as u32
        };
        let position = share * (self.config.ring_mask + 1) + (turn & self.config.ring_mask);
        let Some(place) = RING_V4.get_ptr_mut(position) else { return RingSlot::default() };
        // SAFETY: this CPU's own ring.
        unsafe {
            let before = *place;
            *place = *slot;
            before
        }
    }

    #[inline(always)]
    fn count_confirmed(&self, payer: u32, change: i64) {
        if let Some(count) = CONFIRMED.get_ptr_mut(payer) {
            // SAFETY: points to an aligned u64 in the map.
            unsafe { add(count, change as u64) };
        }
    }

    #[inline(always)]
    fn confirmed(&self, payer: u32) -> u64 {
        // One CPU may count an end before another has counted the beginning.
        CONFIRMED.get(payer).map_or(0, |count| (*count as i64).max(0) as u64)
    }

    #[inline(always)]
    fn remember(&self, key: &FragmentKey<V4Addr>, fragment: &Fragment) {
        // When it is full the oldest go; when the kernel has no memory the later fragments are dropped by name.
        let _ = FRAGMENTS_V4.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn recall(&self, key: &FragmentKey<V4Addr>) -> Option<Fragment> {
        // SAFETY: copied at once; of a reused entry the next fragment's ports, whose flow it is not.
        unsafe { FRAGMENTS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn take_place(&self, key: &FragmentKey<V4Addr>) -> Option<u64> {
        let fragment = FRAGMENTS_V4.get_ptr_mut(key)?;
        // SAFETY: points into the map.
        let held = unsafe { &raw mut (*fragment).held };
        // SAFETY: as above. Of two CPUs one has it; the other's fragment is lost, as on a wire.
        let place = unsafe { held.read_volatile() };
        // SAFETY: as above.
        unsafe { compare_and_swap(held, place, place + 1) }.then_some(place)
    }

    #[inline(always)]
    fn room(&self) -> Option<Self::Room> {
        // SAFETY: as for `scratch`.
        ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room })
    }

    #[inline(always)]
    fn hold(&self, key: &HeldKey<V4Addr>, frame: &HeldFrame) -> bool {
        HELD_V4.insert(key, frame, 0).is_ok()
    }

    #[inline(always)]
    fn held(&self, key: &HeldKey<V4Addr>) -> Option<&'static HeldFrame> {
        // SAFETY: points into the map. Of a reused entry another packet's fragment, which is received again as what it is.
        HELD_V4.get_ptr(key).map(|held| unsafe { &*held })
    }

    #[inline(always)]
    fn let_go(&self, key: &HeldKey<V4Addr>) {
        // Absent already: the aim is reached.
        let _ = HELD_V4.remove(key);
    }

    #[inline(always)]
    fn next_member(&self, slot: u32) -> u32 {
        MEMBERS.get(slot).copied().unwrap_or(0)
    }

    /// A bucket of tokens, one second's worth deep. It holds when it will be full again, in units of 1/65536 tick: so
    /// one number is all, and one that another CPU has just overwritten lets one broadcast more pass.
    #[inline(always)]
    fn may_multiply(&self, slot: u32) -> bool {
        const UNIT: u64 = 1 << 16;
        let Some(place) = BROADCASTS.get_ptr_mut(slot) else { return false };
        let second = u64::from(self.config.hz) * UNIT;
        let cost = second / u64::from(self.config.broadcast_rate).max(1);
        let now = Env::<V4>::now(self) * UNIT;
        // SAFETY: points to an aligned u64 in the map.
        let full = unsafe { place.read_volatile() }.max(now);
        if full + cost > now + second {
            return false;
        }
        // SAFETY: as above.
        unsafe { place.write_volatile(full + cost) };
        true
    }

    #[inline(always)]
    fn host_socket(&self, key: &FlowKey<V4Addr>) -> HostSocket {
        let mut tuple = SockTuple {
            saddr: key.src.0.raw(),
            daddr: key.dst.0.raw(),
            sport: key.sport.raw(),
            dport: key.dport.raw(),
        };
        // The IPv4 part of a `bpf_sock_tuple` alone: the size says which part is meant.
        let (tuple, len) = ((&raw mut tuple).cast::<bpf_sock_tuple>(), size_of::<SockTuple>() as u32);
        match key.proto {
            protocol::TCP => match tcp_socket_state(self.ctx, tuple, len) {
                0 => HostSocket::None,
                TCP_LISTEN | TCP_CLOSE => HostSocket::Listening,
                _ => HostSocket::Connected,
            },
            protocol::UDP => match udp_socket_state(self.ctx, tuple, len) {
                0 => HostSocket::None,
                TCP_ESTABLISHED => HostSocket::Connected,
                _ => HostSocket::Listening,
            },
            _ => HostSocket::None,
        }
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery<V4Addr>) -> Result<Route, DropReason> {
        // SAFETY: a struct of integers in this CPU's own room, see `scratch`.
        let fib = unsafe { &mut *FIB.get_ptr_mut(0).ok_or(DropReason::Internal)? };
        // Any length makes the kernel report the MTU of the route; the size of the packet is held
        // against it by the path, which knows segments.
        let result = self.look_up(fib, query, 1);
        if result != FibResult::SUCCESS && result != FibResult::NO_NEIGH {
            return Err(if result > FibResult::SUCCESS { DropReason::NoRoute } else { DropReason::Internal });
        }
        // SAFETY: four words, whichever family the gateway has.
        let words = unsafe { fib.__bindgen_anon_4.ipv6_dst };
        let address = if fib.family == AF_INET {
            [Be32::from_raw(words[0]), Be32::ZERO, Be32::ZERO, Be32::ZERO]
        } else {
            words.map(Be32::from_raw)
        };
        let (ifindex, next_hop) = (fib.ifindex, NextHop { family: u32::from(fib.family), address });
        // While the neighbour is unknown the kernel says no MTU, unless a packet is too long for it.
        let told = result == FibResult::SUCCESS || self.look_up(fib, query, u16::MAX) == FibResult::FRAG_NEEDED;
        // SAFETY: the kernel has written the MTU where the length was.
        let mtu = if told { unsafe { fib.__bindgen_anon_1.mtu_result } } else { 0 };
        Ok(Route { ifindex, next_hop, mtu })
    }
}

/// What `bpf_fib_lookup` returns, in the type that it returns.
struct FibResult;

impl FibResult {
    const SUCCESS: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
    const NO_NEIGH: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
    const FRAG_NEEDED: i64 = BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;
}

impl Maps {
    /// Asks the routing table about a packet of this length.
    #[inline(always)]
    fn look_up(&self, fib: &mut FibLookup, query: &RouteQuery<V4Addr>, len: u16) -> i64 {
        fib.sport = 0;
        fib.dport = 0;
        fib.family = AF_INET;
        fib.l4_protocol = query.proto;
        fib.ifindex = self.config.route_ifindex;
        fib.__bindgen_anon_1.tot_len = len;
        fib.__bindgen_anon_2.flowinfo = 0;
        fib.__bindgen_anon_2.tos = query.tos;
        fib.__bindgen_anon_3.ipv4_src = query.src.0.raw();
        fib.__bindgen_anon_4.ipv4_dst = query.dst.0.raw();
        // SAFETY: the context is the hook's, and the struct has the size that is named.
        unsafe { bpf_fib_lookup(self.ctx, fib, size_of::<FibLookup>() as i32, 0) }
    }
}

/// The namespace of the device the packet is on.
const CURRENT_NETNS: u64 = BPF_F_CURRENT_NETNS as i64 as u64;

/// State of the TCP socket that a packet is for, TIME_WAIT and half-open ones included; 0 for none.
///
/// Apart from its UDP twin: the two helpers return pointers of different types, which the compiler
/// would otherwise read with one instruction.
#[inline(never)]
fn tcp_socket_state(ctx: *mut c_void, tuple: *mut bpf_sock_tuple, len: u32) -> u32 {
    // SAFETY: the context is the hook's, the tuple has the size that is named, and a socket that was
    // found is read and released before anything else.
    unsafe {
        let socket = bpf_skc_lookup_tcp(ctx, tuple, len, CURRENT_NETNS, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// State of the UDP socket that a packet is for; 0 for none.
#[inline(always)]
fn udp_socket_state(ctx: *mut c_void, tuple: *mut bpf_sock_tuple, len: u32) -> u32 {
    // SAFETY: as for TCP.
    unsafe {
        let socket = bpf_sk_lookup_udp(ctx, tuple, len, CURRENT_NETNS, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// A counter's place, bounded where the verifier sees it: the compiler knows that no name of a
/// counter is out of bounds and would leave the check out.
#[inline(always)]
fn bounded(counter: u32) -> u64 {
    #[allow(unused_mut, reason = "changed by the instruction below alone")]
    let mut place = u64::from(counter);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) place, const COUNTER_SLOTS - 1, options(pure, nomem, nostack));
    }
    place
}

/// Compare-and-swap, which core does not have for this target; whether it was `from`.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
unsafe fn compare_and_swap(pointer: *mut u64, from: u64, to: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let seen: u64;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64(r1 + 0, r0, r2)",
                inout("r0") from => seen,
                in("r1") pointer,
                in("r2") to,
            );
        }
        seen == from
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        let word = unsafe { AtomicU64::from_ptr(pointer) };
        word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Atomic addition without a result.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
unsafe fn add(pointer: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) pointer, in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(pointer) }.fetch_add(value, Ordering::Relaxed);
    }
}

/// Atomic or without a result.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
unsafe fn or(pointer: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) pointer, in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(pointer) }.fetch_or(value, Ordering::Relaxed);
    }
}
