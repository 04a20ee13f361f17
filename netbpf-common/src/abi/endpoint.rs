//! Endpoints (the network ends of containers), networks and uplinks.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Address, Mac, V4Addr, V6Addr};

/// Places in the `ENDPOINTS` array, a power of two.
///
/// The host-side device of the endpoint in slot `s` has an ifindex that is `s` modulo this number,
/// so that a packet finds its endpoint by an array read; the agent chooses ifindexes accordingly.
/// Slot 0 is never used.
pub const ENDPOINT_SLOTS: u32 = 4096;

/// A container's end of a network. All zero: a free slot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// Never 0 in use, and never the same twice for one slot: what flows check before they deliver.
    pub generation: u32,
    /// The host-side device; its number modulo [`ENDPOINT_SLOTS`] is the slot.
    pub ifindex: u32,
    /// IPv4 address; zero for none.
    pub v4: V4Addr,
    /// IPv6 address; zero for none.
    pub v6: V6Addr,
    /// MAC address of the container's end.
    pub mac: Mac,
    /// Index into `NETWORKS`.
    pub network: u16,
    /// MTU of its device, in bytes.
    pub mtu: u16,
    /// [`EndpointFlags`].
    pub flags: u16,
}

/// Bits of [`Endpoint::flags`].
pub struct EndpointFlags;

impl EndpointFlags {
    /// The device has no peer in another namespace: what is for the endpoint goes out of the device itself, as for a tap of a
    /// virtual machine.
    pub const NO_PEER: u16 = 1 << 0;
}

/// One family's part of a network. A zero mask: the network does not have the family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Subnet<A> {
    /// First address of the subnet.
    pub address: A,
    /// Its netmask.
    pub mask: A,
    /// The gateway's address, which is the host's on netbpf0.
    pub gateway: A,
    /// First address of the subnet that this one is seen as outside, for [`GatewayMode::Prefix`]; the address to masquerade
    /// under where that is not the uplink's.
    pub external: A,
    /// A [`GatewayMode`].
    pub mode: u32,
}

impl<A: Address> Subnet<A> {
    /// Whether the address lies in the subnet.
    #[inline(always)]
    pub fn contains(&self, address: A) -> bool {
        self.mask != A::default() && address.and(self.mask) == self.address
    }
}

/// How containers of a subnet reach the world, and the world them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum GatewayMode {
    /// Not at all.
    Closed = 0,
    /// Under the uplink's address; the world reaches published ports.
    Masquerade = 1,
    /// Under their own addresses, by which the world reaches them.
    Routed = 2,
    /// Under the addresses that theirs are translated to one to one (RFC 6296), by which the world reaches them.
    Prefix = 3,
    /// Under their own addresses; the world reaches published ports.
    Plain = 4,
}

impl GatewayMode {
    /// From the number in a subnet.
    #[inline(always)]
    pub const fn from_u32(mode: u32) -> Self {
        match mode {
            1 => Self::Masquerade,
            2 => Self::Routed,
            3 => Self::Prefix,
            4 => Self::Plain,
            _ => Self::Closed,
        }
    }
}

/// Places in the `NETWORKS` array. Number 0 is never used.
pub const NETWORKS: u32 = 256;

/// A network.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Network {
    /// IPv4 part.
    pub v4: Subnet<V4Addr>,
    /// IPv6 part.
    pub v6: Subnet<V6Addr>,
    /// [`NetworkFlags`].
    pub flags: u32,
}

/// Bits of [`Network::flags`].
pub struct NetworkFlags;

impl NetworkFlags {
    /// A container's port has the same NAT port towards everybody, and everybody can send to it (RFC 4787 REQ-1, REQ-8:
    /// endpoint-independent mapping and filtering, "full cone").
    pub const FULL_CONE: u32 = 1 << 0;
    /// The MSS that TCP SYNs to the world announce is held down to what the way out takes.
    pub const CLAMP_MSS: u32 = 1 << 1;
    /// Nothing goes out or comes in: containers reach each other, and of the host a resolver at the gateway's address.
    pub const INTERNAL: u32 = 1 << 2;
    /// Containers of other networks that are open too are reached, and reach it.
    pub const OPEN: u32 = 1 << 3;
}

/// A device to the world.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Uplink {
    /// The address masqueraded IPv4 packets leave with; zero: the device has none.
    pub v4: V4Addr,
    /// The same for IPv6.
    pub v6: V6Addr,
    /// [`UplinkFlags`].
    pub flags: u32,
    /// Its MAC address; zero where it has none.
    pub mac: Mac,
    /// Zero.
    pub padding: u16,
}

/// Bits of [`Uplink::flags`].
pub struct UplinkFlags;

impl UplinkFlags {
    /// Our program is attached to it: replies will be understood.
    pub const ATTACHED: u32 = 1 << 0;
    /// Its packets have no Ethernet header.
    pub const BARE: u32 = 1 << 1;
}
