//! The host's side: netbpf0 and netbpf1, the datapath's settings, and what is followed of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use netbpf_common::abi::{
    ABI_VERSION, Config, ConfigFlags, LOOPBACK_INDEX, Network, NetworkFlags, RING_SHARES, Subnet, Transport, Uplink,
    UplinkFlags, VIRTUALS, generation,
};
use netbpf_common::wire::{Mac, V4Addr};

use super::Engine;
use super::state::{HostState, NETWORK_NUMBER, UplinkState};
use crate::config::Settings;
use crate::datapath::{Datapath, Hook, clock, netns_cookie};
use crate::error::{Error, Result};
use crate::net::address::HostAddress;
use crate::net::device::{Device, Framing, VethEnd};
use crate::net::watch::Changes;
use crate::net::{Netlink, sysctl};

/// The device by which the host reaches containers.
pub(super) const HOST_DEVICE: &str = "netbpf0";

/// Its peer: the device that route lookups name as their input. No packet enters by it.
pub(super) const ROUTE_DEVICE: &str = "netbpf1";

/// Makes netbpf0 and netbpf1, or finds those that this instance has made. Returns their numbers.
pub(super) async fn make_devices(netlink: &Netlink, settings: &Settings, mac: Mac) -> Result<(u32, u32)> {
    let find = async || -> Result<Option<(Device, Device)>> {
        Ok(netlink.device_named(HOST_DEVICE).await?.zip(netlink.device_named(ROUTE_DEVICE).await?))
    };
    let pair = match find().await? {
        Some(pair) => pair,
        None => {
            let end = |name, mac| VethEnd { name, ifindex: None, mac, mtu: settings.mtu, namespace: None };
            netlink.make_veth(&end(HOST_DEVICE, mac), &end(ROUTE_DEVICE, mac)).await?;
            find().await?.ok_or_else(|| Error::Internal(format!("{HOST_DEVICE} has vanished")))?
        }
    };
    let (host, route) = pair;
    if host.mac != Some(mac) {
        return Err(Error::Conflict(format!(
            "the device {HOST_DEVICE} belongs to another instance of netbpf in this network namespace: \
             stop and uninstall that one, or remove the device with `ip link del {HOST_DEVICE}`"
        )));
    }
    sysctl::isolate(HOST_DEVICE)?;
    route_device_forwards()?;
    sysctl::write_where_present(&format!("ipv6/conf/{ROUTE_DEVICE}/disable_ipv6"), "1")?;
    for device in [&host, &route] {
        if device.mtu != settings.mtu {
            netlink.set_mtu(device.ifindex, settings.mtu).await?;
        }
    }
    netlink.set_up_without_arp(host.ifindex).await?;
    netlink.set_up(route.ifindex).await?;
    let gateway = settings.gateway();
    let address = ipnet::Ipv4Net::new_assert(gateway, settings.subnet.prefix_len());
    netlink.add_address(host.ifindex, address).await?;
    netlink.add_link_route(host.ifindex, settings.virtual_subnet, gateway).await?;
    Ok((host.ifindex, route.ifindex))
}

/// Route lookups in BPF ask whether their input device forwards. Whoever writes `net.ipv4.ip_forward` changes it for
/// every device, so this is done again from time to time.
pub(super) fn route_device_forwards() -> Result<()> {
    sysctl::write(&format!("ipv4/conf/{ROUTE_DEVICE}/forwarding"), "1")
}

