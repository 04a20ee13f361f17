//! What the paths ask of a packet.

use bytemuck::Pod;

use super::Family;
use crate::abi::HeldFrame;
use crate::wire::{Checksum, checksum::Delta};

/// No header begins beyond this, not even in a packet that an error quotes: for the verifier, which forgets the bounds of a
/// number that is put aside.
pub const HEADERS_END: u32 = 0x3ff;

/// A frame that begins with its Ethernet header, as far as any hook can see and change it. Implemented for a TC skb, for an XDP
/// buffer and for bytes in memory.
///
/// Offsets and lengths are in bytes from the start of the frame. `None` means the frame ends
/// before, or the kernel refused; a path that sees it drops the packet.
pub trait Headers {
    /// Whether the device has Ethernet headers. If not, a packet that was changed cannot be passed on
    /// to the host any more.
    const HAS_ETHERNET: bool = true;

    /// Length of the frame. For a GSO packet that of all segments together.
    fn frame_len(&self) -> u32;

    /// Payload bytes per segment of a GSO packet; 0 for an ordinary one.
    fn gso_size(&self) -> u32;

    /// The device the frame is on.
    fn ifindex(&self) -> u32;

    /// Brings `len` bytes at `at` in reach of reads and writes, as far as the frame has them. For what lies beyond an
    /// IP header without options. Gives the offset back, of which the verifier then knows that it is not beyond [`HEADERS_END`].
    fn reach(&mut self, at: u32, len: u32) -> u32;

    /// Reads a header.
    fn read<T: Pod>(&self, at: u32) -> Option<T>;

    /// Writes a header.
    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()>;

    /// Lets the transport checksum of the header at `l4` follow a change of addresses and ports
    /// (RFC 1624). A frame whose checksum is left to the device takes the first part alone.
    fn update_checksum<F: Family>(&mut self, l4: u32, checksum: Checksum, addresses: Delta, ports: Delta)
    -> Option<()>;

    /// Lets the sum of the whole frame, where the device has given one, follow a change that no checksum makes up for.
    fn update_sum(&mut self, change: Delta);
}

/// A frame that the kernel's stack has taken in: what it knows of it, and what it lets one do with it. Implemented for a TC skb and
/// for bytes in memory.
pub trait Packet: Headers {
    /// Whether the frame carries an 802.1Q tag that the kernel keeps beside it.
    fn has_vlan_tag(&self) -> bool;

    /// Whether the frame was addressed to the device it came in by (PACKET_HOST).
    fn is_for_us(&self) -> bool;

    /// The device the packet came into the host by; 0 when the host made it.
    fn ingress_ifindex(&self) -> u32;

    /// Whether a checksum that the frame leaves to its device, if it does, is one that lies in its transport, which begins at
    /// `l4`. The sender has said where, and could have an address written with it.
    fn is_summed_in(&mut self, l4: u32, checksum: Option<Checksum>) -> bool;

    /// Whether the frame leaves the checksum of its transport, which begins at `l4`, to its device.
    fn is_left_to_device(&mut self, l4: u32) -> bool;

    /// Marks the packet for the program that it is handed over to, or takes the mark away.
    fn mark_crossed(&mut self, has_crossed: bool);

    /// Whether the packet is marked.
    fn has_crossed(&self) -> bool;

    /// Sends a copy of the frame, as it is now, out of a device.
    fn send_copy(&mut self, ifindex: u32) -> Option<()>;

    /// Copies the frame, unless it is longer than what can be held.
    fn save(&self, copy: &mut HeldFrame) -> Option<()>;

    /// Becomes another frame.
    fn restore(&mut self, copy: &HeldFrame) -> Option<()>;

    /// Lets a copy of the frame, as it is now, come in once more by the device that it is on, after this packet.
    fn receive_again(&mut self) -> Option<()>;

    /// Replaces the IP header behind the Ethernet header by one of the other family; neither has options.
    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()>;

    /// Cuts the frame off at `len`, or pads it with zeros up to there.
    fn resize(&mut self, len: u32) -> Option<()>;

    /// Makes room for `len` bytes behind the Ethernet header; what is there is undefined.
    fn insert_header(&mut self, len: u32) -> Option<()>;
}
