//! The way to the world: the device of the default route, and what it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::subject::{Net, Subject};
use crate::agent::state::UplinkState;
use crate::api::types::Finding;
use crate::config::GatewayMode;
use crate::error::Result;
use crate::net::device::{Device, Framing};
use crate::net::{self, Netlink};

/// The least that IPv6 asks of a link (RFC 8200 section 5).
const LEAST_OF_IPV6: u32 = 1280;

/// What a family leaves by.
#[derive(Debug)]
struct Way<'a> {
    family: &'static str,
    is_ipv4: bool,
    /// None: there is no default route.
    device: Option<&'a Device>,
    uplink: Option<&'a UplinkState>,
}

/// Looks at the default routes. `route_mtus` are the MTUs of containers' own default routes, with their names.
pub(super) async fn look(
    subject: &Subject,
    netlink: &Netlink,
    devices: &[Device],
    route_mtus: &[(String, bool, u32)],
) -> Result<Vec<Finding>> {
    let Some(uplinks) = &subject.uplinks else { return Ok(Vec::new()) };
    let mut ways = Vec::new();
    for (family, any) in [("IPv4", IpAddr::V4(Ipv4Addr::UNSPECIFIED)), ("IPv6", Ipv6Addr::UNSPECIFIED.into())] {
        let masquerades =
            |net: &&Net| net.part.gateway.is_ipv4() == any.is_ipv4() && net.part.mode == GatewayMode::Masquerade;
        if !subject.nets.iter().any(|net| masquerades(&net)) || any.is_ipv6() && !net::has_ipv6() {
            continue;
        }
        let ifindex = netlink.default_device(any).await?;
        let device = ifindex.and_then(|ifindex| devices.iter().find(|device| device.ifindex == ifindex));
        let uplink = device.and_then(|device| uplinks.get(&device.ifindex));
        ways.push(Way { family, is_ipv4: any.is_ipv4(), device, uplink });
    }
    Ok(vec![uplinks_found(&ways), mtu(&ways, route_mtus)])
}

fn uplinks_found(ways: &[Way<'_>]) -> Finding {
    const CHECK: &str = "uplinks";
    let mut wrong = Vec::new();
    let mut right = Vec::new();
    for Way { family, is_ipv4, device, uplink } in ways {
        let Some(device) = device else {
            right.push(format!("no default route of {family}"));
            continue;
        };
        let name = &device.name;
        let has_address = uplink.is_some_and(|uplink| if *is_ipv4 { uplink.v4.is_some() } else { uplink.v6.is_some() });
        match uplink {
            None if device.framing == Framing::Other => wrong.push((
                format!("{family} leaves by {name}, which is of a kind that netbpf does not serve"),
                "lead the default route by a device with Ethernet or IP packets".to_owned(),
            )),
            None => wrong.push((
                format!("{family} leaves by {name}, which is no uplink of netbpf"),
                format!("add {name} to `uplinks` (--uplink), or empty them for all devices"),
            )),
            Some(uplink) if !uplink.is_attached => wrong.push((
                format!("{family} leaves by {name}, where netbpf's program could not be attached"),
                "`netbpf status` says why".to_owned(),
            )),
            // That of IPv6 has a check of its own.
            Some(_) if !has_address && *is_ipv4 => wrong.push((
                format!("{family} leaves by {name}, which has no address to masquerade under"),
                format!("give {name} an {family} address, or the network one of the host's (-o com.docker.network.host_ipv4)"),
            )),
            Some(_) => right.push(format!("{family} leaves by {name}")),
        }
    }
    if wrong.is_empty() {
        let found = if right.is_empty() { "no network masquerades".to_owned() } else { right.join(", ") };
        return Finding::well(CHECK, found);
    }
    let (found, advice): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    Finding::amiss(CHECK, found.join("; "), format!("containers reach no world that way: {}", advice.join("; ")))
}

fn mtu(ways: &[Way<'_>], route_mtus: &[(String, bool, u32)]) -> Finding {
    const CHECK: &str = "mtu";
    for Way { family, is_ipv4, device, .. } in ways {
        let Some(device) = device else { continue };
        if !is_ipv4 && device.mtu < LEAST_OF_IPV6 {
            return Finding::amiss(
                CHECK,
                format!("{} carries {} bytes, less than IPv6 asks for ({LEAST_OF_IPV6})", device.name, device.mtu),
                format!("raise its MTU: ip link set dev {} mtu {LEAST_OF_IPV6}", device.name),
            );
        }
        let late = route_mtus.iter().filter(|(_, of_ipv4, mtu)| of_ipv4 == is_ipv4 && *mtu > device.mtu);
        let names: Vec<&str> = late.map(|(name, ..)| &**name).collect();
        if let Some(first) = names.first() {
            let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
            return Finding::amiss(
                CHECK,
                format!(
                    "containers send up to more bytes than {} carries ({} by {family}): {first}{more}",
                    device.name, device.mtu
                ),
                format!(
                    "larger datagrams are lost, TCP loses a round trip: make these containers again, which then know, or \
                     `ip route change` their default route with mtu {}",
                    device.mtu
                ),
            );
        }
    }
    Finding::well(CHECK, "containers send no more than the way to the world carries")
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbpf_common::wire::V4Addr;

    fn uplink(is_attached: bool, with_address: bool) -> UplinkState {
        let v4 = with_address.then(|| V4Addr::from(Ipv4Addr::new(198, 18, 0, 1)));
        UplinkState { name: "eth0".into(), is_bare: false, v4, v6: None, is_attached, mac: None, express: None }
    }

    fn told(device: Option<&Device>, uplink: Option<&UplinkState>) -> Finding {
        uplinks_found(&[Way { family: "IPv4", is_ipv4: true, device, uplink }])
    }

    #[test]
    fn a_default_route_that_netbpf_cannot_use_is_told_with_what_to_do() {
        let device = Device::example(2, "eth0");
        let whole = uplink(true, true);
        assert!(told(Some(&device), Some(&whole)).ok);
        assert!(told(None, None).ok, "a host without a way to the world may be meant so");
        assert!(told(Some(&device), None).advice.contains("--uplink"));
        assert!(told(Some(&Device { framing: Framing::Other, ..device.clone() }), None).found.contains("of a kind"));
        assert!(told(Some(&device), Some(&uplink(false, true))).advice.contains("netbpf status"));
        assert!(told(Some(&device), Some(&uplink(true, false))).found.contains("no address"));
        assert!(uplinks_found(&[]).ok);
    }

    #[test]
    fn containers_that_believe_in_more_than_the_way_carries_are_named() {
        let device = Device { mtu: 1400, ..Device::example(2, "eth0") };
        let way = |is_ipv4| [Way { family: "IP", is_ipv4, device: Some(&device), uplink: None }];
        let routes = |mtu| [("web".to_owned(), true, mtu), ("db".to_owned(), true, mtu)];
        assert!(mtu(&way(true), &routes(1400)).ok);
        assert!(mtu(&way(false), &routes(1500)).ok, "of the other family");
        let late = mtu(&way(true), &routes(1500));
        assert!(!late.ok && late.found.ends_with("web and 1 more") && late.found.contains("eth0"), "{late:?}");
        let small = Device { mtu: 1000, ..device.clone() };
        let way = [Way { family: "IPv6", is_ipv4: false, device: Some(&small), uplink: None }];
        assert!(mtu(&way, &[]).found.contains("1280"));
    }
}