/// Tells the programs what they need to know of their instance.
pub(super) fn write_config(datapath: &Datapath, settings: &Settings, devices: (u32, u32), mac: Mac) -> Result<()> {
    let hz = clock::hz()?;
    let cpus = crate::datapath::possible_cpus()?;
    if settings.half_open_per_cpu(cpus) != settings.half_open {
        tracing::info!(
            half_open = settings.half_open_per_cpu(cpus),
            cpus,
            "fewer half-open flows per CPU than asked for: together they may fill half of the flow table at most"
        );
    }
    let config = Config {
        abi_version: ABI_VERSION,
        hz,
        netns_cookie: netns_cookie()?,
        host_ifindex: devices.0,
        route_ifindex: devices.1,
        virtual_v4: settings.virtual_subnet.network().into(),
        gateway_mac: mac,
        nat_first: settings.nat_ports.first,
        nat_last: settings.nat_ports.last,
        broadcast_rate: settings.broadcast_rate,
        flags: flag(settings.full_cone, ConfigFlags::MAPPINGS),
        ring_mask: settings.half_open_per_cpu(cpus) / RING_SHARES - 1,
        share_mask: RING_SHARES - 1,
        flow_limit: settings.flow_limit(),
        timeouts: settings.timeout_seconds().map(|seconds| u64::from(seconds) * u64::from(hz)),
    };
    let before = datapath.maps.config.get(0)?.unwrap_or_default();
    if before.abi_version != 0 && (before.nat_first, before.nat_last) != (config.nat_first, config.nat_last) {
        keep_ports(datapath, before.nat_first, before.nat_last)?;
    }
    datapath.maps.config.set(0, config)?;
    let network = Network {
        v4: Subnet {
            address: settings.subnet.network().into(),
            mask: settings.subnet.netmask().into(),
            gateway: settings.gateway().into(),
        },
        flags: network_flags(settings),
        mtu: settings.mtu,
        ..Network::default()
    };
    datapath.maps.networks.set(u32::from(NETWORK_NUMBER), network)
}

/// Lets flows go on under ports that masquerading gave out before the range was changed: they are marked as ports outside
/// of it are.
fn keep_ports(datapath: &Datapath, first: u16, last: u16) -> Result<()> {
    let kept = &datapath.maps.kept;
    for transport in Transport::ALL {
        let (from, to) = (transport.port_index(first), transport.port_index(last));
        for word in from / 64..=to / 64 {
            let marked = (word * 64..word * 64 + 64).filter(|port| (from..=to).contains(port));
            let bits = marked.fold(0, |bits, port| bits | 1_u64 << (port % 64));
            kept.set(word, kept.get(word)?.unwrap_or(0) | bits)?;
        }
    }
    Ok(())
}

fn network_flags(settings: &Settings) -> u32 {
    NetworkFlags::MASQUERADE
        | flag(settings.full_cone, NetworkFlags::FULL_CONE)
        | flag(settings.clamp_mss, NetworkFlags::CLAMP_MSS)
}

/// Whether a device is this instance's own.
pub(super) fn is_own(device: &Device, mac: Mac) -> bool {
    device.is_veth && device.mac == Some(mac)
}

/// The devices to the world: every device that is not ours, not loopback and not the port of a bridge or bond, whose
/// own program would see the packets twice.
fn uplinks<'a>(devices: &'a [Device], restriction: &[String], mac: Mac) -> Vec<&'a Device> {
    devices
        .iter()
        .filter(|device| !is_own(device, mac) && !device.is_loopback && !device.is_port)
        .filter(|device| device.framing != Framing::Other)
        .filter(|device| restriction.is_empty() || restriction.contains(&device.name))
        .collect()
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

/// What the datapath is told of an uplink besides its address.
fn flags(uplink: &UplinkState) -> u32 {
    flag(uplink.is_attached, UplinkFlags::ATTACHED) | flag(uplink.is_bare, UplinkFlags::BARE)
}

/// Virtual indexes of the host's addresses: those that have one keep it, 127.0.0.1 has the first, and when none are left
/// an address has 0: local, but without a virtual address.
fn virtual_indexes(addresses: &[HostAddress], before: &BTreeMap<Ipv4Addr, u32>) -> BTreeMap<Ipv4Addr, u32> {
    let mut indexes: BTreeMap<Ipv4Addr, u32> = BTreeMap::from([(Ipv4Addr::LOCALHOST, LOOPBACK_INDEX)]);
    // The first index stands for all of 127.0.0.0/8.
    let present: BTreeSet<Ipv4Addr> =
        addresses.iter().map(|address| address.address).filter(|address| !address.is_loopback()).collect();
    for (address, index) in before {
        if present.contains(address) && *index != 0 {
            indexes.insert(*address, *index);
        }
    }
    let mut used: BTreeSet<u32> = indexes.values().copied().collect();
    for address in present {
        indexes.entry(address).or_insert_with(|| {
            let index = (1..VIRTUALS).find(|index| !used.contains(index)).unwrap_or(0);
            used.insert(index);
            index
        });
    }
    indexes
}

