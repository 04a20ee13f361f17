//! The world of [`crate::world`] where its networks reach outside in another way than by masquerading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::{Config, ConfigFlags, GatewayMode, Network, Subnet};
use netbpf_common::path::Family as _;

use crate::family::TestFamily;
use crate::memory::Memory;
use crate::world::{CONTAINERS, Container};
use crate::{in_each_family, in_family};

/// The ways in which containers are reached by addresses of their own.
pub const REACHABLE: [GatewayMode; 2] = [GatewayMode::Routed, GatewayMode::Prefix];

/// The world, in which both networks have this mode.
pub fn world(mode: GatewayMode) -> Memory {
    let mut memory = Memory::new(64);
    change(&mut memory, mode);
    memory
}

/// Gives both networks this mode, as an agent that starts with it does.
pub fn change(memory: &mut Memory, mode: GatewayMode) {
    memory.config = config_in(mode, memory.config);
    in_each_family!(F => change_in::<F>(memory, mode));
}

/// Settings where some network has this mode.
pub fn config_in(mode: GatewayMode, config: Config) -> Config {
    let is_reachable = if REACHABLE.contains(&mode) { ConfigFlags::REACHABLE } else { 0 };
    Config { flags: config.flags & !ConfigFlags::REACHABLE | is_reachable, ..config }
}

/// Gives a network this mode in a family.
pub fn change_subnet<F: TestFamily>(number: u32, network: &mut Network, mode: GatewayMode) {
    let subnet = F::subnet_of_mut(network);
    let external = match mode {
        GatewayMode::Prefix => F::addr(F::EXTERNALS[number as usize - 1]),
        _ => F::Addr::default(),
    };
    *subnet = Subnet { mode: mode as u32, external, ..*subnet };
}

fn change_in<F: TestFamily>(memory: &mut Memory, mode: GatewayMode) {
    for container in CONTAINERS {
        let outside = F::addr(outside::<F>(&container, GatewayMode::Prefix));
        let addresses = &mut memory.of_mut::<F>().addresses;
        if mode == GatewayMode::Prefix {
            addresses.insert(outside, container.slot);
        } else {
            addresses.remove(&outside);
        }
    }
    for (number, network) in &mut memory.networks {
        change_subnet::<F>(*number, network, mode);
    }
}

/// The address by which a container is known outside in this mode, if it has one there.
pub fn outside<F: TestFamily>(container: &Container, mode: GatewayMode) -> IpAddr {
    if mode != GatewayMode::Prefix {
        return container.ip::<F>();
    }
    let place = usize::from(container.network) - 1;
    let length = F::NETWORKS[place].length();
    match (container.ip::<F>(), F::EXTERNALS[place]) {
        (IpAddr::V4(own), IpAddr::V4(prefix)) => {
            let host = u32::MAX >> length;
            Ipv4Addr::from_bits(prefix.to_bits() | own.to_bits() & host).into()
        }
        (IpAddr::V6(own), IpAddr::V6(prefix)) => translated(own, prefix, length).into(),
        _ => unreachable!("of one family"),
    }
}

/// Whether packets may leave with this address: one that the host has, or that a container has outside.
pub fn is_known_outside(memory: &Memory, address: IpAddr) -> bool {
    let is_containers = in_family!(address, F => CONTAINERS.iter().any(|container| {
        let mode = memory.networks.get(&container.network.into()).map(|network| F::subnet_of(network).mode);
        let mode = GatewayMode::from_u32(mode.unwrap_or_default());
        REACHABLE.contains(&mode) && outside::<F>(container, mode) == address
    }));
    is_containers || memory.is_local(address) && !address.is_loopback()
}

/// What RFC 6296 makes of an address (sections 3.4 and 3.5), by the numbers alone: the prefix is another, and one word makes up
/// for what that does to the sum.
pub fn translated(address: Ipv6Addr, prefix: Ipv6Addr, length: u32) -> Ipv6Addr {
    let moved = Ipv6Addr::from_bits(prefix.to_bits() | address.to_bits() & u128::MAX >> length);
    let mut words = moved.segments();
    let place = adjusted_word(moved, length);
    // 0xffff is zero among these numbers, and is never written.
    let new = u32::from(words[place]) + 0xffff + sum(address) - sum(moved);
    words[place] = (new % 0xffff) as u16;
    words.into()
}

/// Which word of an address is adjusted in a prefix of this length: that of the subnet, or the first behind it that is not 0xffff.
pub fn adjusted_word(address: Ipv6Addr, length: u32) -> usize {
    let words = address.segments();
    if length <= 48 { 3 } else { (4..8).find(|place| words[*place] != 0xffff).unwrap_or(7) }
}

/// The sum of an address's words, among the numbers of one's complement: below 0xffff.
pub fn sum(address: Ipv6Addr) -> u32 {
    address.segments().map(u32::from).iter().sum::<u32>() % 0xffff
}
