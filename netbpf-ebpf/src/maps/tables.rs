//! The maps that each address family has of its own, and what else of a family only the kernel's side knows.

use aya_ebpf::bindings::{bpf_fib_lookup as FibLookup, bpf_sock_tuple};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use netbpf_common::abi::{
    Config, ENDPOINT_SLOTS, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, PORT_TABLE, PublishKey,
    PublishedPort, RING_SHARES, RULES, RingSlot, VIRTUALS, Visitor,
};
use netbpf_common::path::{Family, Parsed, Scratch, V4, V6};
use netbpf_common::wire::{Be32, V4Addr, V6Addr};

/// Sizes that are settings are raised by the loader.
const DEFAULT_ENTRIES: u32 = 1;

/// Addresses that a host has, at most.
const LOCALS: u32 = 4096;

/// Addresses of an endpoint: IPv6 has a link-local one, and one outside.
const ADDRESSES: u32 = 3 * ENDPOINT_SLOTS;

/// A family as the kernel's side has it.
pub(crate) trait Tables: Family {
    /// AF_INET or AF_INET6.
    const AF: u8;
    /// Where in `RING_HEAD` the shares of its ring begin.
    const FIRST_SHARE: u32;

    /// `ADDRESSES`.
    fn addresses() -> &'static HashMap<Self::Addr, u32>;
    /// `LOCALS`.
    fn locals() -> &'static HashMap<Self::Addr, u32>;
    /// `VIRTUALS`.
    fn virtuals() -> &'static Array<Self::Addr>;
    /// `PORTS`.
    fn ports() -> &'static Array<PublishedPort>;
    /// `PUBLISHED`.
    fn published() -> &'static HashMap<PublishKey<Self::Addr>, u32>;
    /// `ALLOWED`, whose keys are `Visitors`.
    fn allowed() -> &'static LpmTrie<Visitor<Self::Addr>, u32>;
    /// `FLOWS`.
    fn flows() -> &'static HashMap<FlowKey<Self::Addr>, Flow<Self::Addr>>;
    /// `RING`.
    fn ring() -> &'static PerCpuArray<RingSlot<Self::Addr>>;
    /// The room of [`Scratch`].
    fn scratch() -> &'static PerCpuArray<Scratch<Self>>;
    /// The room of [`Parsed`].
    fn parsed() -> &'static PerCpuArray<Parsed<Self>>;
    /// `FRAGMENTS`.
    fn fragments() -> &'static LruHashMap<FragmentKey<Self::Addr>, Fragment>;
    /// `HELD`.
    fn held() -> &'static LruHashMap<HeldKey<Self::Addr>, HeldFrame>;

    /// First of the virtual addresses.
    fn virtual_base(config: &Config) -> Self::Addr;
    /// Asks who would receive packets with this key, as the helpers that look for sockets have it; how many bytes that takes: by
    /// those they tell the family.
    fn ask(tuple: &mut bpf_sock_tuple, key: &FlowKey<Self::Addr>) -> u32;
    /// The traffic class, as `bpf_fib_lookup` has it.
    fn set_class(fib: &mut FibLookup, tos: u8);
}