impl Engine {
    /// The host's devices and addresses as they are.
    pub(super) async fn look_at_host(&self) -> Result<(Vec<Device>, Vec<HostAddress>)> {
        Ok((self.netlink.devices().await?, self.netlink.addresses().await?))
    }

    /// Tells the datapath what has changed of the host's devices and addresses.
    pub(super) fn follow_host(
        &self,
        host: &mut HostState,
        (devices, addresses): &(Vec<Device>, Vec<HostAddress>),
    ) -> Result<()> {
        host.problems.clear();
        let mut changed = self.follow_addresses(host, addresses)?;
        let chosen = uplinks(devices, &self.settings.uplinks, self.gateway_mac);
        for name in &self.settings.uplinks {
            if !chosen.iter().any(|device| device.name == *name) {
                host.problems
                    .push(format!("uplink {name}: there is no such device, or it is the port of another, or it is of a kind that is not served"));
            }
        }

        let gone: Vec<u32> =
            host.uplinks.keys().filter(|old| !chosen.iter().any(|device| device.ifindex == **old)).copied().collect();
        for ifindex in gone {
            // No masquerading to it before its replies would not be understood any more.
            self.datapath.maps.uplinks.remove(ifindex)?;
            if let Some(uplink) = host.uplinks.remove(&ifindex) {
                self.datapath.detach(&Hook::uplink(ifindex, uplink.name, uplink.is_bare))?;
            }
            changed = true;
        }
        for device in chosen {
            let primary = addresses.iter().find(|address| address.ifindex == device.ifindex && address.is_primary);
            let mut uplink = UplinkState {
                name: device.name.clone(),
                is_bare: device.framing == Framing::Bare,
                address: primary.map(|primary| primary.address),
                is_attached: host.uplinks.get(&device.ifindex).is_some_and(|known| known.is_attached),
            };
            if !uplink.is_attached {
                match self.datapath.attach(&Hook::uplink(device.ifindex, &*device.name, uplink.is_bare)) {
                    Ok(()) => uplink.is_attached = true,
                    // One device may be gone again, or have no room; the others are served all the same.
                    Err(error) => {
                        tracing::warn!("{error}");
                        host.problems.push(format!("uplink {}: {error}", device.name));
                    }
                }
            }
            if host.uplinks.get(&device.ifindex) != Some(&uplink) {
                let entry = Uplink {
                    v4: uplink.address.map(V4Addr::from).unwrap_or_default(),
                    flags: flags(&uplink),
                    ..Uplink::default()
                };
                self.datapath.maps.uplinks.set(device.ifindex, entry)?;
                tracing::info!(device = uplink.name, address = ?uplink.address, "uplink");
                host.uplinks.insert(device.ifindex, uplink);
                changed = true;
            }
        }
        if changed {
            self.datapath.bump(generation::ROUTE_EPOCH)?;
            // What was sent to the host stays there only as long as the address is the host's.
            self.datapath.bump(generation::PUBLISH_EPOCH)?;
        }
        Ok(())
    }

    fn follow_addresses(&self, host: &mut HostState, addresses: &[HostAddress]) -> Result<bool> {
        let maps = &self.datapath.maps;
        let locals = virtual_indexes(addresses, &host.locals);
        if locals == host.locals {
            return Ok(false);
        }
        for address in host.locals.keys().filter(|address| !locals.contains_key(address)) {
            maps.locals.remove((*address).into())?;
        }
        for (address, index) in &locals {
            if host.locals.get(address) != Some(index) {
                if *index != 0 {
                    maps.virtuals.set(*index, (*address).into())?;
                }
                maps.locals.set((*address).into(), *index)?;
            }
        }
        host.locals = locals;
        Ok(true)
    }

