//! What is followed of the host: its devices to the world, and its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::{LOOPBACK_INDEX, TRANSLATOR_INDEX, Uplink, UplinkFlags, generation};
use netbpf_common::wire::{Mac, V4Addr, V6Addr};

use super::Engine;
use super::host::{flag, is_own, serves_v6};
use super::network::Networks;
use super::state::{HostState, State, UplinkState};
use crate::datapath::{Hook, InFamily};
use crate::error::Result;
use crate::net::address::{HostAddress, is_link_local};
use crate::net::device::{Device, Framing};
use crate::net::watch::Changes;

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

/// The address that packets of one family leave a device with. `before` stays as long as none is better: the kernel lists the
/// newest IPv6 address first, and flows rest on this one.
fn source<A: InFamily>(addresses: &[HostAddress], ifindex: u32, before: Option<A>) -> Option<A> {
    let usable = addresses.iter().filter(|address| address.ifindex == ifindex && address.is_primary);
    let of_family = usable.filter_map(|address| Some((address.is_unique_local(), A::of(address.address)?)));
    of_family.min_by_key(|(is_unique_local, address)| (*is_unique_local, Some(*address) != before)).map(|(_, it)| it)
}

/// What the datapath is told of an uplink besides its addresses.
fn flags(uplink: &UplinkState) -> u32 {
    flag(uplink.is_attached, UplinkFlags::ATTACHED) | flag(uplink.is_bare, UplinkFlags::BARE)
}

