//! What both address families share of the maps and the kernel.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_loop};
use netbpf_common::abi::{COUNTERS, Config, DropReason, Endpoint, Event, HeldFrame, NO_COUNTER, Network, Rule, Uplink};
use netbpf_common::path::World;

use super::atomic::{add, or};
use super::{
    BROADCASTS, CONFIRMED, ENDPOINTS, EXPRESS, GENERATIONS, KEPT_PORTS, MEMBERS, Maps, NETWORKS, RING_HEAD, ROOM,
    RULES, UPLINKS,
};
use crate::ctx::bounded;

impl Maps {
    #[inline(always)]
    fn increment(&self, counter: u32) {
        if let Some(mut counters) = self.counters {
            // SAFETY: this CPU's own counters.
            if let Some(value) = unsafe { counters.as_mut() }.get_mut(bounded::<{ COUNTERS - 1 }>(counter) as usize) {
                *value += 1;
            }
        }
    }
}

impl World for Maps {
    type Room = &'static mut HeldFrame;

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
    fn repeat<B: FnMut(u32) -> bool>(&self, turns: u32, mut body: B) {
        unsafe extern "C" fn call<B: FnMut(u32) -> bool>(turn: u32, body: *mut c_void) -> i64 {
            // SAFETY: the closure below, which nothing else uses meanwhile.
            let body = unsafe { &mut *body.cast::<B>() };
            if body(turn) { 0 } else { 1 }
        }
        // SAFETY: the kernel calls it with this closure, and no more once it has returned.
        unsafe { bpf_loop(turns, call::<B> as *mut c_void, (&raw mut body).cast(), 0) };
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
    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        // SAFETY: written whole by the agent; a torn one shows an old address for an instant.
        unsafe { UPLINKS.get(ifindex) }
    }

    #[inline(always)]
    fn takes_express(&self, slot: u32) -> bool {
        EXPRESS.get(slot).is_some()
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
    fn room(&self) -> Option<Self::Room> {
        // SAFETY: as for `scratch`.
        ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room })
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
        let now = self.now() * UNIT;
        // SAFETY: points to an aligned u64 in the map.
        let full = unsafe { place.read_volatile() }.max(now);
        if full + cost > now + second {
            return false;
        }
        // SAFETY: as above.
        unsafe { place.write_volatile(full + cost) };
        true
    }
}
