//! One small world in which packets of fixtures travel: two containers on a network, one on
//! another, an uplink, some publishes. Tier 0 builds it in memory, tier 1 in the kernel's maps.

use std::net::Ipv4Addr;

use netbpf_common::abi::{
    ABI_VERSION, Config, ENDPOINT_SLOTS, Endpoint, LOOPBACK_INDEX, Network, NetworkFlags, Rule, Subnet, Timeout,
    Transport, Uplink, UplinkFlags,
};
use netbpf_common::wire::{Mac, V4Addr};

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
/// Address of the uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// A machine outside, also the default gateway.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// A machine behind the default gateway.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 200, 3, 4);
/// An address behind [`FOREIGN`].
pub const BEHIND_FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// An address that is routed into a blackhole.
pub const BLACKHOLE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
/// MAC address of the uplink.
pub const UPLINK_MAC: packet::Mac = [2, 0, 0, 0, 0, 0x20];
/// MAC address of [`OUTSIDE`].
pub const OUTSIDE_MAC: packet::Mac = [2, 0, 0, 0, 0, 0x99];
/// MAC address of the gateway.
pub const GATEWAY_MAC: packet::Mac = [2, 0, 0, 0, 0, 0xfe];
/// Gateway of the first network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// First of the virtual addresses.
pub const VIRTUAL: Ipv4Addr = Ipv4Addr::new(169, 254, 30, 0);
/// Virtual address of 127.0.0.1.
pub const VIRTUAL_LOOPBACK: Ipv4Addr = Ipv4Addr::new(169, 254, 30, 1);
/// First NAT port.
pub const NAT_FIRST: u16 = 16_384;
/// Last NAT port.
pub const NAT_LAST: u16 = 32_767;
/// MTU of the way out, in bytes.
pub const MTU: u16 = 1500;

/// A container.
#[derive(Clone, Copy, Debug)]
pub struct Container {
    /// Slot of its endpoint.
    pub slot: u32,
    /// Network number.
    pub network: u16,
    /// Address.
    pub ip: Ipv4Addr,
    /// MAC address.
    pub mac: packet::Mac,
}

impl Container {
    /// Its host-side device.
    pub const fn device(&self) -> u32 {
        16 * ENDPOINT_SLOTS + self.slot
    }

    /// Its entry in the table of endpoints.
    pub fn endpoint(&self, generation: u32) -> Endpoint {
        Endpoint {
            generation,
            ifindex: self.device(),
            v4: self.ip.into(),
            mac: Mac::new(self.mac),
            network: self.network,
            ..Endpoint::default()
        }
    }
}

/// The first container of the first network.
pub const C1: Container =
    Container { slot: 5, network: 1, ip: Ipv4Addr::new(172, 30, 0, 11), mac: [2, 0x42, 172, 30, 0, 11] };
/// The second container of the first network.
pub const C2: Container =
    Container { slot: 6, network: 1, ip: Ipv4Addr::new(172, 30, 0, 12), mac: [2, 0x42, 172, 30, 0, 12] };
/// A container of another network.
pub const C3: Container =
    Container { slot: 7, network: 2, ip: Ipv4Addr::new(172, 31, 0, 11), mac: [2, 0x42, 172, 31, 0, 11] };
/// All of them.
pub const CONTAINERS: [Container; 3] = [C1, C2, C3];

/// The rings of the members of both networks: from each slot to the next.
pub fn members() -> [(u32, u32); 3] {
    [(C1.slot, C2.slot), (C2.slot, C1.slot), (C3.slot, C3.slot)]
}

/// A publish of the world.
#[derive(Clone, Copy, Debug)]
pub struct Publish {
    /// Rule number.
    pub rule: u32,
    /// The one address of the host it is on; all for none.
    pub address: Option<Ipv4Addr>,
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
    /// Its entry in the table of rules.
    pub const fn rule(&self) -> Rule {
        Rule {
            endpoint: self.container.slot,
            generation: GENERATION,
            host_port: self.host_port,
            container_port: self.container_port,
        }
    }
}

/// All of them.
pub const PUBLISHES: [Publish; 4] = [
    Publish {
        rule: 1,
        address: None,
        transport: Transport::Tcp,
        host_port: 8080,
        count: 1,
        container: C1,
        container_port: 80,
    },
    Publish {
        rule: 2,
        address: None,
        transport: Transport::Udp,
        host_port: 5353,
        count: 1,
        container: C2,
        container_port: 53,
    },
    Publish {
        rule: 3,
        address: Some(Ipv4Addr::LOCALHOST),
        transport: Transport::Tcp,
        host_port: 9090,
        count: 1,
        container: C1,
        container_port: 90,
    },
    Publish {
        rule: 4,
        address: None,
        transport: Transport::Udp,
        host_port: 7000,
        count: 10,
        container: C2,
        container_port: 17_000,
    },
];

/// Addresses of the host with their virtual index.
pub const LOCALS: [(Ipv4Addr, u32); 3] = [(Ipv4Addr::LOCALHOST, LOOPBACK_INDEX), (HOST, 2), (GATEWAY, 3)];

/// Networks by number.
pub fn networks() -> [(u32, Network); 2] {
    let network = |third: u8| Network {
        v4: Subnet {
            address: Ipv4Addr::new(172, third, 0, 0).into(),
            mask: Ipv4Addr::new(255, 255, 0, 0).into(),
            gateway: Ipv4Addr::new(172, third, 0, 1).into(),
        },
        flags: NetworkFlags::MASQUERADE,
        mtu: u32::from(MTU),
        ..Network::default()
    };
    [(1, network(30)), (2, network(31))]
}

/// The uplink's entry.
pub fn uplink() -> Uplink {
    Uplink { v4: HOST.into(), flags: UplinkFlags::ATTACHED, ..Uplink::default() }
}

/// Settings; `ring` is the size of the ring of half-open flows.
pub fn config(ring: u32) -> Config {
    let mut config = Config {
        abi_version: ABI_VERSION,
        hz: HZ,
        host_ifindex: HOST_DEVICE,
        route_ifindex: ROUTE_DEVICE,
        virtual_v4: V4Addr::from(VIRTUAL),
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
