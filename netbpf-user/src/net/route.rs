//! IPv4 routes.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope};

use super::{Netlink, accept, describe};
use crate::error::{Error, Result};

impl Netlink {
    /// Sends everything to a gateway. `mtu` is what the way beyond it takes: the sender itself fragments to it, which
    /// BPF cannot do for it.
    pub(crate) async fn add_default_route(&self, ifindex: u32, gateway: Ipv4Addr, mtu: Option<u32>) -> Result<()> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(ifindex).gateway(gateway).build();
        if let Some(mtu) = mtu {
            route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {gateway}: {error}")))
    }

    /// Sends a subnet to a device, from an address.
    pub(crate) async fn add_link_route(&self, ifindex: u32, subnet: Ipv4Net, source: Ipv4Addr) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(ifindex)
            .destination_prefix(subnet.addr(), subnet.prefix_len())
            .scope(RouteScope::Link)
            .pref_source(source)
            .build();
        self.put(route).await.map_err(|error| Error::Internal(format!("cannot set the route to {subnet}: {error}")))
    }

    async fn put(&self, route: RouteMessage) -> std::result::Result<(), String> {
        accept(self.handle.route().add(route).replace().execute().await, &[libc::EEXIST])
    }

    /// The device of the first default route, by which most packets leave.
    pub(crate) async fn default_device(&self) -> Result<Option<u32>> {
        let _listing = self.listing.lock().await;
        let routes: std::result::Result<Vec<RouteMessage>, _> =
            self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect().await;
        let routes = routes.map_err(|error| Error::Internal(format!("cannot list routes: {}", describe(&error))))?;
        let best = routes
            .iter()
            .filter(|route| route.header.destination_prefix_length == 0)
            .filter_map(|route| {
                let (mut device, mut metric) = (None, 0);
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Oif(ifindex) => device = Some(*ifindex),
                        RouteAttribute::Priority(priority) => metric = *priority,
                        _ => {}
                    }
                }
                Some((metric, device?))
            })
            .min();
        Ok(best.map(|(_, device)| device))
    }
}
