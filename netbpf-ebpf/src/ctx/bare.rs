//! A TC skb of a device without Ethernet headers.

use aya_ebpf::helpers::generated::bpf_skb_change_head;
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use netbpf_common::abi::HeldFrame;
use netbpf_common::path::{Family, HEADERS_END, Headers, Packet};
use netbpf_common::wire::{Be16, Checksum, Ethernet, checksum::Delta};

use super::skb::HEADERS;
use super::{Skb, bounded};
/// No header is read or written beyond this, in bytes: for the verifier, which does not know that what is taken off an offset
/// was in it.
const LONGEST: u32 = 0xfff;

/// A TC skb of a device without Ethernet headers (tun, WireGuard, PPP). Paths see it as a frame like
/// any other; it becomes one when its Ethernet header is written, which is before it goes anywhere else.
pub(crate) struct Bare {
    pub(crate) skb: Skb,
    framed: bool,
}

impl Bare {
    /// The packet of a hook, its headers in reach.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: Skb::with(ctx, HEADERS - Ethernet::LEN), framed: false }
    }

    /// Offset in the skb of an offset in the frame.
    #[inline(always)]
    fn place(&self, at: u32) -> u32 {
        if self.framed { at } else { at.wrapping_sub(Ethernet::LEN) & LONGEST }
    }

    /// The header that an Ethernet device would have received.
    #[inline(always)]
    fn header(&self) -> Ethernet {
        // SAFETY: the skb is valid; the EtherType is in network order in the lower half.
        let ethertype = Be16::from_raw(unsafe { (*self.skb.skb).protocol } as u16);
        Ethernet { ethertype, ..Ethernet::default() }
    }
}

impl Headers for Bare {
    const HAS_ETHERNET: bool = false;

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.skb.frame_len() + if self.framed { 0 } else { Ethernet::LEN }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.skb.gso_size()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.skb.ifindex()
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        if at == 0 && !self.framed {
            return bytemuck::try_cast(self.header()).ok();
        }
        self.skb.read(self.place(at))
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        if at == 0 && !self.framed {
            // SAFETY: the skb is valid.
            if unsafe { bpf_skb_change_head(self.skb.skb, Ethernet::LEN, 0) } < 0 {
                return None;
            }
            self.framed = true;
        }
        self.skb.write(self.place(at), header)
    }

    #[inline(always)]
    fn update_checksum<F: Family>(
        &mut self,
        l4: u32,
        checksum: Checksum,
        addresses: Delta,
        ports: Delta,
    ) -> Option<()> {
        let l4 = self.place(l4);
        self.skb.update_checksum::<F>(l4, checksum, addresses, ports)
    }

    #[inline(always)]
    fn reach(&mut self, at: u32, len: u32) -> u32 {
        let at = bounded::<HEADERS_END>(at);
        self.skb.pull(self.place(at) + len);
        at
    }

    #[inline(always)]
    fn update_sum(&mut self, change: Delta) {
        self.skb.update_sum(change);
    }
}

impl Packet for Bare {
    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        self.skb.has_vlan_tag()
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        self.skb.is_for_us()
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.skb.ingress_ifindex()
    }

    #[inline(always)]
    fn is_summed_in(&mut self, l4: u32, checksum: Option<Checksum>) -> bool {
        let l4 = self.place(l4);
        self.skb.is_summed_in(l4, checksum)
    }

    #[inline(always)]
    fn is_left_to_device(&mut self, l4: u32) -> bool {
        let l4 = self.place(l4);
        self.skb.is_left_to_device(l4)
    }

    #[inline(always)]
    fn mark_crossed(&mut self, has_crossed: bool) {
        self.skb.mark_crossed(has_crossed);
    }

    #[inline(always)]
    fn has_crossed(&self) -> bool {
        self.skb.has_crossed()
    }

    #[inline(always)]
    fn send_copy(&mut self, ifindex: u32) -> Option<()> {
        self.skb.send_copy(ifindex)
    }

    #[inline(always)]
    fn save(&self, copy: &mut HeldFrame) -> Option<()> {
        self.skb.save(copy)
    }

    #[inline(always)]
    fn restore(&mut self, copy: &HeldFrame) -> Option<()> {
        self.skb.restore(copy)
    }

    #[inline(always)]
    fn receive_again(&mut self) -> Option<()> {
        self.skb.receive_again()
    }

    #[inline(always)]
    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()> {
        // Without its Ethernet header the kernel would take it for something else.
        if self.framed { self.skb.change_header::<F>(header) } else { None }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        let len = self.place(len);
        self.skb.resize(len)
    }

    #[inline(always)]
    fn insert_header(&mut self, len: u32) -> Option<()> {
        self.skb.insert_header(len)
    }
}
