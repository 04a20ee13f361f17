//! The host's side: netbpf0 and netbpf1, and the datapath's settings.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use netbpf_common::abi::{self, ABI_VERSION, Config, LOOPBACK_INDEX, RING_SHARES, Transport};
use netbpf_common::wire::{Mac, V4Addr, V6Addr};

use super::Engine;
use super::network::Networks;
use super::state::State;
use crate::config::{DeviceKind, Part, Settings, Virtuals};
use crate::datapath::{Datapath, InFamily, clock, netns_cookie};
use crate::error::{Error, Result};
use crate::net::device::{Device, PairEnd};
use crate::net::route::MAIN_TABLE;
use crate::net::sysctl::{ALL_OFF, Ipv6};
use crate::net::{Netlink, sysctl};

/// The device by which the host reaches containers.
pub(super) const HOST_DEVICE: &str = "netbpf0";

/// Its peer: the device that route lookups name as their input. No packet enters by it.
pub(super) const ROUTE_DEVICE: &str = "netbpf1";

/// Makes netbpf0 and netbpf1, with these numbers if any are named, or finds those that this instance has made. Returns their numbers.
pub(super) async fn make_devices(
    netlink: &Netlink,
    settings: &Settings,
    networks: &Networks,
    virtuals: &Virtuals,
    mac: Mac,
    numbers: Option<(u32, u32)>,
) -> Result<(u32, u32)> {
    let find = async || -> Result<Option<(Device, Device)>> {
        Ok(netlink.device_named(HOST_DEVICE).await?.zip(netlink.device_named(ROUTE_DEVICE).await?))
    };
    let pair = match find().await? {
        Some(pair) => pair,
        None => {
            let end = |name, ifindex| PairEnd { name, ifindex, mac, mtu: settings.mtu, namespace: None };
            let (host, route) = numbers.unzip();
            netlink.make_pair(DeviceKind::Veth, &end(HOST_DEVICE, host), &end(ROUTE_DEVICE, route)).await?;
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
    // Before the settings of IPv6, which a device has only with an MTU that is large enough.
    for device in [&host, &route] {
        if device.mtu != settings.mtu {
            netlink.set_mtu(device.ifindex, settings.mtu).await?;
        }
    }
    let devices = (host.ifindex, route.ifindex);
    set_right(netlink, networks, virtuals, devices).await?;
    Ok(devices)
}

/// Lets netbpf0 and netbpf1 be as they are to be.
pub(super) async fn set_right(
    netlink: &Netlink,
    networks: &Networks,
    virtuals: &Virtuals,
    (host, route): (u32, u32),
) -> Result<()> {
    set_switches(networks)?;
    netlink.set_up_without_arp(host).await?;
    netlink.set_up(route).await?;
    give_addresses(netlink, networks, virtuals, host).await
}

/// What the kernel does by itself on netbpf0 and netbpf1.
fn set_switches(networks: &Networks) -> Result<()> {
    sysctl::isolate(HOST_DEVICE)?;
    let [host, route] = ipv6_of_devices(networks);
    host.apply(HOST_DEVICE)?;
    route.apply(ROUTE_DEVICE)?;
    route_device_forwards(networks)
}

/// The gateways' addresses on netbpf0, and what leads to it. An address of IPv6 is alone in its subnet, and brings no route.
async fn give_addresses(netlink: &Netlink, networks: &Networks, virtuals: &Virtuals, ifindex: u32) -> Result<()> {
    let own = own_addresses(networks, virtuals);
    netlink.keep_addresses(ifindex, &own).await?;
    for address in own {
        netlink.add_address(ifindex, address).await?;
    }
    let led = led_here(networks, virtuals);
    let there = subnets_of(netlink, ifindex).await?;
    // The subnet of an IPv4 address comes with it, unless somebody has taken it away.
    let comes_by_itself = |subnet: &IpNet, source: &IpAddr| source.is_ipv4() && subnet.contains(source);
    let needed = led.iter().filter(|(subnet, source)| !comes_by_itself(subnet, source) || !there.contains(subnet));
    for (subnet, source) in needed {
        netlink.add_link_route(ifindex, *subnet, *source, MAIN_TABLE).await?;
    }
    // Of networks that are no more, or have changed.
    for subnet in there.iter().filter(|there| !led.iter().any(|(led, _)| led == *there)) {
        netlink.delete_link_route(ifindex, *subnet).await?;
    }
    Ok(())
}

/// The addresses of netbpf0.
pub(super) fn own_addresses(networks: &Networks, virtuals: &Virtuals) -> Vec<IpNet> {
    let client = client(networks, virtuals).map(|it| Ipv6Net::from(it).into());
    client.into_iter().chain(networks.parts().map(gateway_net)).collect()
}

/// The address that IPv6 clients have where no network has one for them.
fn client(networks: &Networks, virtuals: &Virtuals) -> Option<Ipv6Addr> {
    serves_alone(networks).then(|| virtuals.client_v6())
}

/// Subnets that lie on a device.
pub(super) async fn subnets_of(netlink: &Netlink, ifindex: u32) -> Result<Vec<IpNet>> {
    let all = netlink.link_subnets().await?;
    Ok(all.into_iter().filter(|(_, device)| *device == ifindex).map(|(subnet, _)| subnet).collect())
}

/// What of the host's goes to netbpf0, and with which source address: the subnets, what they are known by outside, and the virtual
/// addresses.
pub(super) fn led_here(networks: &Networks, virtuals: &Virtuals) -> Vec<(IpNet, IpAddr)> {
    let client = client(networks, virtuals).map(IpAddr::from);
    let nets = |part: &Part| [Some(part.subnet), part.external].map(|net| Some((net?, part.gateway)));
    let mut led: Vec<(IpNet, IpAddr)> = networks.parts().flat_map(nets).flatten().collect();
    for is_ipv4 in [true, false] {
        // One that stays while other networks come and go: connections of the host have it.
        let default = networks.default_part(is_ipv4).map(|part| part.gateway);
        let client = client.filter(|client| client.is_ipv4() == is_ipv4);
        let any = networks.parts().map(|part| part.gateway).find(|gateway| gateway.is_ipv4() == is_ipv4);
        let source = default.or(client).or(any);
        led.extend(source.map(|source| (virtuals.of_family(source), source)));
    }
    led
}

impl Engine {
    /// Tells the datapath of all networks.
    pub(super) fn write_networks(&self, state: &State) -> Result<()> {
        let maps = &self.datapath.maps;
        let config = maps.config.get(0)?.unwrap_or_default();
        maps.config.set(0, Config { flags: state.networks.config_flags(), ..config })?;
        write_networks(&self.datapath, &state.networks)
    }
}

/// Lets `NETWORKS` have these networks and no others.
fn write_networks(datapath: &Datapath, networks: &Networks) -> Result<()> {
    let table = &datapath.maps.networks;
    let wanted = networks.ours().map(|network| Ok((u32::from(network.record.number), network.in_datapath()?)));
    let wanted: BTreeMap<u32, abi::Network> = wanted.collect::<Result<_>>()?;
    for (number, now) in table.entries()? {
        let wanted = wanted.get(&number).copied().unwrap_or_default();
        if wanted != now {
            table.set(number, wanted)?;
        }
    }
    Ok(())
}

/// The gateway's address as netbpf0 has it.
fn gateway_net(part: &Part) -> IpNet {
    let prefix = match part.subnet {
        IpNet::V4(subnet) => subnet.prefix_len(),
        IpNet::V6(_) => part.subnet.max_prefix_len(),
    };
    IpNet::new_assert(part.gateway, prefix)
}

/// What IPv6 is to do on netbpf0 and netbpf1.
pub(super) fn ipv6_of_devices(networks: &Networks) -> [Ipv6; 2] {
    if serves_v6(networks) { [Ipv6::Host, Ipv6::Lookups] } else { [Ipv6::Off, Ipv6::Off] }
}

/// Whether IPv6 clients are served: also where containers have none of it, as long as the host has.
pub(super) fn serves_v6(networks: &Networks) -> bool {
    networks.have(false) || serves_alone(networks)
}

/// Whether they are served where the default network has no IPv6.
fn serves_alone(networks: &Networks) -> bool {
    networks.default_part(false).is_none() && sysctl::read(ALL_OFF).as_deref() == Some("0")
}

/// Where the kernel says whether the device of route lookups forwards.
pub(super) fn forwarding_of_route_device(networks: &Networks) -> impl Iterator<Item = String> + use<> {
    let families = [Some("ipv4"), serves_v6(networks).then_some("ipv6")];
    families.into_iter().flatten().map(|family| format!("{family}/conf/{ROUTE_DEVICE}/forwarding"))
}

/// Route lookups in BPF ask whether their input device forwards. Whoever writes `net.ipv4.ip_forward` or
/// `net.ipv6.conf.all.forwarding` changes it for every device, so this is done again from time to time.
pub(super) fn route_device_forwards(networks: &Networks) -> Result<()> {
    forwarding_of_route_device(networks).try_for_each(|path| sysctl::write(&path, "1"))
}

/// Tells the programs what they need to know of their instance.
pub(super) fn write_config(
    datapath: &Datapath,
    settings: &Settings,
    networks: &Networks,
    virtuals: &Virtuals,
    devices: (u32, u32),
    mac: Mac,
) -> Result<()> {
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
        virtual_v4: virtuals.v4.network().into(),
        virtual_v6: virtuals.v6.network().into(),
        gateway_mac: mac,
        nat_first: settings.nat_ports.first,
        nat_last: settings.nat_ports.last,
        broadcast_rate: settings.broadcast_rate,
        flags: networks.config_flags(),
        ring_mask: settings.half_open_per_cpu(cpus) / RING_SHARES - 1,
        share_mask: RING_SHARES - 1,
        flow_limit: settings.flow_limit(),
        dns_port: settings.dns_port().unwrap_or(0),
        padding: [0; 6],
        timeouts: settings.timeout_seconds().map(|seconds| u64::from(seconds) * u64::from(hz)),
    };
    let before = datapath.maps.config.get(0)?.unwrap_or_default();
    if before.abi_version != 0 && (before.nat_first, before.nat_last) != (config.nat_first, config.nat_last) {
        keep_ports(datapath, before.nat_first, before.nat_last)?;
    }
    datapath.maps.config.set(0, config)?;
    if !networks.have(true) {
        forget_loopback::<V4Addr>(datapath)?;
    }
    if !serves_v6(networks) {
        forget_loopback::<V6Addr>(datapath)?;
    }
    write_networks(datapath, networks)
}

/// No socket may be led to a virtual address that has no route, as those of a family that the network has lost.
fn forget_loopback<A: InFamily>(datapath: &Datapath) -> Result<()> {
    A::maps(&datapath.maps).virtuals.set(LOOPBACK_INDEX, A::default())
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

/// Whether a device is this instance's own.
pub(super) fn is_own(device: &Device, mac: Mac) -> bool {
    (device.is_veth || device.is_netkit) && device.mac == Some(mac)
}

pub(super) fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Addressing;

    #[test]
    fn netbpf0_has_the_gateways_addresses() {
        let settings = Settings { ipv6: true, subnet_v6: "fd00::/64".parse().ok(), ..Settings::default() };
        let addressing = Addressing::new(&settings, [1; 5]).unwrap();
        let own: Vec<String> = addressing.parts().map(|part| gateway_net(part).to_string()).collect();
        assert_eq!(own, ["172.30.0.1/16", "fd00::1/128"]);
    }
}
