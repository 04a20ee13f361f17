//! TCP (RFC 9293 section 3.1).

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32, checksum::Sum};

/// Control bits.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// The header without options: 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// Sequence number.
    pub seq: Be32,
    /// Acknowledgment number.
    pub ack: Be32,
    /// Header length in words of four bytes (high four bits).
    pub offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

impl Tcp {
    /// Length in bytes, without options.
    pub const LEN: u32 = 20;
    /// Most bytes of options there can be.
    pub const MAX_OPTIONS: u32 = 40;
    /// Option kinds (IANA): end of the list, no operation, maximum segment size (RFC 9293 section 3.7.1), window
    /// scale (RFC 7323 section 2.2).
    pub const END_OF_OPTIONS: u8 = 0;
    /// See [`Self::END_OF_OPTIONS`].
    pub const NO_OPERATION: u8 = 1;
    /// See [`Self::END_OF_OPTIONS`].
    pub const MAX_SEGMENT_SIZE: u8 = 2;
    /// See [`Self::END_OF_OPTIONS`].
    pub const WINDOW_SCALE: u8 = 3;

    /// Sum of the header, checksum field included.
    #[inline(always)]
    pub fn sum(&self) -> Sum {
        Sum::ZERO
            .add16(self.sport)
            .add16(self.dport)
            .add32(self.seq)
            .add32(self.ack)
            .add16(Be16::new(u16::from(self.offset) << 8 | u16::from(self.flags)))
            .add16(self.window)
            .add16(self.checksum)
            .add16(self.urgent)
    }

    /// The reset that answers a segment (RFC 9293 section 3.10.7.1), checksum still zero;
    /// `payload` is the segment's length in bytes, without SYN and FIN.
    #[inline(always)]
    #[must_use]
    pub fn reset(&self, payload: u32) -> Self {
        let acknowledged = self.flags & flags::ACK != 0;
        let control = u32::from(self.flags & flags::SYN != 0) + u32::from(self.flags & flags::FIN != 0);
        let (seq, ack, flags) = if acknowledged {
            (self.ack, Be32::ZERO, flags::RST)
        } else {
            let next = self.seq.get().wrapping_add(payload).wrapping_add(control);
            (Be32::ZERO, Be32::new(next), flags::RST | flags::ACK)
        };
        Self { sport: self.dport, dport: self.sport, seq, ack, offset: 5 << 4, flags, ..Self::default() }
    }
}
