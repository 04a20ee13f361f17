//! Settings of an instance.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Mac, V4Addr};

/// Which timeout a flow is under: an index into [`Config::timeouts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Timeout {
    /// TCP, SYN seen, not confirmed.
    TcpOpening = 0,
    /// TCP, confirmed.
    TcpEstablished = 1,
    /// TCP, one side has sent a FIN.
    TcpHalfClosed = 2,
    /// TCP, both sides have sent a FIN.
    TcpClosed = 3,
    /// TCP, a RST was seen.
    TcpReset = 4,
    /// UDP, no reply yet or one answer only.
    UdpUnreplied = 5,
    /// UDP, confirmed.
    UdpReplied = 6,
    /// ICMP echo.
    Icmp = 7,
    /// Any other protocol.
    Other = 8,
}

/// Number of timeouts.
pub const TIMEOUTS: usize = 9;

impl Timeout {
    /// Default in seconds, as nf_conntrack has it (net/netfilter/nf_conntrack_proto_*.c).
    pub const DEFAULT_SECONDS: [u32; TIMEOUTS] = [60, 432_000, 120, 120, 10, 30, 120, 30, 600];
}

/// What the programs need to know of their instance: the one element of `CONFIG`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`](super::ABI_VERSION) of who filled the maps.
    pub abi_version: u32,
    /// Ticks of `bpf_jiffies64` per second.
    pub hz: u32,
    /// Cookie of the host's network namespace (SO_NETNS_COOKIE); socket hooks act in no other.
    pub netns_cookie: u64,
    /// ifindex of netbpf0.
    pub host_ifindex: u32,
    /// ifindex of netbpf1, the device that route lookups name as their input.
    pub route_ifindex: u32,
    /// First address of the /24 of virtual addresses; the last byte is the virtual index.
    pub virtual_v4: V4Addr,
    /// MAC address of the gateway: of netbpf0 and of every host-side veth.
    pub gateway_mac: Mac,
    /// First port that masquerading gives out, in host order.
    pub nat_first: u16,
    /// Last port that masquerading gives out, in host order.
    pub nat_last: u16,
    /// Zero.
    pub reserved: [u16; 3],
    /// Slots in use of each CPU's ring of half-open flows, minus one; a power of two minus one.
    pub ring_mask: u32,
    /// By [`Timeout`], in jiffies.
    pub timeouts: [u64; TIMEOUTS],
}
