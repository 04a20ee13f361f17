//! The flow table: one hash, two entries per flow (design: "No half flows").
//!
//! The O entry is found by the packets of the originator, the R entry by the replies. Each names
//! the other in [`Flow::other`], and that is also the rewrite: a packet leaves with the addresses
//! and ports of the other entry's key, turned round.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Be16, Be32, checksum::Delta};

/// From which side a packet with this key comes. Keeps a packet from outside that pretends to be a
/// container's from finding a container's flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Scope {
    /// From outside, by an uplink.
    Uplink = 1,
    /// From the host's own stack, by netbpf0.
    Host = 2,
    /// From a container.
    Container = 3,
}

/// What identifies the packets of one direction of a flow.
///
/// ICMP echo carries its identifier as the port of the asking side (RFC 5508 section 3.1): a
/// request as `sport`, a reply as `dport`; the other is zero. Protocols without ports have both zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// A [`Scope`].
    pub scope: u16,
    /// IP protocol number.
    pub proto: u8,
    zero: u8,
}

impl<A: Copy> FlowKey<A> {
    /// A key.
    #[inline(always)]
    pub const fn new(scope: Scope, proto: u8, src: A, sport: Be16, dst: A, dport: Be16) -> Self {
        Self { src, dst, sport, dport, scope: scope as u16, proto, zero: 0 }
    }

    /// The same tuple seen from the other end, where packets come from `scope`.
    #[inline(always)]
    pub const fn reversed(&self, scope: Scope) -> Self {
        Self::new(scope, self.proto, self.dst, self.dport, self.src, self.sport)
    }
}

/// How far the life of a flow has gone. The low two bits of a [`Word`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Nothing of a flow yet: an empty ring slot, or an entry that is being made.
    None,
    /// Made, not confirmed: may be evicted.
    Half,
    /// Confirmed: the originator spoke again after a reply.
    Established,
    /// Somebody has won the right to delete it.
    Dead,
}

/// The authoritative word of a flow, `id << 8 | bits`, changed by compare-and-swap alone. It lives
/// in the O entry; the R entry holds a copy that may lag behind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct Word(pub u64);

impl Word {
    const LIFE: u64 = 0b11;
    /// The reply side has spoken.
    pub const REPLIED: u64 = 1 << 2;
    /// The originator has sent a FIN.
    pub const FIN_ORIGINAL: u64 = 1 << 3;
    /// The reply side has sent a FIN.
    pub const FIN_REPLY: u64 = 1 << 4;
    /// A RST was seen, and nothing since.
    pub const RESET: u64 = 1 << 5;
    /// Both FINs were seen, and an acknowledgment after them.
    pub const TIME_WAIT: u64 = 1 << 6;
    /// No flow but an endpoint-independent mapping: of a container's port to everybody.
    pub const MAPPING: u64 = 1 << 7;
    /// A FIN or RST was seen: the next SYN with this key opens a new flow.
    pub const CLOSING: u64 = Self::FIN_ORIGINAL | Self::FIN_REPLY | Self::RESET;

    /// A new, half-open flow.
    #[inline(always)]
    pub const fn half(id: u64) -> Self {
        Self(id << 8 | 1)
    }

    /// The same while the flow is being made.
    #[inline(always)]
    #[must_use]
    pub const fn unborn(self) -> Self {
        Self(self.0 & !Self::LIFE)
    }

    /// Whether it is made and not ended.
    #[inline(always)]
    pub const fn is_alive(self) -> bool {
        matches!(self.life(), Life::Half | Life::Established)
    }

    /// How far it has gone.
    #[inline(always)]
    pub const fn life(self) -> Life {
        match self.0 & Self::LIFE {
            0 => Life::None,
            1 => Life::Half,
            2 => Life::Established,
            _ => Life::Dead,
        }
    }

    /// The flow's number, unique within an instance.
    #[inline(always)]
    pub const fn id(self) -> u64 {
        self.0 >> 8
    }

    /// Whether both are about the same flow.
    #[inline(always)]
    pub const fn same_flow(self, other: Self) -> bool {
        (self.0 ^ other.0) >> 8 == 0
    }

    /// Whether any of these bits is set.
    #[inline(always)]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// With these bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// With these bits cleared.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }

    /// Confirmed.
    #[inline(always)]
    #[must_use]
    pub const fn established(self) -> Self {
        Self((self.0 & !Self::LIFE) | 2)
    }

    /// To be deleted by whoever swaps this in.
    #[inline(always)]
    #[must_use]
    pub const fn dead(self) -> Self {
        Self(self.0 | Self::LIFE)
    }
}