macro_rules! tables {
    ($family:ident, $address:ident, $af:literal, $first_share:expr, $base:ident, $tuple:ident,
     $addresses:ident, $locals:ident, $virtuals:ident, $ports:ident, $published:ident, $allowed:ident, $flows:ident, $ring:ident,
     $scratch:ident, $parsed:ident, $fragments:ident, $held:ident, $words:expr, $class:expr) => {
        #[map]
        static $addresses: HashMap<$address, u32> = HashMap::with_max_entries(ADDRESSES, 0);
        #[map]
        static $locals: HashMap<$address, u32> = HashMap::with_max_entries(LOCALS, 0);
        #[map]
        static $virtuals: Array<$address> = Array::with_max_entries(VIRTUALS, 0);
        #[map]
        static $ports: Array<PublishedPort> = Array::with_max_entries(PORT_TABLE, 0);
        #[map]
        static $published: HashMap<PublishKey<$address>, u32> = HashMap::with_max_entries(RULES, 1);
        #[map]
        static $allowed: LpmTrie<Visitor<$address>, u32> = LpmTrie::with_max_entries(RULES, 0);
        #[map]
        static $flows: HashMap<FlowKey<$address>, Flow<$address>> = HashMap::with_max_entries(DEFAULT_ENTRIES, 0);
        #[map]
        static $ring: PerCpuArray<RingSlot<$address>> = PerCpuArray::with_max_entries(DEFAULT_ENTRIES, 0);
        #[map]
        static $scratch: PerCpuArray<Scratch<$family>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        static $parsed: PerCpuArray<Parsed<$family>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        static $fragments: LruHashMap<FragmentKey<$address>, Fragment> =
            LruHashMap::with_max_entries(DEFAULT_ENTRIES, 0);
        #[map]
        static $held: LruHashMap<HeldKey<$address>, HeldFrame> = LruHashMap::with_max_entries(DEFAULT_ENTRIES, 0);

        impl Tables for $family {
            const AF: u8 = $af;
            const FIRST_SHARE: u32 = $first_share;

            #[inline(always)]
            fn addresses() -> &'static HashMap<$address, u32> {
                &$addresses
            }
            #[inline(always)]
            fn locals() -> &'static HashMap<$address, u32> {
                &$locals
            }
            #[inline(always)]
            fn virtuals() -> &'static Array<$address> {
                &$virtuals
            }
            #[inline(always)]
            fn ports() -> &'static Array<PublishedPort> {
                &$ports
            }
            #[inline(always)]
            fn published() -> &'static HashMap<PublishKey<$address>, u32> {
                &$published
            }
            #[inline(always)]
            fn allowed() -> &'static LpmTrie<Visitor<$address>, u32> {
                &$allowed
            }
            #[inline(always)]
            fn flows() -> &'static HashMap<FlowKey<$address>, Flow<$address>> {
                &$flows
            }
            #[inline(always)]
            fn ring() -> &'static PerCpuArray<RingSlot<$address>> {
                &$ring
            }
            #[inline(always)]
            fn scratch() -> &'static PerCpuArray<Scratch<$family>> {
                &$scratch
            }
            #[inline(always)]
            fn parsed() -> &'static PerCpuArray<Parsed<$family>> {
                &$parsed
            }
            #[inline(always)]
            fn fragments() -> &'static LruHashMap<FragmentKey<$address>, Fragment> {
                &$fragments
            }
            #[inline(always)]
            fn held() -> &'static LruHashMap<HeldKey<$address>, HeldFrame> {
                &$held
            }

            #[inline(always)]
            fn virtual_base(config: &Config) -> $address {
                config.$base
            }
            #[inline(always)]
            fn ask(tuple: &mut bpf_sock_tuple, key: &FlowKey<$address>) -> u32 {
                let words: fn($address) -> _ = $words;
                // SAFETY: all parts of the union are integers.
                let part = unsafe { &mut tuple.__bindgen_anon_1.$tuple };
                (part.saddr, part.daddr) = (words(key.src), words(key.dst));
                (part.sport, part.dport) = (key.sport.raw(), key.dport.raw());
                size_of_val(part) as u32
            }
            #[inline(always)]
            fn set_class(fib: &mut FibLookup, tos: u8) {
                fib.__bindgen_anon_2.flowinfo = $class(tos);
            }
        }
    };
}

tables!(
    V4,
    V4Addr,
    2,
    0,
    virtual_v4,
    ipv4,
    ADDRESSES_V4,
    LOCALS_V4,
    VIRTUALS_V4,
    PORTS_V4,
    PUBLISHED_V4,
    ALLOWED_V4,
    FLOWS_V4,
    RING_V4,
    SCRATCH_V4,
    PARSED_V4,
    FRAGMENTS_V4,
    HELD_V4,
    |address| address.0.raw(),
    |tos| u32::from_ne_bytes([tos, 0, 0, 0])
);

tables!(
    V6,
    V6Addr,
    10,
    RING_SHARES,
    virtual_v6,
    ipv6,
    ADDRESSES_V6,
    LOCALS_V6,
    VIRTUALS_V6,
    PORTS_V6,
    PUBLISHED_V6,
    ALLOWED_V6,
    FLOWS_V6,
    RING_V6,
    SCRATCH_V6,
    PARSED_V6,
    FRAGMENTS_V6,
    HELD_V6,
    |address| address.0.map(Be32::raw),
    |tos| Be32::new(u32::from(tos) << 20).raw()
);
