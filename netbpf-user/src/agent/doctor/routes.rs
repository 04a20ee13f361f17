//! Routes that lead elsewhere what is for containers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::subject::{Net, Subject};
use crate::agent::host::HOST_DEVICE;
use crate::api::types::Finding;
use crate::error::Result;
use crate::net::Netlink;
use crate::net::device::Device;

const CHECK: &str = "routes";

/// Asks the kernel for the way to every network, and looks for routes into one.
pub(super) async fn look(subject: &Subject, netlink: &Netlink, devices: &[Device]) -> Result<Finding> {
    let names: BTreeMap<u32, &str> = devices.iter().map(|device| (device.ifindex, &*device.name)).collect();
    let named = |ifindex: Option<u32>| ifindex.and_then(|it| names.get(&it)).copied().unwrap_or("nowhere");
    let mut strays = Vec::new();
    let to_nets = subject.nets.iter().map(|net| (net.a_container(), format!("network {}", net.network)));
    let to_virtuals = subject.virtuals.iter().map(|net| (net.addr(), "the virtual addresses".to_owned()));
    for (address, what) in to_nets.chain(to_virtuals) {
        let device = named(netlink.device_towards(address).await?);
        if device != HOST_DEVICE {
            strays.push((what, address, device.to_owned()));
        }
    }
    let routes = netlink.subnets_and_devices().await?;
    let foreign = routes.iter().filter(|(_, ifindex)| named(*ifindex) != HOST_DEVICE);
    let foreign: Vec<(IpNet, &str)> = foreign.map(|(subnet, ifindex)| (*subnet, named(*ifindex))).collect();
    Ok(judge(&strays, &inside(&subject.nets, &subject.virtuals, &foreign)))
}

/// Routes of others into what is ours.
fn inside(nets: &[Net], virtuals: &[IpNet], foreign: &[(IpNet, &str)]) -> Vec<String> {
    let ours = nets.iter().map(|net| (net.part.subnet, format!("network {}", net.network)));
    let ours: Vec<(IpNet, String)> =
        ours.chain(virtuals.iter().map(|net| (*net, "the virtual addresses".to_owned()))).collect();
    let overlaps = foreign.iter().flat_map(|(subnet, device)| {
        let hit = ours.iter().filter(move |(own, _)| own.contains(subnet));
        hit.map(move |(own, what)| format!("the route {subnet} by {device} is in {what} ({own})"))
    });
    overlaps.collect()
}

fn judge(strays: &[(String, IpAddr, String)], overlaps: &[String]) -> Finding {
    let strays = strays.iter().map(|(what, address, device)| {
        format!("the host's way to {what} ({address}) leads to {device}, not to {HOST_DEVICE}")
    });
    let all: Vec<String> = strays.chain(overlaps.iter().cloned()).collect();
    if all.is_empty() {
        return Finding::well(CHECK, format!("the host's ways to all networks lead to {HOST_DEVICE}"));
    }
    Finding::amiss(
        CHECK,
        all.join("; "),
        "what the host sends there does not reach containers: take the route or rule away (`ip route get ADDRESS` names it), or \
         give the network, or the other one (Docker's, a VPN's), a subnet of its own",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_into_a_network_is_told_and_one_around_it_is_not() {
        let subject = Subject::example();
        let found = |subnet: &str| inside(&subject.nets, &subject.virtuals, &[(subnet.parse().unwrap(), "docker0")]);
        assert_eq!(
            found("172.30.7.0/24"),
            ["the route 172.30.7.0/24 by docker0 is in network default (172.30.0.0/16)"]
        );
        assert_eq!(found("172.30.0.0/16").len(), 1, "another network of the same subnet");
        assert_eq!(found("169.254.30.7/32").len(), 1);
        for elsewhere in ["172.16.0.0/12", "172.17.0.0/16", "169.254.0.0/16", "fd00::/8"] {
            assert!(found(elsewhere).is_empty(), "{elsewhere}");
        }
    }

    #[test]
    fn a_way_that_leads_elsewhere_is_told() {
        assert!(judge(&[], &[]).ok);
        let stray = ("network default".to_owned(), "172.30.0.2".parse().unwrap(), "wg0".to_owned());
        let told = judge(&[stray], &[]);
        assert!(!told.ok && told.found.contains("(172.30.0.2) leads to wg0, not to netbpf0"), "{told:?}");
    }
}
