//! Frames as a virtual machine hands them to its host: with word of what is left to the device.

use std::io::{self, Write};
use std::mem::size_of_val;
use std::os::fd::AsRawFd;

use nix::libc;
use socket2::Socket;

use crate::link::bound;
use crate::place::Place;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM (include/uapi/linux/virtio_net.h).
const NEEDS_CHECKSUM: u8 = 1;

/// Where a checksum is written, and over what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftSum {
    /// The first byte that is summed up: all from there on are.
    pub start: u16,
    /// The place of the checksum, in bytes from there.
    pub offset: u16,
}

/// A device that finishes the frames it is given.
#[derive(Debug)]
pub struct VnetLink {
    socket: Socket,
}

impl VnetLink {
    /// Opens a device.
    ///
    /// # Panics
    /// When there is no such device.
    #[track_caller]
    pub fn open(place: &Place, device: &str) -> Self {
        let socket = bound(place, device);
        let on: libc::c_int = 1;
        let (value, length) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
        // SAFETY: the kernel reads a whole int.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, value, length) };
        assert_eq!(set, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        Self { socket }
    }

    /// Sends a frame, and leaves a checksum to the device at any place whatever.
    ///
    /// # Panics
    /// When the device does not take it.
    #[track_caller]
    pub fn send(&self, frame: &[u8], sum: LeftSum) {
        let numbers = [0, 0, sum.start, sum.offset].map(u16::to_ne_bytes).concat();
        let whole = [&[NEEDS_CHECKSUM, 0][..], &numbers, frame].concat();
        (&self.socket).write_all(&whole).expect("the device takes a frame");
    }
}
