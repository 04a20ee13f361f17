//! A TC skb.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_probe_read_kernel, bpf_skb_adjust_room,
    bpf_skb_change_proto, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use netbpf_common::abi::{HELD_LEN, HeldFrame, SkbLayout};
use netbpf_common::path::{Family, HEADERS_END, Headers, Packet};
use netbpf_common::wire::{Be16, Checksum, Ethernet, checksum::Delta};

use super::bounded;

/// Addressed to the device it came in by (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// What is read of every packet: Ethernet, and IPv6 or IPv4 with TCP, both without options. No more than that: of what TCP sends
/// the headers alone lie together, and the kernel would copy them all to put a byte of payload to them.
pub(super) const HEADERS: u32 = Ethernet::LEN + 40;

/// BPF_F_IPV6 of `bpf_l4_csum_replace` (the header has no checksum that makes up for the addresses) where the kernel knows it,
/// which the agent probes before it loads the programs; else zero.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
static IPV6_CHECKSUM_FLAG: u64 = 0;

#[inline(always)]
fn ipv6_flag() -> u64 {
    // SAFETY: a static; volatile, since the agent sets it in the object.
    unsafe { (&raw const IPV6_CHECKSUM_FLAG).read_volatile() }
}

/// Where this kernel keeps the parts of a packet that the context does not show, out of its BTF; the agent sets it.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
static SKB_LAYOUT: SkbLayout = SkbLayout { head: 0, data: 0, csum_start: 0, csum_offset: 0 };

/// A TC skb.
pub(crate) struct Skb {
    pub(super) skb: *mut __sk_buff,
}

impl Skb {
    /// The packet of a hook, its headers in reach.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self::with(ctx, HEADERS)
    }

    /// The packet of a hook, this much of it in reach.
    #[inline(always)]
    pub(super) fn with(ctx: &TcContext, len: u32) -> Self {
        let skb = Self { skb: ctx.as_ptr().cast() };
        skb.pull(len);
        skb
    }

    #[inline(always)]
    pub(super) fn pull(&self, len: u32) {
        let (data, end) = self.bounds();
        let want = self.frame_len().min(len);
        if data + want as usize > end {
            // SAFETY: the skb is valid; on failure the bounds stay, and reads beyond them fail.
            unsafe { bpf_skb_pull_data(self.skb, want) };
        }
    }

    /// Takes a frame that was addressed to another MAC for our own: one between neighbours, which
    /// kernels before 6.15 would deliver as PACKET_OTHERHOST and drop.
    #[inline(always)]
    pub(crate) fn claim(&mut self) {
        if !self.is_for_us() {
            // SAFETY: the skb is valid.
            unsafe { bpf_skb_change_type(self.skb, PACKET_HOST) };
        }
    }

    /// Whether it is being sent by a container's own device, whose driver runs the program (netkit): no device has received it yet.
    #[inline(always)]
    pub(crate) fn is_in_driver(&self) -> bool {
        self.ingress_ifindex() == 0
    }

    /// Whether its sender has told the kernel another protocol than its Ethernet header says. A device that receives a frame looks
    /// for itself (eth_type_trans), and between the ends of a netkit nobody does.
    #[inline(always)]
    pub(crate) fn is_misnamed(&self) -> bool {
        is_misnamed(self.skb)
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the skb is valid.
        unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) }
    }

    #[inline(always)]
    fn pointer<T>(&self, at: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        let start = data + at as usize;
        if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
    }
}

