//! What the kernel knows besides the maps: the host's sockets, and its routes.

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup, bpf_sock_tuple,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use netbpf_common::abi::{DropReason, FlowKey, NextHop};
use netbpf_common::path::{HostSocket, Route, RouteQuery, V4};
use netbpf_common::wire::{Address as _, Be32, protocol};

use super::tables::Tables;

const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
/// The namespace of the device the packet is on.
const CURRENT_NETNS: u64 = BPF_F_CURRENT_NETNS as i64 as u64;

/// What `bpf_fib_lookup` returns, in the type that it returns.
struct FibResult;

impl FibResult {
    const SUCCESS: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
    const NO_NEIGH: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
    const FRAG_NEEDED: i64 = BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;
}

/// The socket of the host that a packet with this key is for. With a stack frame of its own, which the question fills.
#[inline(never)]
pub(super) fn host_socket<F: Tables>(ctx: *mut c_void, key: &FlowKey<F::Addr>) -> HostSocket {
    // SAFETY: integers, of which zero is one.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let len = F::ask(&mut tuple, key);
    let tuple = &raw mut tuple;
    match key.proto {
        protocol::TCP => match tcp_socket_state(ctx, tuple, len) {
            0 => HostSocket::None,
            TCP_LISTEN | TCP_CLOSE => HostSocket::Listening,
            _ => HostSocket::Connected,
        },
        protocol::UDP => match udp_socket_state(ctx, tuple, len) {
            0 => HostSocket::None,
            TCP_ESTABLISHED => HostSocket::Connected,
            _ => HostSocket::Listening,
        },
        _ => HostSocket::None,
    }
}

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

/// The way to an address, as the routing table has it for what the device `input` receives.
#[inline(always)]
pub(super) fn route<F: Tables>(
    ctx: *mut c_void,
    fib: &mut FibLookup,
    input: u32,
    query: &RouteQuery<F::Addr>,
    route: &mut Route,
) -> Result<(), DropReason> {
    // Any length makes the kernel report the MTU of the route; the size of the packet is held
    // against it by the path, which knows segments.
    let result = look_up::<F>(ctx, fib, input, query, 1);
    if result != FibResult::SUCCESS && result != FibResult::NO_NEIGH {
        return Err(if result > FibResult::SUCCESS { DropReason::NoRoute } else { DropReason::Internal });
    }
    // SAFETY: four words, whichever family the gateway has.
    let words = unsafe { fib.__bindgen_anon_4.ipv6_dst };
    let address = if fib.family == V4::AF {
        [Be32::from_raw(words[0]), Be32::ZERO, Be32::ZERO, Be32::ZERO]
    } else {
        words.map(Be32::from_raw)
    };
    route.ifindex = fib.ifindex;
    route.next_hop = NextHop { family: u32::from(fib.family), address };
    // While the neighbour is unknown the kernel says no MTU, unless a packet is too long for it.
    let told = result == FibResult::SUCCESS || look_up::<F>(ctx, fib, input, query, u16::MAX) == FibResult::FRAG_NEEDED;
    // SAFETY: the kernel has written the MTU where the length was.
    route.mtu = if told { unsafe { fib.__bindgen_anon_1.mtu_result } } else { 0 };
    Ok(())
}

/// Asks the routing table about a packet of this length.
#[inline(always)]
fn look_up<F: Tables>(ctx: *mut c_void, fib: &mut FibLookup, input: u32, query: &RouteQuery<F::Addr>, len: u16) -> i64 {
    fib.sport = 0;
    fib.dport = 0;
    fib.family = F::AF;
    fib.l4_protocol = query.proto;
    fib.ifindex = input;
    fib.__bindgen_anon_1.tot_len = len;
    F::set_class(fib, query.tos);
    fib.__bindgen_anon_3.ipv6_src = query.src.words().map(Be32::raw);
    fib.__bindgen_anon_4.ipv6_dst = query.dst.words().map(Be32::raw);
    // SAFETY: the context is the hook's, and the struct has the size that is named.
    unsafe { bpf_fib_lookup(ctx, fib, size_of::<FibLookup>() as i32, 0) }
}
