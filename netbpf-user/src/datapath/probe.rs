//! What the kernel can do and what it looks like inside, asked before the programs are loaded.

use std::fs;

use netbpf_common::abi::SkbLayout;

use super::btf::Btf;
use super::sys::{self, Instruction};
use crate::error::{Context as _, Error, Result};

/// Where the kernel describes its types (BPF Type Format).
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

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

/// Where the kernel keeps the parts of a packet, as its BTF says.
pub(super) fn skb_layout() -> Result<SkbLayout> {
    let bytes = fs::read(KERNEL_BTF).map_err(|error| undescribed(&error.to_string()))?;
    let btf = Btf::parse(&bytes).ok_or_else(|| undescribed("it is no BTF"))?;
    let offset = |member: &str| {
        btf.offset("sk_buff", member).ok_or_else(|| undescribed(&format!("struct sk_buff has no member {member}")))
    };
    Ok(SkbLayout {
        head: offset("head")?,
        data: offset("data")?,
        csum_start: offset("csum_start")?,
        csum_offset: offset("csum_offset")?,
    })
}

fn undescribed(why: &str) -> Error {
    Error::Unsupported(format!(
        "{KERNEL_BTF} does not say what a packet looks like in this kernel ({why}): boot one with CONFIG_DEBUG_INFO_BTF, as \
         distributions build theirs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_packets_are_described() {
        let layout = skb_layout().unwrap();
        // Neighbours in struct sk_buff of every kernel (include/linux/skbuff.h).
        assert_eq!(layout.data, layout.head + 8);
        assert_eq!(layout.csum_offset, layout.csum_start + 2);
    }
}
