//! The list of hooks. What becomes of a packet is decided in `netbpf_common::path`; here is where
//! each verdict turns into what the kernel is told.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "the hooks have no caller on the host, where this is only checked")
)]

mod ctx;
mod maps;
mod socket;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::debug;
use netbpf_common::abi::{COLLECT_KEYS, DropReason, ENDPOINT_SLOTS, Event, FlowKey};
use netbpf_common::path::{self, Headers as _, V4, V6, Verdict, World as _};

use crate::ctx::{Bare, Buffer, Skb, redirect, redirect_neighbour, redirect_peer};
use crate::maps::{Maps, Tables, redirect_express, tail_call};

/// TC ingress of each endpoint's host-side device, and of a netkit also its driver: all that a container sends.
#[classifier]
pub(crate) fn egress(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    if skb.is_misnamed() {
        return enact_egress(&ctx, &mut skb, &maps, Verdict::Drop(DropReason::Malformed));
    }
    let verdict = path::egress_v4(&mut skb, &maps);
    hand_over(&ctx, verdict, 0);
    enact_egress(&ctx, &mut skb, &maps, verdict)
}

#[classifier]
pub(crate) fn egress_v6(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::egress_v6(&mut skb, &maps);
    enact_egress(&ctx, &mut skb, &maps, verdict)
}

/// TC ingress of each uplink: all that comes from outside.
#[classifier]
pub(crate) fn uplink(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::uplink_v4(&mut skb, &maps);
    hand_over(&ctx, verdict, 1);
    enact(&ctx, &mut skb, &maps, verdict, "uplink")
}

#[classifier]
pub(crate) fn uplink_v6(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::uplink_v6(&mut skb, &maps);
    enact(&ctx, &mut skb, &maps, verdict, "uplink")
}

/// TC ingress of each uplink without Ethernet headers.
#[classifier]
pub(crate) fn uplink_bare(ctx: TcContext) -> i32 {
    let mut packet = Bare::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::uplink_v4(&mut packet, &maps);
    hand_over(&ctx, verdict, 2);
    enact(&ctx, &mut packet.skb, &maps, verdict, "uplink")
}

#[classifier]
pub(crate) fn uplink_bare_v6(ctx: TcContext) -> i32 {
    let mut packet = Bare::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::uplink_v6(&mut packet, &maps);
    enact(&ctx, &mut packet.skb, &maps, verdict, "uplink")
}

/// XDP of each uplink that is to be served ahead of the host's stack: what goes on meets [`uplink`].
#[xdp(frags)]
pub(crate) fn express(ctx: XdpContext) -> u32 {
    let mut buffer = Buffer::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    match path::express(&mut buffer, &maps) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Peer { ifindex } => redirect_express(&maps, ifindex & (ENDPOINT_SLOTS - 1)),
        Verdict::Drop(reason) => {
            maps.count_drop(reason);
            xdp_action::XDP_DROP
        }
        // Changed already, and for a device that takes no frames by this way.
        _ => {
            maps.count_drop(DropReason::Internal);
            xdp_action::XDP_DROP
        }
    }
}

/// TC egress of netbpf0: all that the host sends to containers.
#[classifier]
pub(crate) fn host(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::host_v4(&mut skb, &maps);
    hand_over(&ctx, verdict, 3);
    enact(&ctx, &mut skb, &maps, verdict, "host")
}

#[classifier]
pub(crate) fn host_v6(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let maps = Maps::new(ctx.as_ptr());
    let verdict = path::host_v6(&mut skb, &maps);
    enact(&ctx, &mut skb, &maps, verdict, "host")
}

/// Lets the other part of a path take the packet on. Returns only if the verdict is another, or that part is not there.
#[inline(always)]
fn hand_over(ctx: &TcContext, verdict: Verdict, part: u32) {
    if let Verdict::HandOver = verdict {
        tail_call(ctx, part);
    }
}

/// Run by the agent with BPF_PROG_TEST_RUN on an array of keys of O entries; returns how many
/// flows it has ended.
#[classifier]
pub(crate) fn collect_v4(ctx: TcContext) -> i32 {
    collect::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
pub(crate) fn collect_v6(ctx: TcContext) -> i32 {
    collect::<V6>(&ctx)
}

#[inline(always)]
fn collect<F: Tables>(ctx: &TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let maps = Maps::new(ctx.as_ptr());
    let mut collected = 0;
    maps.repeat(COLLECT_KEYS as u32, |i| {
        // The mask is for the verifier, which does not know what is counted here.
        let at = (i & (COLLECT_KEYS as u32 - 1)) * size_of::<FlowKey<F::Addr>>() as u32;
        let Some(key) = skb.read::<FlowKey<F::Addr>>(at) else { return false };
        if path::collect::collect::<F, _>(&maps, &key) {
            collected += 1;
        }
        true
    });
    collected
}

/// The number of no device.
const NOWHERE: u32 = 0;

/// [`enact`] of what a container sends: of a drop in its device's driver the sender would be told, and it knows of none anywhere else.
#[inline(always)]
fn enact_egress(ctx: &TcContext, skb: &mut Skb, maps: &Maps, verdict: Verdict) -> i32 {
    match enact(ctx, skb, maps, verdict, "egress") {
        TC_ACT_SHOT if skb.is_in_driver() => redirect(NOWHERE, false),
        action => action,
    }
}

/// The verdict table. TC_ACT_UNSPEC is TCX_NEXT: programs and filters of others see what we pass.
#[inline(always)]
fn enact(ctx: &TcContext, skb: &mut Skb, maps: &Maps, verdict: Verdict, hook: &'static str) -> i32 {
    match verdict {
        Verdict::Pass => {
            maps.count(Event::Passed);
            TC_ACT_UNSPEC
        }
        Verdict::Drop(reason) => {
            maps.count_drop(reason);
            log_drop(ctx, hook, reason, skb.ifindex());
            TC_ACT_SHOT
        }
        Verdict::Done => TC_ACT_SHOT,
        Verdict::HandOver => {
            maps.count_drop(DropReason::Internal);
            TC_ACT_SHOT
        }
        // The way past a device begins at the ingress of another.
        Verdict::Peer { ifindex } if skb.is_in_driver() => redirect(ifindex, false),
        Verdict::Peer { ifindex } => {
            skb.claim();
            redirect_peer(ifindex)
        }
        Verdict::Neighbour { ifindex, next_hop } => redirect_neighbour(ifindex, &next_hop),
        Verdict::Device { ifindex } => redirect(ifindex, false),
        Verdict::Ingress { ifindex } => redirect(ifindex, true),
    }
}

/// Tells of a drop, with a stack frame of its own: the path's is deep enough.
#[inline(never)]
fn log_drop(ctx: &TcContext, hook: &'static str, reason: DropReason, ifindex: u32) -> u32 {
    debug!(ctx, "{}: {} on device {}", hook, reason.name(), ifindex);
    ifindex
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel lets programs with this licence call.
#[cfg_attr(target_arch = "bpf", unsafe(link_section = "license"), unsafe(no_mangle))]
#[used]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
