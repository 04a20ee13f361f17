//! Atomic instructions on what lies in maps.

/// Compare-and-swap, which core does not have for this target; whether it was `from`.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
pub(super) unsafe fn compare_and_swap(pointer: *mut u64, from: u64, to: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let seen: u64;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64(r1 + 0, r0, r2)",
                inout("r0") from => seen,
                in("r1") pointer,
                in("r2") to,
            );
        }
        seen == from
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        let word = unsafe { AtomicU64::from_ptr(pointer) };
        word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Atomic addition without a result.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
pub(super) unsafe fn add(pointer: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) pointer, in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(pointer) }.fetch_add(value, Ordering::Relaxed);
    }
}

/// Atomic or without a result.
///
/// # Safety
/// `pointer` is aligned and into a map.
#[inline(always)]
pub(super) unsafe fn or(pointer: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) pointer, in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(pointer) }.fetch_or(value, Ordering::Relaxed);
    }
}
