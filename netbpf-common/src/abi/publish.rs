//! Published ports: rules, and how a packet finds its rule.

use bytemuck::{Pod, Zeroable};

/// Places in `RULES`. Rule 0 is none.
pub const RULES: u32 = 1 << 17;

/// Ports of one transport.
pub const PORTS: u32 = 1 << 16;

/// Places in a `PORTS` array: one per transport and port.
pub const PORT_TABLE: u32 = 3 * PORTS;

/// 64-bit words in `KEPT_PORTS`.
pub const KEPT_WORDS: u32 = PORT_TABLE / 64;

/// Places in a `VIRTUALS` array: the addresses of a /24 or /120.
pub const VIRTUALS: u32 = 256;

/// Virtual index of the loopback address: of ::1, and of 127.0.0.1, which stands for all of 127.0.0.0/8.
pub const LOOPBACK_INDEX: u32 = 1;

/// Last byte of the virtual IPv4 address that IPv6 clients have towards containers with IPv4 alone; no virtual index.
pub const TRANSLATOR_INDEX: u32 = VIRTUALS - 1;

/// Places in `GENERATIONS`: the epochs, then one per rule.
pub const GENERATIONS: u32 = generation::FIRST_RULE + RULES;

/// Indexes into `GENERATIONS`.
pub mod generation {
    /// Never changes: owner of flows that rest on their endpoints alone.
    pub const ALWAYS: u32 = 0;
    /// Changes with every publish and unpublish: owner of flows to the host that no rule claimed.
    pub const PUBLISH_EPOCH: u32 = 1;
    /// Changes with every route, uplink and uplink address: entries that lead to the world ask for their route again.
    pub const ROUTE_EPOCH: u32 = 2;
    /// The last endpoint generation given out. Pinned with the map, so it never goes back.
    pub const LAST_ENDPOINT: u32 = 3;
    /// Rule `r` has its generation at `FIRST_RULE + r`.
    pub const FIRST_RULE: u32 = 16;
}

/// Transports that have ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u32)]
pub enum Transport {
    /// RFC 9293.
    Tcp = 0,
    /// RFC 768.
    Udp = 1,
    /// RFC 9260.
    Sctp = 2,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// By IP protocol number.
    #[inline(always)]
    pub const fn from_protocol(proto: u8) -> Option<Self> {
        match proto {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// IP protocol number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Index of the port (host order) in the `PORTS` arrays and in the `KEPT_PORTS` bitmap.
    #[inline(always)]
    pub const fn port_index(self, port: u16) -> u32 {
        self as u32 * PORTS + port as u32
    }
}

/// What a port is published as. All zero: not at all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PublishedPort {
    /// Rule for every address of the host; 0 for none.
    pub wildcard: u32,
    /// Number of publishes of this port on single addresses: is a look into `PUBLISHED` worth it?
    pub specific: u32,
}

/// Key of a publish on one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct PublishKey<A> {
    /// Address of the host.
    pub address: A,
    /// Port of the host, in host order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    zero: u8,
}

impl<A> PublishKey<A> {
    /// A key.
    #[inline(always)]
    pub const fn new(address: A, transport: Transport, port: u16) -> Self {
        Self { address, port, proto: transport.protocol(), zero: 0 }
    }
}

/// A publish: a range of host ports led to a range of container ports of equal length.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Rule {
    /// Slot of the endpoint.
    pub endpoint: u32,
    /// Generation of the endpoint that the rule was made for.
    pub generation: u32,
    /// First host port, in host order.
    pub host_port: u16,
    /// The container port it is led to, in host order; the following ports follow.
    pub container_port: u16,
    /// [`RuleFlags`].
    pub flags: u32,
}

/// Bits of [`Rule::flags`].
pub struct RuleFlags;

impl RuleFlags {
    /// Only who is in `ALLOWED` is led to the container.
    pub const RESTRICTED: u32 = 1 << 0;
    /// And only who comes in by the device that he is there with; without this bit that is 0.
    pub const BY_DEVICE: u32 = 1 << 1;
}

/// Who comes to a publish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct Visitor<A> {
    /// Number of the rule.
    pub rule: u32,
    /// The device he comes in by; 0 for any, or for none.
    pub ifindex: u32,
    /// His address.
    pub address: A,
}

/// Visitors that begin alike: a key of the `ALLOWED` trie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct Visitors<A> {
    /// How many bits of `first` all have.
    pub bits: u32,
    /// The first of them.
    pub first: Visitor<A>,
}

impl<A> Visitors<A> {
    /// Those of a rule who come in by a device (0: by any) with an address of a prefix.
    pub const fn new(rule: u32, ifindex: u32, prefix: A, length: u32) -> Self {
        const BEFORE: u32 = 2 * u32::BITS;
        Self { bits: BEFORE + length, first: Visitor { rule, ifindex, address: prefix } }
    }

    /// A single one, to look for.
    #[inline(always)]
    pub const fn one(visitor: Visitor<A>) -> Self {
        Self { bits: size_of::<Visitor<A>>() as u32 * u8::BITS, first: visitor }
    }
}

impl Rule {
    /// The container port (host order) for a host port (host order) of the range.
    #[inline(always)]
    pub const fn container_port_for(&self, host_port: u16) -> u16 {
        self.container_port.wrapping_add(host_port.wrapping_sub(self.host_port))
    }
}
