//! What the kernel can do, asked before the programs are loaded.

use super::sys::{self, Instruction};
use crate::error::{Context as _, Result};

/// `BPF_F_IPV6` of `bpf_l4_csum_replace` (include/uapi/linux/bpf.h, Linux 6.16 and stable releases since): the change is of
/// addresses of IPv6, whose header has no checksum that would make up for it in `skb->csum`.
const IPV6_FLAG: u64 = 1 << 7;

/// The helper's number.
const L4_CSUM_REPLACE: i32 = 11;

/// A field of two bytes is replaced (BPF_F_HDR_FIELD_MASK).
const TWO_BYTES: u64 = 2;

/// Where in the frame: any even place that it has.
const OFFSET: i32 = 32;

const FRAME: [u8; super::SHORTEST_FRAME] = [0; super::SHORTEST_FRAME];

/// Whether the kernel's checksum helper knows IPv6.
pub(crate) fn knows_ipv6_checksums() -> Result<bool> {
    Ok(ipv6_checksum_flag()? != 0)
}

/// What the programs pass to `bpf_l4_csum_replace` besides the flags that every kernel knows: the flag, or nothing where the
/// kernel would refuse it.
pub(super) fn ipv6_checksum_flag() -> Result<u64> {
    let what = || "ask the kernel about the checksums of IPv6".into();
    // bpf_l4_csum_replace(skb, OFFSET, 0, 0, flags), which changes nothing; r1 is the skb already.
    let program = [
        Instruction::set(2, OFFSET),
        Instruction::set(3, 0),
        Instruction::set(4, 0),
        Instruction::set(5, (IPV6_FLAG | TWO_BYTES) as i32),
        Instruction::call(L4_CSUM_REPLACE),
        Instruction::EXIT,
    ];
    let returned = sys::run_once(&program, &FRAME).context(what)?;
    Ok(if returned as i32 == -libc::EINVAL { 0 } else { IPV6_FLAG })
}
