//! A frame in memory, as the paths see it.

use bytemuck::Pod;
use netbpf_common::abi::HeldFrame;
use netbpf_common::path::{Family, Headers, Packet};
use netbpf_common::wire::{Be16, Checksum, checksum::Delta};

use crate::world::ETHERNET;

/// A frame in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The bytes, Ethernet header first.
    pub bytes: Vec<u8>,
    /// The device it is on.
    pub ifindex: u32,
    /// The device it came into the host by; 0 for none.
    pub ingress_ifindex: u32,
    /// Whether it was addressed to the device.
    pub for_us: bool,
    /// Whether the kernel keeps an 802.1Q tag beside it.
    pub tagged: bool,
    /// Payload bytes per segment; 0 if it is not GSO.
    pub gso_size: u32,
    /// Whether its checksum is left to the device: then only the pseudo header is in it.
    pub partial_checksum: bool,
    /// Where its device was asked to write a checksum, if at a place of the sender's own choice.
    pub summed_at: Option<u32>,
    /// Whether it was marked for who takes it on.
    pub has_crossed: bool,
    /// Copies that were sent, with the device they left by.
    pub copies: Vec<(u32, Vec<u8>)>,
    /// Frames that are to come in once more behind this one.
    pub again: Vec<Vec<u8>>,
}

impl Frame {
    /// An ordinary frame on a device.
    pub fn new(ifindex: u32, bytes: Vec<u8>) -> Self {
        let for_us = true;
        let (ingress_ifindex, tagged, gso_size, partial_checksum) = (0, false, 0, false);
        Self {
            bytes,
            ifindex,
            ingress_ifindex,
            for_us,
            tagged,
            gso_size,
            partial_checksum,
            summed_at: None,
            has_crossed: false,
            copies: Vec::new(),
            again: Vec::new(),
        }
    }

    fn range(&self, at: u32, len: usize) -> Option<std::ops::Range<usize>> {
        let start = at as usize;
        (start + len <= self.bytes.len()).then_some(start..start + len)
    }
}

impl Headers for Frame {
    fn frame_len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        Some(bytemuck::pod_read_unaligned(&self.bytes[self.range(at, size_of::<T>())?]))
    }

    fn write<T: Pod>(&mut self, at: u32, header: T) -> Option<()> {
        let range = self.range(at, size_of::<T>())?;
        self.bytes[range].copy_from_slice(bytemuck::bytes_of(&header));
        Some(())
    }

    /// As `bpf_l4_csum_replace` does it (net/core/filter.c), with BPF_F_MARK_MANGLED_0 where zero means
    /// "none".
    fn update_checksum<F: Family>(
        &mut self,
        l4: u32,
        checksum: Checksum,
        addresses: Delta,
        ports: Delta,
    ) -> Option<()> {
        let mut sum: Be16 = self.read(l4 + checksum.at)?;
        if checksum.optional && sum == Be16::ZERO {
            return Some(());
        }
        if self.partial_checksum {
            if checksum.pseudo_header {
                // The field holds the sum of the pseudo header itself, not its complement.
                sum = Be16::from_raw(!addresses.apply(Be16::from_raw(!sum.raw())).raw());
            }
        } else {
            sum = checksum.follow(sum, addresses, ports);
        }
        self.write(l4 + checksum.at, sum)
    }

    fn reach(&mut self, at: u32, _: u32) -> u32 {
        at
    }

    /// Nobody has summed the whole frame.
    fn update_sum(&mut self, _: Delta) {}
}

impl Packet for Frame {
    fn has_vlan_tag(&self) -> bool {
        self.tagged
    }

    fn is_for_us(&self) -> bool {
        self.for_us
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn is_summed_in(&mut self, l4: u32, checksum: Option<Checksum>) -> bool {
        self.summed_at.is_none_or(|place| place >= l4 + checksum.map_or(0, |checksum| checksum.at))
    }

    fn is_left_to_device(&mut self, _: u32) -> bool {
        self.partial_checksum
    }

    fn mark_crossed(&mut self, has_crossed: bool) {
        self.has_crossed = has_crossed;
    }

    fn has_crossed(&self) -> bool {
        self.has_crossed
    }

    fn send_copy(&mut self, ifindex: u32) -> Option<()> {
        self.copies.push((ifindex, self.bytes.clone()));
        Some(())
    }

    fn save(&self, copy: &mut HeldFrame) -> Option<()> {
        copy.bytes.get_mut(..self.bytes.len())?.copy_from_slice(&self.bytes);
        copy.len = self.frame_len();
        Some(())
    }

    fn restore(&mut self, copy: &HeldFrame) -> Option<()> {
        self.bytes = copy.bytes[..copy.len as usize].to_vec();
        Some(())
    }

    fn receive_again(&mut self) -> Option<()> {
        self.again.push(self.bytes.clone());
        Some(())
    }

    fn change_header<F: Family>(&mut self, header: &F::Header) -> Option<()> {
        const V4: usize = 20;
        const V6: usize = 40;
        let old = if self.bytes.get(ETHERNET)? >> 4 == 4 { V4 } else { V6 };
        let place = self.range(ETHERNET as u32, old)?;
        self.bytes.splice(place, bytemuck::bytes_of(header).iter().copied());
        Some(())
    }

    fn resize(&mut self, len: u32) -> Option<()> {
        self.bytes.resize(len as usize, 0);
        self.gso_size = 0;
        Some(())
    }

    fn insert_header(&mut self, len: u32) -> Option<()> {
        // What is there is undefined; tests want to see it when it is not overwritten.
        self.bytes.splice(ETHERNET..ETHERNET, std::iter::repeat_n(0xa5, len as usize));
        Some(())
    }
}
