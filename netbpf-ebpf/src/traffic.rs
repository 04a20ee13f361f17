//! What the benchmark sends and receives packets by, and the least that can be done with one between: no part of netbpf.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "the hooks have no caller on the host, where this is only checked")
)]

use aya_ebpf::bindings::{
    TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action::XDP_ABORTED, xdp_action::XDP_DROP, xdp_action::XDP_PASS,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_peer};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{TcContext, XdpContext};

/// Ethernet, IPv4 and UDP headers of a frame, and two bytes of what it carries.
const WORDS: usize = 11;
const ETHERTYPE: usize = 12;
const PROTOCOL: usize = 23;
const IPV4: u16 = 0x0800_u16.to_be();
const UDP: u8 = 17;

/// The device that packets are sent to.
#[unsafe(no_mangle)]
static TARGET: u32 = 0;
/// Source addresses of the flows that packets belong to, in turn.
#[unsafe(no_mangle)]
static ADDRESSES: u32 = 1;
/// Their source ports. The two have no divisor in common: all pairs come before one comes again.
#[unsafe(no_mangle)]
static PORTS: u32 = 1;
/// The headers of the first flow.
#[unsafe(no_mangle)]
static HEADER: [u32; WORDS] = [0; WORDS];

/// Steps of address and port of the next packet.
#[map]
static NEXT: PerCpuArray<[u16; 2]> = PerCpuArray::with_max_entries(1, 0);
/// Packets that have arrived.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A setting, which the loader has written.
#[inline(always)]
fn setting<T: Copy>(place: &'static T) -> T {
    // SAFETY: a reference is valid; volatile, or the compiler would take what stands here for what is meant.
    unsafe { core::ptr::from_ref(place).read_volatile() }
}

/// The packet, if it is as long as headers are.
#[inline(always)]
fn bytes<const N: usize>(start: usize, end: usize) -> Option<*mut [u8; N]> {
    (start + N <= end).then_some(start as *mut [u8; N])
}

/// Makes a frame and sends it to the target. What lies in the buffer may be a frame that somebody has rewritten.
#[xdp]
pub(crate) fn generate(ctx: XdpContext) -> u32 {
    let Some(frame) = bytes::<{ WORDS * 4 }>(ctx.data(), ctx.data_end()) else { return XDP_ABORTED };
    let Some(next) = NEXT.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: an entry of this CPU, which nobody else uses meanwhile.
    let [address, port] = unsafe {
        let [address, port] = *next;
        *next = [following(address, setting(&ADDRESSES)), following(port, setting(&PORTS))];
        [address, port]
    };
    for (word, header) in HEADER.iter().enumerate() {
        // SAFETY: `bytes` has compared the length.
        unsafe { frame.cast::<u32>().add(word).write_unaligned(setting(header)) };
    }
    // SAFETY: all of it is within the frame.
    unsafe {
        // What the last half of the source address grows by, the identification shrinks by: the checksum stays.
        add(frame, 18, address.wrapping_neg());
        add(frame, 28, address);
        add(frame, 34, port);
        bpf_redirect(setting(&TARGET), 0) as u32
    }
}

/// The next one around a circle of so many.
#[inline(always)]
fn following(step: u16, all: u32) -> u16 {
    if u32::from(step) + 1 < all { step + 1 } else { 0 }
}

/// Adds to a number of 16 bits in network order.
///
/// # Safety
/// It lies within the frame.
#[inline(always)]
unsafe fn add<const N: usize>(frame: *mut [u8; N], offset: usize, more: u16) {
    // SAFETY: as the caller says.
    unsafe {
        let place = frame.cast::<u8>().add(offset).cast::<u16>();
        place.write_unaligned(u16::from_be(place.read_unaligned()).wrapping_add(more).to_be());
    }
}

/// Whether a frame is a datagram of IPv4.
///
/// # Safety
/// The frame can be read.
#[inline(always)]
unsafe fn is_datagram<const N: usize>(frame: *const [u8; N]) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let frame = frame.cast::<u8>();
        frame.add(ETHERTYPE).cast::<u16>().read_unaligned() == IPV4 && *frame.add(PROTOCOL) == UDP
    }
}

#[inline(always)]
fn arrived() {
    if let Some(count) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: an entry of this CPU.
        unsafe { *count += 1 };
    }
}

/// Counts datagrams and ends them, as frames.
#[xdp(frags)]
pub(crate) fn sink_frames(ctx: XdpContext) -> u32 {
    match bytes::<{ WORDS * 4 }>(ctx.data(), ctx.data_end()) {
        // SAFETY: `bytes` has compared the length.
        Some(frame) if unsafe { is_datagram(frame) } => {
            arrived();
            XDP_DROP
        }
        _ => XDP_PASS,
    }
}

/// Counts datagrams and ends them, as packets of the stack.
#[classifier]
pub(crate) fn sink(ctx: TcContext) -> i32 {
    match bytes::<{ WORDS * 4 }>(ctx.data(), ctx.data_end()) {
        // SAFETY: `bytes` has compared the length.
        Some(frame) if unsafe { is_datagram(frame) } => {
            arrived();
            TC_ACT_SHOT
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Answers datagrams by themselves.
#[classifier]
pub(crate) fn reflect(ctx: TcContext) -> i32 {
    let Some(frame) = bytes::<{ WORDS * 4 }>(ctx.data(), ctx.data_end()) else { return TC_ACT_UNSPEC };
    // SAFETY: `bytes` has compared the length, and all of it is within the frame; the context is valid.
    unsafe {
        if !is_datagram(frame) {
            return TC_ACT_UNSPEC;
        }
        arrived();
        let bytes = frame.cast::<u8>();
        for byte in 0..6 {
            core::ptr::swap(bytes.add(byte), bytes.add(6 + byte));
        }
        let (from, to) = (bytes.add(26).cast::<u32>(), bytes.add(30).cast::<u32>());
        let addresses = (from.read_unaligned(), to.read_unaligned());
        from.write_unaligned(addresses.1);
        to.write_unaligned(addresses.0);
        let (from, to) = (bytes.add(34).cast::<u16>(), bytes.add(36).cast::<u16>());
        let ports = (from.read_unaligned(), to.read_unaligned());
        from.write_unaligned(ports.1);
        to.write_unaligned(ports.0);
        bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32
    }
}

/// Into the namespace behind the target, whatever it is.
#[classifier]
pub(crate) fn to_peer(_: TcContext) -> i32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect_peer(setting(&TARGET), 0) as i32 }
}

/// Out of the target, whatever it is.
#[classifier]
pub(crate) fn to_device(_: TcContext) -> i32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(setting(&TARGET), 0) as i32 }
}

/// The same as a frame.
#[xdp]
pub(crate) fn to_frame(_: XdpContext) -> u32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(setting(&TARGET), 0) as u32 }
}

/// What running a program takes by itself.
#[classifier]
pub(crate) fn nothing(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The same as a frame.
#[xdp]
pub(crate) fn no_frame(_: XdpContext) -> u32 {
    XDP_PASS
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
