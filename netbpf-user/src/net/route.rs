//! Routes, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use super::address::is_link_local;
use super::{Netlink, accept, describe, errno};
use crate::error::{Error, Result};
use crate::failpoint;

/// The table that is looked in when no rule says another.
pub(crate) const MAIN_TABLE: u32 = 254;

/// The kernel's table of its own addresses.
const RT_TABLE_LOCAL: u8 = 255;

/// A route of the family of an address.
fn of_family(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    }
}

/// The same in this table.
fn of_table(mut route: RouteMessage, table: u32) -> RouteMessage {
    match u8::try_from(table) {
        Ok(table) => route.header.table = table,
        Err(_) => route.attributes.push(RouteAttribute::Table(table)),
    }
    route
}

impl Netlink {
    /// Sends everything of its family to a gateway; an unspecified one stands for the device itself. `mtu` is what the way beyond it takes: the sender itself fragments to it,
    /// which BPF cannot do for it.
    pub(crate) async fn add_default_route(
        &self,
        ifindex: u32,
        gateway: IpAddr,
        mtu: Option<u32>,
        table: u32,
    ) -> Result<()> {
        let mut route = of_table(of_family(gateway), table);
        route.attributes.push(RouteAttribute::Oif(ifindex));
        if !gateway.is_unspecified() {
            route.attributes.push(RouteAttribute::Gateway(gateway.into()));
        } else if gateway.is_ipv4() {
            // Routes of IPv6 have no scope.
            route.header.scope = RouteScope::Link;
        }
        if let Some(mtu) = mtu {
            route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {gateway}: {error}")))
    }

    /// Sends a subnet to a device, from an address.
    pub(crate) async fn add_link_route(&self, ifindex: u32, subnet: IpNet, source: IpAddr, table: u32) -> Result<()> {
        let mut route = of_table(of_family(source), table);
        // Routes of IPv6 have no scope.
        if source.is_ipv4() {
            route.header.scope = RouteScope::Link;
        }
        if source.is_ipv4() && subnet.contains(&source) {
            // As the kernel puts it there with the address, so that it goes with it too.
            route.header.protocol = RouteProtocol::Kernel;
        }
        route.header.destination_prefix_length = subnet.prefix_len();
        route.attributes.extend([
            RouteAttribute::Oif(ifindex),
            RouteAttribute::Destination(subnet.addr().into()),
            RouteAttribute::PrefSource(source.into()),
        ]);
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {subnet}: {error}")))
    }

    /// Sends a subnet to a device no more.
    pub(crate) async fn delete_link_route(&self, ifindex: u32, subnet: IpNet) -> Result<()> {
        let mut route = of_family(subnet.addr());
        route.header.destination_prefix_length = subnet.prefix_len();
        // Whatever has put it there.
        route.header.protocol = RouteProtocol::Unspec;
        route.header.scope = RouteScope::NoWhere;
        route.header.kind = RouteType::Unspec;
        route.attributes.extend([RouteAttribute::Oif(ifindex), RouteAttribute::Destination(subnet.addr().into())]);
        failpoint::before("delete a route");
        let deleted = self.handle.route().del(route).execute().await;
        accept(deleted, &[libc::ESRCH])
            .map_err(|error| Error::Internal(format!("cannot take the route to {subnet} away: {error}")))
    }

    /// Subnets that lie on devices of the host, and the numbers of those.
    pub(crate) async fn link_subnets(&self) -> Result<Vec<(IpNet, u32)>> {
        let is_on_link =
            |route: &&RouteMessage| !route.attributes.iter().any(|it| matches!(it, RouteAttribute::Gateway(_)));
        let routes = self.unicast_routes().await?;
        Ok(routes.iter().filter(is_on_link).filter_map(|route| Some((destination(route)?, device(route)?))).collect())
    }

    /// Subnets that routes of the host lead to, whichever way, but for the defaults.
    pub(crate) async fn route_subnets(&self) -> Result<Vec<IpNet>> {
        Ok(self.unicast_routes().await?.iter().filter_map(destination).collect())
    }

    /// Subnets that routes of the host lead to, but for the defaults, and the device of each.
    pub(crate) async fn subnets_and_devices(&self) -> Result<Vec<(IpNet, Option<u32>)>> {
        let routes = self.unicast_routes().await?;
        Ok(routes.iter().filter_map(|route| Some((destination(route)?, device(route)))).collect())
    }

    /// The device that the host sends packets for an address to, policy rules and all; none when it has no way.
    pub(crate) async fn device_towards(&self, address: IpAddr) -> Result<Option<u32>> {
        let mut route = of_family(address);
        route.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        route.attributes.push(RouteAttribute::Destination(address.into()));
        match self.handle.route().get(route).execute().try_next().await {
            Ok(found) => Ok(found.as_ref().and_then(device)),
            Err(error)
                if matches!(errno(&error), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::Internal(format!("cannot ask for the route to {address}: {}", describe(&error)))),
        }
    }

    /// What the first default route of a family says that its way carries, if it says so.
    pub(crate) async fn default_mtu(&self, is_ipv4: bool) -> Result<Option<u32>> {
        let family = if is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let routes = self.routes(family).await?;
        let mut defaults = routes
            .iter()
            .filter(|route| route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast);
        let metrics = defaults.find_map(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Metrics(metrics) => Some(metrics),
                _ => None,
            })
        });
        Ok(metrics.and_then(|metrics| {
            metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        }))
    }

    async fn unicast_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut all = Vec::new();
        let families =
            [Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), super::has_ipv6().then_some(Ipv6Addr::UNSPECIFIED.into())];
        for family in families.into_iter().flatten() {
            all.extend(self.routes(family).await?);
        }
        // Not those of the kernel's for itself (of loopback, broadcast, multicast).
        all.retain(|route| route.header.kind == RouteType::Unicast && route.header.table != RT_TABLE_LOCAL);
        Ok(all)
    }

    async fn routes(&self, family: IpAddr) -> Result<Vec<RouteMessage>> {
        let _listing = self.listing.lock().await;
        let routes: std::result::Result<Vec<RouteMessage>, _> =
            self.handle.route().get(of_family(family)).execute().try_collect().await;
        routes.map_err(|error| Error::Internal(format!("cannot list routes: {}", describe(&error))))
    }

    async fn put(&self, route: RouteMessage) -> std::result::Result<(), String> {
        failpoint::before("add a route");
        accept(self.handle.route().add(route).replace().execute().await, &[libc::EEXIST])
    }

    /// The device of the first default route of the family of an address, by which most packets leave.
    pub(crate) async fn default_device(&self, family: IpAddr) -> Result<Option<u32>> {
        Ok(first_default(&self.routes(family).await?))
    }
}

/// Where a route leads to; nothing for a default route, or one of a link alone.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let is_of_all = route.header.destination_prefix_length == 0;
    IpNet::new(address, route.header.destination_prefix_length).ok().filter(|_| !is_of_all && !is_link_local(address))
}

/// The device that a route leads to.
pub(super) fn device(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    })
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
