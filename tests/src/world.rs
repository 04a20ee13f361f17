//! One small world in which packets of fixtures travel: two containers on a network, one on
//! another, an uplink, some publishes. Tier 0 builds it in memory, tier 1 in the kernel's maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::{
    ABI_VERSION, Config, DropReason, ENDPOINT_SLOTS, Endpoint, GatewayMode, LOOPBACK_INDEX, Network, NextHop, Rule,
    Subnet, Timeout, Transport, Uplink, UplinkFlags,
};
use netbpf_common::path::{V4, V6};
use netbpf_common::wire::{Address as _, Mac, V4Addr, V6Addr};

use crate::family::{TestFamily, nth};
use crate::packet;

/// Ticks per second.
pub const HZ: u32 = 250;
/// The uplink.
pub const UPLINK: u32 = 20;
/// netbpf0.
pub const HOST_DEVICE: u32 = 21;
/// netbpf1.
pub const ROUTE_DEVICE: u32 = 22;
/// A device without our program.
pub const FOREIGN: u32 = 23;
/// MAC address of the uplink.
pub const UPLINK_MAC: packet::Mac = [2, 0, 0, 0, 0, 0x20];
/// MAC address of [`TestFamily::OUTSIDE`].
pub const OUTSIDE_MAC: packet::Mac = [2, 0, 0, 0, 0, 0x99];
/// MAC address of the gateway.
pub const GATEWAY_MAC: packet::Mac = [2, 0, 0, 0, 0, 0xfe];
/// Whom containers with IPv4 alone see in place of IPv6 clients.
pub const TRANSLATOR: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 30, 255));
/// Offset of the IP header in a frame: the length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// First NAT port.
pub const NAT_FIRST: u16 = 16_384;
/// Last NAT port.
pub const NAT_LAST: u16 = 32_767;
/// MTU of the way out and of endpoints' devices, in bytes.
pub const MTU: u16 = 1500;

/// A container.
#[derive(Clone, Copy, Debug)]
pub struct Container {
    /// Slot of its endpoint.
    pub slot: u32,
    /// Network number.
    pub network: u16,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// MAC address.
    pub mac: packet::Mac,
}

impl Container {
    /// Its host-side device.
    pub const fn device(&self) -> u32 {
        16 * ENDPOINT_SLOTS + self.slot
    }

    /// Its address.
    pub fn ip<F: TestFamily>(&self) -> IpAddr {
        F::address_of(&self.endpoint(GENERATION)).into()
    }

    /// Its address in the family of another.
    pub const fn ip_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }

    /// Its entry in the table of endpoints.
    pub fn endpoint(&self, generation: u32) -> Endpoint {
        Endpoint {
            generation,
            ifindex: self.device(),
            v4: self.v4.into(),
            v6: self.v6.into(),
            mac: Mac::new(self.mac),
            network: self.network,
            mtu: MTU,
            flags: 0,
        }
    }
}

/// The first container of the first network.
pub const C1: Container = container(5, 1, 11);
/// The second container of the first network.
pub const C2: Container = container(6, 1, 12);
/// A container of another network.
pub const C3: Container = container(7, 2, 11);
/// All of them.
pub const CONTAINERS: [Container; 3] = [C1, C2, C3];

/// The container in a slot, with this number in its network.
const fn container(slot: u32, network: u16, number: u8) -> Container {
    let third = 29 + network as u8;
    Container {
        slot,
        network,
        v4: Ipv4Addr::new(172, third, 0, number),
        // Numbers are read as they are written: network 30 is fd00:30::/64.
        v6: Ipv6Addr::new(0xfd00, 0x2f + network, 0, 0, 0, 0, 0, decimal(number)),
        mac: [2, 0x42, 172, third, 0, number],
    }
}

/// The number whose hexadecimal digits are the decimal ones of another.
const fn decimal(number: u8) -> u16 {
    number as u16 / 10 * 16 + number as u16 % 10
}

/// The rings of the members of both networks: from each slot to the next.
pub fn members() -> [(u32, u32); 3] {
    [(C1.slot, C2.slot), (C2.slot, C1.slot), (C3.slot, C3.slot)]
}

/// A publish of the world.
#[derive(Clone, Copy, Debug)]
pub struct Publish {
    /// Rule number.
    pub rule: u32,
    /// Whether it is on the loopback address alone, and not on all that the host has.
    pub is_on_loopback: bool,
    /// Transport.
    pub transport: Transport,
    /// First host port.
    pub host_port: u16,
    /// Number of ports.
    pub count: u16,
    /// Where to.
    pub container: Container,
    /// First container port.
    pub container_port: u16,
}

/// Generation of all endpoints and rules when the world begins.
pub const GENERATION: u32 = 1;

impl Publish {
    /// Its host ports.
    pub const fn host_ports(&self) -> std::ops::Range<u16> {
        self.host_port..self.host_port + self.count
    }

    /// Its entry in the table of rules.
    pub const fn rule(&self) -> Rule {
        Rule {
            endpoint: self.container.slot,
            generation: GENERATION,
            host_port: self.host_port,
            container_port: self.container_port,
            flags: 0,
        }
    }
}