/// Virtual indexes of the host's addresses. Each family counts its own: those that have one keep it, the loopback address
/// has the first, the last is the translator's, and when none are left an address has 0: local, but without a virtual address.
/// So has every address of a family that is not served, since no route leads to its virtual addresses.
fn virtual_indexes(
    addresses: &[HostAddress],
    before: &BTreeMap<IpAddr, u32>,
    is_served: impl Fn(IpAddr) -> bool,
) -> BTreeMap<IpAddr, u32> {
    let mut indexes = BTreeMap::new();
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let is_of_family = |address: &IpAddr| address.is_ipv4() == loopback.is_ipv4();
        // The first index stands for all of 127.0.0.0/8. Nothing is published on link-local addresses.
        let present: BTreeSet<IpAddr> = addresses
            .iter()
            .map(|address| address.address)
            .filter(|address| is_of_family(address) && !address.is_loopback() && !is_link_local(*address))
            .collect();
        if !is_served(loopback) {
            indexes.extend(present.into_iter().chain([loopback]).map(|address| (address, 0)));
            continue;
        }
        let kept = before.iter().filter(|(address, index)| present.contains(address) && **index != 0);
        let mut used: BTreeMap<u32, IpAddr> = kept.map(|(address, index)| (*index, *address)).collect();
        used.insert(LOOPBACK_INDEX, loopback);
        indexes.extend(used.iter().map(|(index, address)| (*address, *index)));
        for address in present {
            indexes.entry(address).or_insert_with(|| {
                let index = (1..TRANSLATOR_INDEX).find(|index| !used.contains_key(index)).unwrap_or(0);
                used.insert(index, address);
                index
            });
        }
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
        state: &mut State,
        (devices, addresses): &(Vec<Device>, Vec<HostAddress>),
    ) -> Result<()> {
        // Also those whose MAC address somebody has changed.
        let own: BTreeSet<u32> = state.endpoints().map(|(_, endpoint)| endpoint.ifindex).collect();
        let State { networks, host, .. } = state;
        let told = std::mem::take(&mut host.problems);
        let is_local = |address: &IpAddr| addresses.iter().any(|local| local.address == *address);
        for network in networks.ours() {
            let lost = network.record.addressing.parts().filter_map(|part| part.snat).find(|snat| !is_local(snat));
            if let Some(snat) = lost {
                let name = &network.record.name;
                host.problems.push(format!(
                    "network {name}: {snat}, which it masquerades under, is no address of the host any more"
                ));
            }
        }
        let mut changed = self.follow_addresses(networks, host, addresses)?;
        let mut chosen = uplinks(devices, &self.settings.uplinks, self.gateway_mac);
        chosen.retain(|device| !own.contains(&device.ifindex));
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
                self.leave_uplink(ifindex, &uplink)?;
            }
            changed = true;
        }
        for device in chosen {
            let known = host.uplinks.get(&device.ifindex);
            let mut uplink = UplinkState {
                name: device.name.clone(),
                is_bare: device.framing == Framing::Bare,
                v4: source(addresses, device.ifindex, known.and_then(|known| known.v4)),
                v6: source(addresses, device.ifindex, known.and_then(|known| known.v6)),
                is_attached: known.is_some_and(|known| known.is_attached),
                mac: device.mac,
                express: known.and_then(|known| known.express.clone()),
            };
            if !uplink.is_attached {
                match self.datapath.attach(&Hook::uplink(device.ifindex, &*device.name, uplink.is_bare)) {
                    Ok(()) => uplink.is_attached = true,
                    // One device may be gone again, or have no room; the others are served all the same.
                    Err(error) => {
                        let problem = format!("uplink {}: {error}", device.name);
                        if !told.contains(&problem) {
                            tracing::warn!("{problem}");
                        }
                        host.problems.push(problem);
                    }
                }
            }
            // After it, since it takes what this one leaves.
            if let Err(error) = self.serve_express(device, &mut uplink) {
                host.problems.push(format!("uplink {}: {error}", device.name));
            }
            host.problems.extend(self.refused_express(&uplink));
            if host.uplinks.get(&device.ifindex) != Some(&uplink) {
                self.write_uplink(device.ifindex, &uplink)?;
                tracing::info!(device = uplink.name, v4 = ?uplink.v4, v6 = ?uplink.v6, "uplink");
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

    /// Tells the datapath of an uplink.
    pub(super) fn write_uplink(&self, ifindex: u32, uplink: &UplinkState) -> Result<()> {
        let (v4, v6) = (uplink.v4.unwrap_or_default(), uplink.v6.unwrap_or_default());
        let mac = uplink.mac.unwrap_or_default();
        self.datapath.maps.uplinks.set(ifindex, Uplink { v4, v6, flags: flags(uplink), mac, padding: 0 })
    }

    fn follow_addresses(&self, networks: &Networks, host: &mut HostState, addresses: &[HostAddress]) -> Result<bool> {
        let maps = &self.datapath.maps;
        let is_served = |address: IpAddr| {
            if address.is_ipv4() { networks.have(true) } else { serves_v6(networks) }
        };
        let locals = virtual_indexes(addresses, &host.locals, is_served);
        if locals == host.locals {
            return Ok(false);
        }
        for address in host.locals.keys().filter(|address| !locals.contains_key(address)) {
            maps.remove_local(*address)?;
        }
        for (address, index) in &locals {
            if host.locals.get(address) != Some(index) {
                maps.set_local(*address, *index)?;
            }
        }
        host.locals = locals;
        Ok(true)
    }

    /// Takes over what an agent before this one has told the datapath about the host.
    pub(super) fn recall_host(&self) -> Result<HostState> {
        let maps = &self.datapath.maps;
        let mut host = HostState { locals: maps.locals()?.collect(), ..HostState::default() };
        for (ifindex, entry) in maps.uplinks.entries()? {
            // Not attached: so that it is attached again, with this agent's program.
            let (is_bare, is_attached) = (entry.flags & UplinkFlags::BARE != 0, false);
            let v4 = Some(entry.v4).filter(|address| *address != V4Addr::default());
            let v6 = Some(entry.v6).filter(|address| *address != V6Addr::default());
            let mac = Some(entry.mac).filter(|mac| *mac != Mac::default());
            let uplink = UplinkState { name: String::new(), is_bare, v4, v6, is_attached, mac, express: None };
            host.uplinks.insert(ifindex, uplink);
        }
        Ok(host)
    }

    /// Acts on announced changes.
    pub(super) async fn host_changed(&self, changes: &Changes) -> Result<()> {
        self.suspect(changes);
        // Our own devices are no uplinks: who comes and goes with a thousand others need not have all of them listed.
        let of_others = changes.devices.values().any(|device| !is_own(device, self.gateway_mac));
        if changes.lost || !changes.addresses.is_empty() || of_others {
            // The kernel answers when no device is being deleted, which takes it long: requests do not wait for that. This
            // is the only task that looks, so what it saw last is what holds.
            let seen = self.look_at_host().await?;
            let state = &mut *self.state.lock().await;
            self.follow_host(state, &seen)?;
            self.follow_visitors(state)?;
            self.follow_parents(state, &seen.0).await;
            self.followed.notify_waiters();
        }
        if changes.routes || changes.lost {
            self.datapath.bump(generation::ROUTE_EPOCH)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: Mac = Mac::new([2, 1, 2, 3, 4, 5]);

    #[test]
    fn every_device_that_is_not_ours_is_an_uplink() {
        let devices = [
            Device { is_loopback: true, ..Device::example(1, "lo") },
            Device::example(2, "eth0"),
            Device { is_port: true, ..Device::example(3, "eth1") },
            Device::example(4, "br0"),
            Device { is_veth: true, mac: Some(MAC), ..Device::example(5, "netbpf0") },
            Device { is_veth: true, ..Device::example(6, "veth7") },
            Device { framing: Framing::Bare, ..Device::example(7, "wg0") },
            Device { framing: Framing::Other, ..Device::example(8, "ib0") },
        ];
        let names = |restriction: &[String]| -> Vec<&str> {
            uplinks(&devices, restriction, MAC).iter().map(|device| &*device.name).collect()
        };
        assert_eq!(names(&[]), ["eth0", "br0", "veth7", "wg0"]);
        assert_eq!(names(&["br0".into(), "eth9".into()]), ["br0"]);
    }

    fn address(address: &str) -> HostAddress {
        HostAddress { address: address.parse().unwrap(), ifindex: 2, is_primary: true }
    }

    #[test]
    fn packets_leave_with_a_global_address_before_a_unique_local_one() {
        let secondary = HostAddress { is_primary: false, ..address("2001:db8::9") };
        let all = [secondary, address("fd00::1"), address("2001:db8::1"), address("10.0.0.1"), address("10.0.0.2")];
        let shown = |chosen: Option<V6Addr>| chosen.map(|address| format!("{address:?}"));
        assert_eq!(shown(source(&all[..1], 2, None)), None);
        assert_eq!(shown(source(&all[..2], 2, None)).as_deref(), Some("fd00::1"));
        assert_eq!(shown(source(&all, 2, None)).as_deref(), Some("2001:db8::1"));
        assert_eq!(shown(source(&all, 3, None)), None, "of another device");
        assert_eq!(source::<V4Addr>(&all, 2, None), V4Addr::of("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_source_stays_while_none_is_better() {
        let chosen = |addresses: &[&str], before: &str| {
            let addresses: Vec<_> = addresses.iter().map(|text| address(text)).collect();
            let chosen: Option<V6Addr> = source(&addresses, 2, V6Addr::of(before.parse().unwrap()));
            format!("{:?}", chosen.unwrap())
        };
        assert_eq!(chosen(&["2001:db8::2", "2001:db8::1"], "2001:db8::1"), "2001:db8::1");
        assert_eq!(chosen(&["2001:db8::2"], "2001:db8::1"), "2001:db8::2");
        assert_eq!(chosen(&["fd00::1", "2001:db8::2"], "fd00::1"), "2001:db8::2");
    }

    #[test]
    fn each_family_counts_its_own_virtual_addresses() {
        let all = ["10.0.0.1", "fd00::1", "fe80::1", "127.0.0.1", "127.0.0.2", "::1"].map(address);
        let shown = |ipv6| {
            let indexes = virtual_indexes(&all, &BTreeMap::new(), |address| ipv6 || address.is_ipv4());
            indexes.iter().map(|(address, index)| format!("{address} {index}")).collect::<Vec<_>>()
        };
        assert_eq!(shown(true), ["10.0.0.1 2", "127.0.0.1 1", "::1 1", "fd00::1 2"]);
        // Local, as they are, but nobody is led to a virtual address that has no route.
        assert_eq!(shown(false), ["10.0.0.1 2", "127.0.0.1 1", "::1 0", "fd00::1 0"]);
    }

    #[test]
    fn an_address_keeps_its_virtual_index_while_others_come_and_go() {
        let [one, two, three] = ["fd00::1", "fd00::2", "fd00::3"].map(address);
        let first = virtual_indexes(&[one, two], &BTreeMap::new(), |_| true);
        let second = virtual_indexes(&[two, three], &first, |_| true);
        assert_eq!(second[&two.address], first[&two.address]);
        assert!(!second.contains_key(&one.address));
        let used: BTreeSet<_> =
            second.iter().filter(|(address, _)| address.is_ipv6()).map(|(_, index)| index).collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn addresses_beyond_the_subnet_of_virtual_ones_have_none() {
        let many: Vec<_> = (0..300)
            .map(|n| HostAddress { address: Ipv4Addr::from_bits(0x0a00_0000 + n).into(), ..address("::2") })
            .collect();
        let indexes = virtual_indexes(&many, &BTreeMap::new(), |_| true);
        assert_eq!(indexes.values().filter(|index| **index == 0).count(), 301 - 254);
    }
}
