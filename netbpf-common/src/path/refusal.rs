//! Why a packet does not go on, and how functions with stack frames of their own say it.

use super::family::IcmpError;
use crate::abi::DropReason;

/// Why a packet does not go on, and what its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Nothing.
    Drop(DropReason),
    /// An ICMP error.
    Icmp(IcmpError),
    /// A TCP reset: its connection ended with what it was decided on.
    Reset,
}

/// What a function with a stack frame of its own tells its caller: BPF functions return a number. The high half says
/// which, the low half carries a value. A path works with these up to its end, since the verifier follows the payload
/// of a verdict even where it has none.
pub(super) mod code {
    /// The packet goes on, the flow is good.
    pub(in crate::path) const GOOD: u64 = 0;
    /// No flow any more.
    pub(in crate::path) const MISS: u64 = 1 << 32;
    /// [`Refusal::Drop`](super::Refusal::Drop) with its reason.
    pub(in crate::path) const DROP: u64 = 2 << 32;
    /// [`Refusal::Reset`](super::Refusal::Reset).
    pub(in crate::path) const RESET: u64 = 3 << 32;
    /// ICMP host unreachable.
    pub(in crate::path) const HOST_UNREACHABLE: u64 = 4 << 32;
    /// ICMP time exceeded.
    pub(in crate::path) const TIME_EXCEEDED: u64 = 5 << 32;
    /// ICMP fragmentation needed with the MTU.
    pub(in crate::path) const TOO_BIG: u64 = 6 << 32;
    /// [`Verdict::Peer`](super::super::Verdict::Peer) with the ifindex.
    pub(in crate::path) const PEER: u64 = 7 << 32;
    /// [`Verdict::Neighbour`](super::super::Verdict::Neighbour) with the ifindex; the next hop is the flow's.
    pub(in crate::path) const NEIGHBOUR: u64 = 8 << 32;
    /// [`Verdict::Device`](super::super::Verdict::Device) with the ifindex.
    pub(in crate::path) const DEVICE: u64 = 9 << 32;
    /// [`Verdict::Ingress`](super::super::Verdict::Ingress) with the ifindex.
    pub(in crate::path) const INGRESS: u64 = 10 << 32;
    /// [`Verdict::Pass`](super::super::Verdict::Pass).
    pub(in crate::path) const PASS: u64 = 11 << 32;
    /// ICMP communication prohibited, with the reason.
    pub(in crate::path) const PROHIBITED: u64 = 14 << 32;
    /// The flow is good, once it has the NAT port of an endpoint-independent mapping.
    pub(in crate::path) const MAPPED: u64 = 13 << 32;
    /// [`Verdict::Done`](super::super::Verdict::Done).
    pub(in crate::path) const DONE: u64 = 12 << 32;
    /// [`Verdict::HandOver`](super::super::Verdict::HandOver).
    pub(in crate::path) const HAND_OVER: u64 = 15 << 32;
}

/// Splits a [`code`] into which and value.
#[inline(always)]
pub(super) const fn split(code: u64) -> (u64, u32) {
    (code & !0xffff_ffff, code as u32)
}

impl Refusal {
    /// As a [`code`].
    #[inline(always)]
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Drop(reason) => code::DROP | reason as u64,
            Self::Reset => code::RESET,
            Self::Icmp(IcmpError::Prohibited(reason)) => code::PROHIBITED | reason as u64,
            Self::Icmp(IcmpError::HostUnreachable) => code::HOST_UNREACHABLE,
            Self::Icmp(IcmpError::TimeExceeded) => code::TIME_EXCEEDED,
            Self::Icmp(IcmpError::TooBig(mtu)) => code::TOO_BIG | mtu as u64,
        }
    }

    /// From a [`code`] that says one.
    #[inline(always)]
    pub(super) const fn from_code(code: u64) -> Option<Self> {
        match split(code) {
            (code::DROP, reason) => match DropReason::from_u32(reason) {
                Some(reason) => Some(Self::Drop(reason)),
                None => Some(Self::Drop(DropReason::Internal)),
            },
            (code::PROHIBITED, reason) => match DropReason::from_u32(reason) {
                Some(reason) => Some(Self::Icmp(IcmpError::Prohibited(reason))),
                None => Some(Self::Drop(DropReason::Internal)),
            },
            (code::RESET, _) => Some(Self::Reset),
            (code::HOST_UNREACHABLE, _) => Some(Self::Icmp(IcmpError::HostUnreachable)),
            (code::TIME_EXCEEDED, _) => Some(Self::Icmp(IcmpError::TimeExceeded)),
            (code::TOO_BIG, mtu) => Some(Self::Icmp(IcmpError::TooBig(mtu as u16))),
            _ => None,
        }
    }
}

impl Refusal {
    /// What a [`code`] says if it is none.
    #[inline(always)]
    pub(super) const fn or(code: u64) -> Result<u64, Self> {
        match Self::from_code(code) {
            Some(refusal) => Err(refusal),
            None => Ok(code),
        }
    }

    /// The same, told to the sender if something is used up: it need not wait for what does not come.
    #[inline(always)]
    pub(super) const fn prompt(self) -> Self {
        match self {
            Self::Drop(reason @ (DropReason::NoPort | DropReason::TableFull | DropReason::FlowLimit)) => {
                Self::Icmp(IcmpError::Prohibited(reason))
            }
            other => other,
        }
    }

    /// Both as a [`code`].
    #[inline(always)]
    pub(super) const fn either(result: Result<u64, Self>) -> u64 {
        match result {
            Ok(code) => code,
            Err(refusal) => refusal.code(),
        }
    }

    /// The reason this is counted under.
    #[inline(always)]
    pub(super) fn reason(self) -> DropReason {
        match self {
            Self::Drop(reason) => reason,
            Self::Icmp(IcmpError::HostUnreachable) => DropReason::NoEndpoint,
            Self::Icmp(IcmpError::Prohibited(reason)) => reason,
            Self::Icmp(IcmpError::TimeExceeded) => DropReason::TtlExceeded,
            Self::Icmp(IcmpError::TooBig(_)) => DropReason::TooBig,
            Self::Reset => DropReason::StaleFlow,
        }
    }
}

/// What the code of a refusal or [`code::GOOD`] means.
#[inline(always)]
pub(super) const fn checked(code: u64) -> Result<(), Refusal> {
    match Refusal::or(code) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}