impl Headers for Skb {
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: inside the packet; any bytes are a T. The machines BPF runs on load unaligned
        // words, and an unaligned read in the BPF target's sense would be one byte at a time.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: as in `read`; the kernel has made the skb's head private to a program that writes.
        unsafe { *pointer = header };
        Some(())
    }

    #[inline(always)]
    fn update_checksum<F: Family>(
        &mut self,
        l4: u32,
        checksum: Checksum,
        addresses: Delta,
        ports: Delta,
    ) -> Option<()> {
        let at = l4 + checksum.at;
        let flags = if checksum.optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let update = |delta: Delta, flags: u64| {
            // SAFETY: the skb is valid; an offset outside makes the helper fail.
            let result = unsafe { bpf_l4_csum_replace(self.skb, at, 0, u64::from(delta.raw()), flags) };
            if result < 0 { None } else { Some(()) }
        };
        if checksum.pseudo_header && addresses != Delta::NONE {
            let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
            if F::HEADER_HAS_CHECKSUM {
                update(addresses, flags)?;
            } else {
                let own = ipv6_flag();
                update(addresses, flags | own)?;
                if own == 0 {
                    // The kernel has taken a header with a checksum for granted, which makes up for the addresses in the
                    // sum of the whole packet (net/core/utils.c, inet_proto_csum_replace_by_diff). It fails where the
                    // device has left no such sum, and there is nothing to put right.
                    // SAFETY: the skb is valid.
                    unsafe { bpf_csum_update(self.skb, addresses.raw()) };
                }
            }
        }
        if ports != Delta::NONE {
            update(ports, flags)?;
        }
        Some(())
    }

    #[inline(always)]
    fn reach(&mut self, at: u32, len: u32) -> u32 {
        let at = bounded::<HEADERS_END>(at);
        self.pull(at + len);
        at
    }

    #[inline(always)]
    fn update_sum(&mut self, change: Delta) {
        // SAFETY: the skb is valid. It fails where there is no such sum.
        unsafe { bpf_csum_update(self.skb, change.raw()) };
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the skb is valid.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn is_summed_in(&mut self, l4: u32, checksum: Option<Checksum>) -> bool {
        is_summed_in(self, l4, checksum.map_or(0, |checksum| checksum.at))
    }

    #[inline(always)]
    fn is_left_to_device(&mut self, l4: u32) -> bool {
        is_left_to_device(self, l4)
    }

    #[inline(always)]
    fn mark_crossed(&mut self, has_crossed: bool) {
        // SAFETY: the skb is valid, and its control block is the programs' own.
        unsafe { (*self.skb).cb[0] = has_crossed.into() };
    }

    #[inline(always)]
    fn has_crossed(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb).cb[0] != 0 }
    }

    #[inline(always)]
    fn send_copy(&mut self, ifindex: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_clone_redirect(self.skb, ifindex, 0) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn save(&self, copy: &mut HeldFrame) -> Option<()> {
        let len = held_len(self.frame_len())?;
        copy.len = len;
        // SAFETY: the skb is valid, and the copy has room for so many bytes.
        let result = unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, copy.bytes.as_mut_ptr().cast(), len) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn restore(&mut self, copy: &HeldFrame) -> Option<()> {
        let len = held_len(copy.len)?;
        self.resize(len)?;
        // SAFETY: the skb is valid and as long as this, and so is the copy.
        let result = unsafe {
            bpf_skb_store_bytes(self.skb.cast(), 0, copy.bytes.as_ptr().cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn receive_again(&mut self) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_clone_redirect(self.skb, self.ifindex(), u64::from(BPF_F_INGRESS)) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_change_proto(self.skb, F::ETHERTYPE.raw(), 0) };
        if result < 0 {
            return None;
        }
        let (header, len) = (core::ptr::from_ref(header).cast(), size_of::<F::Header>() as u32);
        // SAFETY: the skb is valid, and the header as long as this.
        let result = unsafe {
            bpf_skb_store_bytes(self.skb.cast(), Ethernet::LEN, header, len, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_change_tail(self.skb, len, 0) };
        if result < 0 { None } else { Some(()) }
    }

    #[inline(always)]
    fn insert_header(&mut self, len: u32) -> Option<()> {
        // SAFETY: the skb is valid.
        let result = unsafe { bpf_skb_adjust_room(self.skb, len as i32, BPF_ADJ_ROOM_MAC, 0) };
        if result < 0 { None } else { Some(()) }
    }
}

/// The length of a frame, if it can be held. Kernels before 6.8 learn nothing from a comparison with zero, which the compiler
/// makes of most that say the same, and no helper takes a length that may be zero.
#[inline(always)]
fn held_len(len: u32) -> Option<u32> {
    const MASK: u32 = (HELD_LEN as u32).next_power_of_two() - 1;
    if len == 0 || len > HELD_LEN as u32 {
        return None;
    }
    Some(bounded::<MASK>(len - 1) + 1).filter(|len| *len <= HELD_LEN as u32)
}

/// The body of [`Skb::is_misnamed`], with a stack frame of its own.
#[inline(never)]
fn is_misnamed(skb: *mut __sk_buff) -> bool {
    let skb = Skb { skb };
    // SAFETY: the skb is valid.
    let told = unsafe { (*skb.skb).protocol };
    skb.is_in_driver() && skb.read::<Ethernet>(0).is_none_or(|ethernet| u32::from(ethernet.ethertype.raw()) != told)
}

/// The body of [`Packet::is_summed_in`], with a stack frame of its own. Where the device is to write a sum no helper tells, and of the
/// kernel's structures that is all that is read.
#[inline(never)]
fn is_summed_in(packet: &mut Skb, l4: u32, at: u32) -> bool {
    if !is_left_to_device(packet, l4) {
        return packet.read::<Be16>(l4).is_some();
    }
    let (mut head, mut data, mut start, mut offset) = (0_u64, 0_u64, 0_u16, 0_u16);
    let is_read = read_inside(packet.skb, &raw const SKB_LAYOUT.head, &mut head)
        && read_inside(packet.skb, &raw const SKB_LAYOUT.data, &mut data)
        && read_inside(packet.skb, &raw const SKB_LAYOUT.csum_start, &mut start)
        && read_inside(packet.skb, &raw const SKB_LAYOUT.csum_offset, &mut offset);
    is_read && head + u64::from(start) + u64::from(offset) >= data + u64::from(l4 + at)
}

/// Reads what lies at an offset, one of [`SKB_LAYOUT`], of the `struct sk_buff` that the context stands for; whether it could be read.
#[inline(always)]
fn read_inside<T: Pod>(skb: *const __sk_buff, offset: *const u32, value: &mut T) -> bool {
    // SAFETY: a static; volatile, since the agent sets it in the object.
    let offset = unsafe { offset.read_volatile() };
    let from = skb.cast::<u8>().wrapping_add(offset as usize).cast();
    // SAFETY: the value has room for so many bytes; the helper fails where there is nothing to read.
    unsafe { bpf_probe_read_kernel(core::ptr::from_mut(value).cast(), size_of::<T>() as u32, from) == 0 }
}

/// The body of [`Packet::is_left_to_device`], with a stack frame of its own. A helper that changes a sum leaves it alone in such a
/// packet.
#[inline(never)]
fn is_left_to_device(packet: &mut Skb, l4: u32) -> bool {
    let Some(before) = packet.read::<Be16>(l4) else { return false };
    // SAFETY: the skb is valid; an offset outside makes the helper fail.
    unsafe { bpf_l4_csum_replace(packet.skb, l4, 0, 1, 0) };
    match packet.read::<Be16>(l4) {
        Some(after) if after == before => true,
        Some(_) => {
            packet.write(l4, before);
            false
        }
        None => false,
    }
}
