//! What the kernel can do and what it looks like inside, asked before the programs are loaded.

use std::fs;

use btfparse::{ErrorKind, Offset, Readable, TypeInformation};
use netbpf_common::abi::SkbLayout;

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
    let described = fs::read(KERNEL_BTF).map_err(|error| error.to_string()).and_then(|bytes| layout_in(&Bytes(bytes)));
    described.map_err(|why| {
        Error::Unsupported(format!(
            "{KERNEL_BTF} does not say what a packet looks like in this kernel ({why}): boot one with CONFIG_DEBUG_INFO_BTF, as \
             distributions build theirs"
        ))
    })
}

fn layout_in(btf: &Bytes) -> std::result::Result<SkbLayout, String> {
    let types = TypeInformation::new(btf).map_err(|error| error.message().to_owned())?;
    let packet = types.id_of("sk_buff").ok_or("it has no struct sk_buff")?;
    let offset = |member: &str| match types.offset_of(packet, member) {
        Ok((_, Offset::ByteOffset(bytes))) => Ok(bytes),
        Ok((_, Offset::BitOffsetAndSize(..))) => Err(format!("{member} is a field of bits")),
        Err(error) => Err(format!("{member}: {}", error.message())),
    };
    Ok(SkbLayout {
        head: offset("head")?,
        data: offset("data")?,
        csum_start: offset("csum_start")?,
        csum_offset: offset("csum_offset")?,
    })
}

/// A file that was read whole.
struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let end = || btfparse::Error::new(ErrorKind::EOF, "behind the end of the file");
        let from = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).ok_or_else(end)?;
        buffer.copy_from_slice(from.get(..buffer.len()).ok_or_else(end)?);
        Ok(())
    }
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

    #[test]
    fn what_is_no_description_is_refused() {
        for bytes in [&b""[..], b"neither ELF nor BTF", &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]] {
            assert!(layout_in(&Bytes(bytes.to_vec())).is_err(), "{bytes:?}");
        }
    }
}
