//! What becomes of a packet.

use super::{Family, Rewrite};
use crate::abi::{DropReason, NextHop};

/// What the hook is to do with the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// None of ours: on to the next program and the host's stack, untouched.
    Pass,
    /// Drop and count.
    Drop(DropReason),
    /// Nothing is left to do: copies of it are where they should be.
    Done,
    /// The other part of the path takes it on, which is for IPv6: in the kernel a program of its own, since the verifier counts
    /// by program.
    HandOver,
    /// Into the namespace behind the host-side device (`bpf_redirect_peer`; ahead of the host's stack by `bpf_redirect_map`).
    Peer {
        /// The host-side device.
        ifindex: u32,
    },
    /// Out of a device, MAC addresses by the neighbour table (`bpf_redirect_neigh`).
    Neighbour {
        /// The device.
        ifindex: u32,
        /// To whom.
        next_hop: NextHop,
    },
    /// Out of a device as it is (`bpf_redirect`).
    Device {
        /// The device.
        ifindex: u32,
    },
    /// Into the host's stack as if it had come in by the device (`bpf_redirect`, BPF_F_INGRESS).
    Ingress {
        /// The device.
        ifindex: u32,
    },
}

/// A decision: how the packet changes, and where it goes.
#[derive(Debug)]
pub struct Decision<F: Family> {
    /// What changes.
    pub rewrite: Rewrite<F>,
    /// Where it goes.
    pub verdict: Verdict,
}

impl<F: Family> Clone for Decision<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Decision<F> {}

/// Early exits of the paths.
pub(super) type Outcome<T> = Result<T, DropReason>;
