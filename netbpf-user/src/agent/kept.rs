//! netbpf0 and netbpf1 as they are to be, and what differs.

use super::Engine;
use super::host::{
    self, HOST_DEVICE, ROUTE_DEVICE, forwarding_of_route_device, ipv6_of_devices, led_here, own_addresses, subnets_of,
};
use super::network::Networks;
use super::state::State;
use crate::datapath::Hook;
use crate::error::Result;
use crate::net::sysctl;

impl Engine {
    /// What somebody has changed of netbpf0 and netbpf1, as far as it costs little to see: who switches IPv6 off for all devices
    /// takes addresses and routes as well, and who switches it on again does not bring them back.
    pub(super) fn devices_differ(&self, state: &State) -> bool {
        let own = own_addresses(&state.networks, &self.virtuals);
        let has_all = own.iter().all(|own| state.host.locals.contains_key(&own.addr()));
        !has_all || switches_differ(&state.networks).next().is_some()
    }

    /// What differs of netbpf0 and netbpf1, one line each, as the kernel has them.
    pub(super) async fn device_problems(&self, networks: &Networks) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let mut is_there = true;
        for (ifindex, name) in [(self.devices.0, HOST_DEVICE), (self.devices.1, ROUTE_DEVICE)] {
            match self.netlink.device(ifindex).await? {
                None => {
                    is_there = false;
                    problems.push(format!("{name}: its device {ifindex} is gone"));
                }
                Some(device) if !device.is_up => problems.push(format!("{name} is down")),
                Some(_) => {}
            }
        }
        if !is_there {
            return Ok(problems);
        }
        let ifindex = self.devices.0;
        let mut addresses = self.netlink.addresses().await?;
        addresses.retain(|address| address.ifindex == ifindex);
        let has = |own: &ipnet::IpNet| addresses.iter().any(|address| address.address == own.addr());
        let own = own_addresses(networks, &self.virtuals);
        let lost = own.iter().filter(|own| !has(own));
        problems.extend(lost.map(|own| format!("{HOST_DEVICE} has lost its address {}", own.addr())));
        let there = subnets_of(&self.netlink, ifindex).await?;
        let led = led_here(networks, &self.virtuals);
        let lost = led.iter().filter(|(subnet, _)| !there.contains(subnet));
        problems.extend(lost.map(|(subnet, _)| format!("{HOST_DEVICE} has lost the route to {subnet}")));
        problems.extend(switches_differ(networks));
        Ok(problems)
    }

    /// Gives netbpf0 and netbpf1 back what somebody took from them; under their numbers, which the programs know.
    pub(super) async fn restore_devices(&self, networks: &Networks) -> Result<()> {
        let (settings, virtuals, mac) = (&self.settings, &self.virtuals, self.gateway_mac);
        host::make_devices(&self.netlink, settings, networks, virtuals, mac, Some(self.devices)).await?;
        self.attach_to_device(Hook::host(self.devices.0, HOST_DEVICE)).await
    }
}

/// Switches of netbpf0 and netbpf1 that are not as they were set. Whoever writes `net.ipv4.ip_forward` or
/// `net.ipv6.conf.all.forwarding` changes them for every device.
fn switches_differ(networks: &Networks) -> impl Iterator<Item = String> + use<> {
    let is_off = |setting: &String| sysctl::read(setting).as_deref() != Some("1");
    let forwarding = forwarding_of_route_device(networks)
        .filter(is_off)
        .map(|setting| format!("{ROUTE_DEVICE} does not forward (net/{setting}): containers cannot reach the world"));
    let ipv6 = [HOST_DEVICE, ROUTE_DEVICE].into_iter().zip(ipv6_of_devices(networks));
    let ipv6 = ipv6
        .filter_map(|(device, ipv6)| Some(format!("IPv6 on {device} is not as it was set: {}", ipv6.differs(device)?)));
    forwarding.chain(ipv6)
}