/// All of them.
pub const PUBLISHES: [Publish; 4] = [
    Publish {
        rule: 1,
        is_on_loopback: false,
        transport: Transport::Tcp,
        host_port: 8080,
        count: 1,
        container: C1,
        container_port: 80,
    },
    Publish {
        rule: 2,
        is_on_loopback: false,
        transport: Transport::Udp,
        host_port: 5353,
        count: 1,
        container: C2,
        container_port: 53,
    },
    Publish {
        rule: 3,
        is_on_loopback: true,
        transport: Transport::Tcp,
        host_port: 9090,
        count: 1,
        container: C1,
        container_port: 90,
    },
    Publish {
        rule: 4,
        is_on_loopback: false,
        transport: Transport::Udp,
        host_port: 7000,
        count: 10,
        container: C2,
        container_port: 17_000,
    },
];

/// Addresses of the host with their virtual index.
pub const fn locals<F: TestFamily>() -> [(IpAddr, u32); 3] {
    [(F::LOOPBACK, LOOPBACK_INDEX), (F::HOST, 2), (F::GATEWAY, 3)]
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    /// The first.
    pub address: IpAddr,
    /// The bits that are the same.
    pub mask: IpAddr,
}

impl Prefix {
    /// How many those are.
    pub const fn length(self) -> u32 {
        match self.mask {
            IpAddr::V4(mask) => mask.to_bits().leading_ones(),
            IpAddr::V6(mask) => mask.to_bits().leading_ones(),
        }
    }

    fn subnet<F: TestFamily>(self) -> Subnet<F::Addr> {
        let Self { address, mask } = self;
        Subnet {
            address: F::addr(address),
            mask: F::addr(mask),
            gateway: F::addr(nth(address, 1)),
            mode: GatewayMode::Masquerade as u32,
            ..Subnet::default()
        }
    }
}

/// Networks by number.
pub fn networks() -> [(u32, Network); 2] {
    [0, 1].map(|place| {
        let network = Network {
            v4: V4::NETWORKS[place].subnet::<V4>(),
            v6: V6::NETWORKS[place].subnet::<V6>(),
            ..Network::default()
        };
        (place as u32 + 1, network)
    })
}

/// The uplink's entry.
pub fn uplink() -> Uplink {
    Uplink {
        v4: V4::addr(V4::HOST),
        v6: V6::addr(V6::HOST),
        flags: UplinkFlags::ATTACHED,
        mac: netbpf_common::wire::Mac::new(UPLINK_MAC),
        padding: 0,
    }
}

/// The uplink's entry when it has another address of a family.
pub fn uplink_at(address: IpAddr) -> Uplink {
    match address {
        IpAddr::V4(v4) => Uplink { v4: v4.into(), ..uplink() },
        IpAddr::V6(v6) => Uplink { v6: v6.into(), ..uplink() },
    }
}

/// The routes: device and next hop on the way to an address.
///
/// # Errors
/// When there is no way.
pub const fn way(to: IpAddr) -> Result<(u32, IpAddr), DropReason> {
    Ok(match to {
        IpAddr::V4(address) => match address.octets() {
            [198, 18, 0, _] => (UPLINK, to),
            [10, 66, ..] => return Err(DropReason::NoRoute),
            [10, 77, ..] => (FOREIGN, to),
            [172, 30 | 31, ..] => (HOST_DEVICE, to),
            _ => (UPLINK, V4::OUTSIDE),
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd00, 0x18, ..] => (UPLINK, to),
            [0xfd00, 0x66, ..] => return Err(DropReason::NoRoute),
            [0xfd00, 0x77, ..] => (FOREIGN, to),
            [0xfd00, 0x30 | 0x31, ..] => (HOST_DEVICE, to),
            _ => (UPLINK, V6::OUTSIDE),
        },
    })
}

/// A next hop.
pub fn neighbour(address: IpAddr) -> NextHop {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    match address {
        IpAddr::V4(address) => NextHop { family: AF_INET, address: V4Addr::from(address).words() },
        IpAddr::V6(address) => NextHop { family: AF_INET6, address: V6Addr::from(address).words() },
    }
}

/// Settings; `ring` is the size of the ring of half-open flows.
pub fn config(ring: u32) -> Config {
    let mut config = Config {
        abi_version: ABI_VERSION,
        hz: HZ,
        host_ifindex: HOST_DEVICE,
        route_ifindex: ROUTE_DEVICE,
        virtual_v4: V4::addr(V4::VIRTUAL),
        virtual_v6: V6::addr(V6::VIRTUAL),
        gateway_mac: Mac::new(GATEWAY_MAC),
        nat_first: NAT_FIRST,
        nat_last: NAT_LAST,
        broadcast_rate: 100,
        ring_mask: ring - 1,
        flow_limit: 1000,
        ..Config::default()
    };
    for (jiffies, seconds) in config.timeouts.iter_mut().zip(Timeout::DEFAULT_SECONDS) {
        *jiffies = u64::from(seconds) * u64::from(HZ);
    }
    config
}
