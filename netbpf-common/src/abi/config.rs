//! Settings of an instance.

use bytemuck::{Pod, Zeroable};

use super::TRANSLATOR_INDEX;
use crate::wire::{Address as _, Mac, V4Addr, V6Addr};

/// Which timeout a flow is under: an index into [`Config::timeouts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Timeout {
    /// TCP, opened, no answer yet.
    TcpSynSent = 0,
    /// TCP, answered, the handshake not complete.
    TcpSynRecv = 1,
    /// TCP, confirmed.
    TcpEstablished = 2,
    /// TCP, one side has sent a FIN.
    TcpFinWait = 3,
    /// TCP, both sides have sent a FIN, the last is not acknowledged.
    TcpClosing = 4,
    /// TCP, both sides have closed.
    TcpTimeWait = 5,
    /// TCP, a RST was seen.
    TcpReset = 6,
    /// UDP, no reply yet or one answer only.
    UdpUnreplied = 7,
    /// UDP, confirmed.
    UdpReplied = 8,
    /// ICMP echo and timestamp.
    Icmp = 9,
    /// SCTP, no reply yet or one answer only.
    SctpUnreplied = 10,
    /// SCTP, confirmed.
    SctpReplied = 11,
    /// Any other protocol.
    Other = 12,
    /// An endpoint-independent mapping that no flow uses.
    Mapping = 13,
}

/// Number of timeouts.
pub const TIMEOUTS: usize = 14;

impl Timeout {
    /// Default in seconds, as nf_conntrack has it (net/netfilter/nf_conntrack_proto_*.c). SCTP without a reply is under
    /// what UDP has there, since its handshake is not followed; mappings: RFC 4787 REQ-5.
    pub const DEFAULT_SECONDS: [u32; TIMEOUTS] = [120, 60, 432_000, 120, 30, 120, 10, 30, 120, 30, 30, 210, 600, 300];
}

/// Parts of each CPU's ring of half-open flows; the slot of the container that a flow concerns chooses its part, so
/// that a flood of one container ends half-open flows of few others.
pub const RING_SHARES: u32 = 16;

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
    /// First address of the /120 of virtual IPv6 addresses; the last byte is the virtual index.
    pub virtual_v6: V6Addr,
    /// MAC address of the gateway: of netbpf0 and of every host-side veth.
    pub gateway_mac: Mac,
    /// First port that masquerading gives out, in host order.
    pub nat_first: u16,
    /// Last port that masquerading gives out, in host order.
    pub nat_last: u16,
    /// Broadcasts and multicasts of an endpoint that are replicated, per second.
    pub broadcast_rate: u16,
    /// [`ConfigFlags`].
    pub flags: u32,
    /// Slots of one share of a CPU's ring of half-open flows, minus one; a power of two minus one.
    pub ring_mask: u32,
    /// Shares of the ring, minus one: [`RING_SHARES`] minus one, or zero for a ring that all share.
    pub share_mask: u32,
    /// Confirmed flows that one endpoint may have.
    pub flow_limit: u32,
    /// Where the resolver at the gateways' port 53 listens, in host order: another port, so that a resolver of the host can have
    /// that on all addresses, and a container publish it. 0 for none.
    pub dns_port: u16,
    /// Zero.
    pub padding: [u8; 6],
    /// By [`Timeout`], in jiffies.
    pub timeouts: [u64; TIMEOUTS],
}

impl Config {
    /// The address that IPv6 clients have towards containers with IPv4 alone.
    #[inline(always)]
    pub fn translator(&self) -> V4Addr {
        self.virtual_v4.with_last_byte(TRANSLATOR_INDEX as u8)
    }
}

/// Bits of [`Config::flags`].
pub struct ConfigFlags;

impl ConfigFlags {
    /// Some network has endpoint-independent mappings: whoever sends to a NAT port without a flow may mean one.
    pub const MAPPINGS: u32 = 1 << 0;
    /// Some network is reached by its containers' addresses: whatever comes may be for one.
    pub const REACHABLE: u32 = 1 << 1;
}
