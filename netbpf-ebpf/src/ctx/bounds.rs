//! What the verifier is shown of a number.

/// A number below a power of two, with the mask where the verifier sees it: the compiler leaves one out whose effect it knows, and
/// the verifier does not know all that the compiler does.
#[inline(always)]
pub(crate) fn bounded<const MASK: u32>(number: u32) -> u32 {
    let mut number = u64::from(number);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) number, const MASK, options(pure, nomem, nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number &= u64::from(MASK);
    }
    number as u32
}