    /// Takes over what an agent before this one has told the datapath about the host.
    pub(super) fn recall_host(&self) -> Result<HostState> {
        let maps = &self.datapath.maps;
        let mut host = HostState::default();
        for (address, index) in maps.locals.entries()? {
            host.locals.insert(address.into(), index);
        }
        for (ifindex, entry) in maps.uplinks.entries()? {
            // Not attached: so that it is attached again, with this agent's program.
            let is_bare = entry.flags & UplinkFlags::BARE != 0;
            let uplink = UplinkState { name: String::new(), is_bare, address: None, is_attached: false };
            host.uplinks.insert(ifindex, uplink);
        }
        Ok(host)
    }

    /// Acts on announced changes.
    pub(super) async fn host_changed(&self, changes: &Changes) -> Result<()> {
        let own: BTreeSet<u32> = self.state.lock().await.containers.values().map(|record| record.ifindex).collect();
        if changes.lost || !changes.addresses.is_empty() || changes.devices.iter().any(|index| !own.contains(index)) {
            // The kernel answers when no device is being deleted, which takes it long: requests do not wait for that. This
            // is the only task that looks, so what it saw last is what holds.
            let seen = self.look_at_host().await?;
            self.follow_host(&mut self.state.lock().await.host, &seen)?;
        }
        if changes.routes || changes.lost {
            self.datapath.bump(generation::ROUTE_EPOCH)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([2, 1, 2, 3, 4, 5]);

    fn device(ifindex: u32, name: &str) -> Device {
        Device {
            ifindex,
            name: name.into(),
            mac: Some(Mac::new([0x52, 0, 0, 0, 0, ifindex as u8])),
            mtu: 1500,
            is_veth: false,
            framing: Framing::Ethernet,
            is_loopback: false,
            is_port: false,
        }
    }

    #[test]
    fn every_device_that_is_not_ours_is_an_uplink() {
        let devices = [
            Device { is_loopback: true, ..device(1, "lo") },
            device(2, "eth0"),
            Device { is_port: true, ..device(3, "eth1") },
            device(4, "br0"),
            Device { is_veth: true, mac: Some(MAC), ..device(5, "netbpf0") },
            Device { is_veth: true, ..device(6, "veth7") },
            Device { framing: Framing::Bare, ..device(7, "wg0") },
            Device { framing: Framing::Other, ..device(8, "ib0") },
        ];
        let names = |restriction: &[String]| -> Vec<&str> {
            uplinks(&devices, restriction, MAC).iter().map(|device| &*device.name).collect()
        };
        assert_eq!(names(&[]), ["eth0", "br0", "veth7", "wg0"]);
        assert_eq!(names(&["br0".into(), "eth9".into()]), ["br0"]);
    }

    #[test]
    fn an_address_keeps_its_virtual_index_while_others_come_and_go() {
        let host = |last| HostAddress { address: Ipv4Addr::new(10, 0, 0, last), ifindex: 2, is_primary: true };
        let first = virtual_indexes(&[host(1), host(2)], &BTreeMap::new());
        assert_eq!(first[&Ipv4Addr::LOCALHOST], 1);
        let second = virtual_indexes(&[host(2), host(3)], &first);
        assert_eq!(second[&Ipv4Addr::new(10, 0, 0, 2)], first[&Ipv4Addr::new(10, 0, 0, 2)]);
        assert!(!second.contains_key(&Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(second.values().collect::<BTreeSet<_>>().len(), second.len());
    }

    #[test]
    fn addresses_beyond_the_subnet_of_virtual_ones_have_none() {
        let many: Vec<_> = (0..300)
            .map(|n| HostAddress { address: Ipv4Addr::from_bits(0x0a00_0000 + n), ifindex: 2, is_primary: false })
            .collect();
        let indexes = virtual_indexes(&many, &BTreeMap::new());
        assert_eq!(indexes.values().filter(|index| **index == 0).count(), 301 - 255);
    }
}
