//! An entry of the flow table: read by copies, changed by what is atomic.

use core::marker::PhantomData;
use core::ptr::NonNull;

use netbpf_common::abi::{Flow, FlowKey, Sent, Stamp, Word};
use netbpf_common::path::FlowEntry;

use super::atomic::{add, compare_and_swap};

/// An entry of the flow table.
pub(crate) struct Entry<A> {
    flow: NonNull<Flow<A>>,
    family: PhantomData<A>,
}

impl<A> Entry<A> {
    /// # Safety
    /// `flow` points to a value of the flow table.
    #[inline(always)]
    pub(super) const unsafe fn new(flow: NonNull<Flow<A>>) -> Self {
        Self { flow, family: PhantomData }
    }
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