/// A place in `GENERATIONS` and what it held: equal still means "decided on what is still so".
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Stamp {
    /// Index into `GENERATIONS`.
    pub slot: u32,
    /// The generation the decision was made on.
    pub generation: u32,
}

/// What the sender of one direction of a TCP connection has said last: enough to tell a FIN, a RST or the end of a
/// handshake that belongs to the connection from one that somebody guessed (RFC 5961).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Sent {
    /// The sequence number after its last segment, in host order.
    pub end: u32,
    /// What it has acknowledged, in host order.
    pub ack: u32,
    /// Its window as it stands in the header.
    pub window: u16,
    /// Shift count of its windows (RFC 7323 section 2.2), if [`Sent::SCALED`].
    pub scale: u8,
    /// What of this is known, see the constants.
    pub known: u8,
}

impl Sent {
    /// [`Sent::end`] counts: it has sent something.
    pub const END: u8 = 1 << 0;
    /// [`Sent::ack`] and [`Sent::window`] count: it has acknowledged something.
    pub const ACK: u8 = 1 << 1;
    /// [`Sent::scale`] counts: its SYN was seen.
    pub const SCALED: u8 = 1 << 2;
    /// What it has sent last was its SYN.
    pub const SYN: u8 = 1 << 3;
}

/// Where a packet of this entry goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TargetKind {
    /// Into the endpoint whose slot is [`Flow::target`].
    Endpoint = 1,
    /// Out of the uplink whose ifindex is [`Flow::uplink`], to [`Flow::next_hop`].
    World = 2,
    /// To the host's own stack, by netbpf0.
    Host = 3,
}

impl TargetKind {
    /// From the byte in a flow entry.
    #[inline(always)]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Endpoint),
            2 => Some(Self::World),
            3 => Some(Self::Host),
            _ => None,
        }
    }
}

/// The next hop towards the world, as `struct bpf_redir_neigh` has it: of either family, since an
/// IPv4 route may have an IPv6 gateway (RFC 8950).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NextHop {
    /// AF_INET (2) or AF_INET6 (10).
    pub family: u32,
    /// The address; IPv4 uses the first word.
    pub address: [Be32; 4],
}

/// One direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Flow<A> {
    /// Authoritative in the O entry, a copy in the R entry.
    pub word: Word,
    /// Time of the last packet of this direction, in jiffies (`bpf_jiffies64`).
    pub seen: u64,
    /// Packets of this direction. A GSO packet counts as one.
    pub packets: u64,
    /// Bytes of this direction from the IP header on.
    pub bytes: u64,
    /// Key of the other entry; turned round, the addresses and ports packets leave with.
    pub other: FlowKey<A>,
    /// Change of the addresses, for the IPv4 header and for checksums with a pseudo header.
    pub address_delta: Delta,
    /// Change of the ports or the echo identifier.
    pub port_delta: Delta,
    /// What the decision rests on besides the endpoints.
    pub owner: Stamp,
    /// Next hop, for [`TargetKind::World`].
    pub next_hop: NextHop,
    /// Endpoint slot, for [`TargetKind::Endpoint`].
    pub target: u32,
    /// Generation of the target endpoint.
    pub target_generation: u32,
    /// Device to the world, for [`TargetKind::World`]. Apart from `target`, which a late
    /// [`reroute`](crate::path::FlowEntry::reroute) must not hit.
    pub uplink: u32,
    /// The epoch the route was looked up in.
    pub route_epoch: u32,
    /// Generation of the endpoint that sends in this direction; 0 when the sender is none.
    pub source_generation: u32,
    /// When the route was last looked up, in jiffies, truncated.
    pub routed: u32,
    /// TCP: what the sender of this direction has said last.
    pub sent: Sent,
    /// Slot of the endpoint that the flow is counted for, in both entries: who began it, else whom it leads to.
    pub payer: u32,
    /// Largest packet the way out takes, in bytes from the IP header on; 0 for any.
    pub mtu: u16,
    /// A [`TargetKind`].
    pub target_kind: u8,
    /// 1 in the R entry, 0 in the O entry.
    pub is_reply: u8,
    /// Key of this entry.
    pub key: FlowKey<A>,
}

/// Most flow keys that one run of the program `collect` takes: they fit into the page of a packet. A power of two.
pub const COLLECT_KEYS: usize = 64;

/// A half-open flow in the ring of evictable flows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct RingSlot<A> {
    /// Key of its O entry.
    pub original: FlowKey<A>,
    /// Its word when it was made; zero for an empty slot.
    pub word: Word,
}
