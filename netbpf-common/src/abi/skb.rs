//! What the programs read in the kernel's own structures.

use bytemuck::{Pod, Zeroable};

/// Where the kernel keeps what no program is told of a packet: offsets in its `struct sk_buff`, in bytes. They differ from one
/// kernel to another.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SkbLayout {
    /// `head`: the buffer (a pointer).
    pub head: u32,
    /// `data`: the frame in it (a pointer).
    pub data: u32,
    /// `csum_start`: from where on the device is to sum up, counted from `head` (u16).
    pub csum_start: u32,
    /// `csum_offset`: where it is to write the sum, counted from there (u16).
    pub csum_offset: u32,
}
