//! An XDP buffer: a frame before the host's stack has seen it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use bytemuck::Pod;
use netbpf_common::path::{Family, HEADERS_END, Headers};
use netbpf_common::wire::{Be16, Checksum, checksum::Delta};

use super::bounded;

/// An XDP buffer. Of a frame in several pieces the first one is in reach, in which its headers lie.
pub(crate) struct Buffer {
    ctx: *mut xdp_md,
}

impl Buffer {
    /// The frame of a hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.as_ptr().cast() }
    }

    #[inline(always)]
    fn pointer<T>(&self, at: u32) -> Option<*mut T> {
        // SAFETY: the context is valid.
        let (data, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        let start = data + at as usize;
        if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
    }
}

impl Headers for Buffer {
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// The driver has put the headers into the first piece.
    #[inline(always)]
    fn reach(&mut self, at: u32, _: u32) -> u32 {
        bounded::<HEADERS_END>(at)
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: inside the frame; any bytes are a T. Unaligned as for a skb.
        Some(unsafe { *pointer })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        let pointer = self.pointer::<T>(at)?;
        // SAFETY: as in `read`; the driver gives its programs frames that they may write.
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
        let sum: Be16 = self.read(at)?;
        self.write(at, checksum.follow(sum, addresses, ports))
    }

    /// What the device may have summed up it tells the stack alone, later.
    #[inline(always)]
    fn update_sum(&mut self, _: Delta) {}
}
