//! Routes, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType};

use super::{Netlink, accept, describe};
use crate::error::{Error, Result};

/// A route of the family of an address.
fn of_family(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    }
}

impl Netlink {
    /// Sends everything of its family to a gateway. `mtu` is what the way beyond it takes: the sender itself fragments to it,
    /// which BPF cannot do for it.
    pub(crate) async fn add_default_route(&self, ifindex: u32, gateway: IpAddr, mtu: Option<u32>) -> Result<()> {
        let mut route = of_family(gateway);
        route.attributes.extend([RouteAttribute::Oif(ifindex), RouteAttribute::Gateway(gateway.into())]);
        if let Some(mtu) = mtu {
            route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {gateway}: {error}")))
    }

    /// Sends a subnet to a device, from an address.
    pub(crate) async fn add_link_route(&self, ifindex: u32, subnet: IpNet, source: IpAddr) -> Result<()> {
        let mut route = of_family(source);
        // Routes of IPv6 have no scope.
        if source.is_ipv4() {
            route.header.scope = RouteScope::Link;
        }
        route.header.destination_prefix_length = subnet.prefix_len();
        route.attributes.extend([
            RouteAttribute::Oif(ifindex),
            RouteAttribute::Destination(subnet.addr().into()),
            RouteAttribute::PrefSource(source.into()),
        ]);
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {subnet}: {error}")))
    }

    async fn put(&self, route: RouteMessage) -> std::result::Result<(), String> {
        accept(self.handle.route().add(route).replace().execute().await, &[libc::EEXIST])
    }

    /// The device of the first default route of the family of an address, by which most packets leave.
    pub(crate) async fn default_device(&self, family: IpAddr) -> Result<Option<u32>> {
        let _listing = self.listing.lock().await;
        let routes: std::result::Result<Vec<RouteMessage>, _> =
            self.handle.route().get(of_family(family)).execute().try_collect().await;
        let routes = routes.map_err(|error| Error::Internal(format!("cannot list routes: {}", describe(&error))))?;
        Ok(first_default(&routes))
    }
}

fn first_default(routes: &[RouteMessage]) -> Option<u32> {
    let defaults = routes.iter().filter(|route| {
        let header = &route.header;
        header.destination_prefix_length == 0
            // A kernel may have "unreachable default" for IPv6.
            && header.kind == RouteType::Unicast
    });
    let best = defaults.filter_map(|route| {
        let (mut device, mut metric) = (None, 0);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => device = Some(*ifindex),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::MultiPath(hops) => device = device.or(hops.first().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
        Some((metric, device?))
    });
    best.min().map(|(_, device)| device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_the_one_of_least_metric_that_leads_somewhere() {
        let route = |kind, length, metric, device| {
            let mut route = of_family(Ipv6Addr::UNSPECIFIED.into());
            route.header.kind = kind;
            route.header.destination_prefix_length = length;
            route.attributes.extend([RouteAttribute::Priority(metric), RouteAttribute::Oif(device)]);
            route
        };
        let routes = [
            route(RouteType::Unreachable, 0, 1, 1),
            route(RouteType::Unicast, 64, 2, 2),
            route(RouteType::Unicast, 0, 1024, 3),
            route(RouteType::Unicast, 0, 512, 4),
        ];
        assert_eq!(first_default(&routes), Some(4));
        assert_eq!(first_default(&routes[..2]), None);
    }
}
