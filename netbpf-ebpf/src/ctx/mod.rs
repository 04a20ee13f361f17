//! What a hook is given, as the paths see it: a TC skb and the ways it can leave, an XDP buffer, and the
//! address a socket is called with. With `maps` all that has unsafe code.
//!
//! Soundness: contexts are only ever made by the kernel, which passes a valid `__sk_buff`, `xdp_md` or
//! `bpf_sock_addr`; fields are read as the verifier rewrites them. Packet bytes are touched only between
//! `data` and `data_end`, which are read anew for every access, since helpers move them.

mod bare;
mod bounds;
mod buffer;
mod call;
mod skb;

use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_redir_neigh};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use netbpf_common::abi::NextHop;

pub(crate) use bare::Bare;
pub(crate) use bounds::bounded;
pub(crate) use buffer::Buffer;
pub(crate) use call::{Called, Sock, Sock4, Sock6};
pub(crate) use skb::Skb;

/// Into the namespace behind a host-side device.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: plain numbers; the kernel drops the packet if there is no such device.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of a device, or into it as if it had come from outside.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32, ingress: bool) -> i32 {
    let flags = if ingress { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: plain numbers; the kernel drops the packet if there is no such device.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Out of a device to a neighbour that the kernel resolves.
#[inline(always)]
pub(crate) fn redirect_neighbour(ifindex: u32, next_hop: &NextHop) -> i32 {
    const LEN: usize = size_of::<bpf_redir_neigh>();
    const { assert!(size_of::<NextHop>() == LEN, "a family, and an address in network order: the kernel's own struct") };
    let neighbour = core::ptr::from_ref(next_hop).cast_mut().cast::<bpf_redir_neigh>();
    // SAFETY: the helper reads so many bytes, and a next hop has them.
    unsafe { bpf_redirect_neigh(ifindex, neighbour, LEN as i32, 0) as i32 }
}
