//! IPv4 addresses of devices.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::{Netlink, accept, describe};
use crate::error::{Error, Result};

/// An IPv4 address of a device of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Number of its device.
    pub(crate) ifindex: u32,
    /// Whether packets to the world can leave with it: of global scope, neither secondary nor deprecated.
    pub(crate) is_primary: bool,
}

impl Netlink {
    /// Gives a device an address.
    pub(crate) async fn add_address(&self, ifindex: u32, address: Ipv4Net) -> Result<()> {
        let request = self.handle.address().add(ifindex, IpAddr::V4(address.addr()), address.prefix_len());
        let result = request.execute().await;
        accept(result, &[libc::EEXIST])
            .map_err(|error| Error::Internal(format!("cannot give device {ifindex} the address {address}: {error}")))
    }

    /// All IPv4 addresses, in the kernel's order: the first of a device is the one it prefers.
    pub(crate) async fn addresses(&self) -> Result<Vec<HostAddress>> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let _listing = self.listing.lock().await;
        let list: std::result::Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
        let list = list.map_err(|error| Error::Internal(format!("cannot list addresses: {}", describe(&error))))?;
        Ok(list.iter().filter_map(host_address).collect())
    }
}

fn host_address(message: &AddressMessage) -> Option<HostAddress> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point devices IFA_ADDRESS is the peer's; IFA_LOCAL is always ours.
            AddressAttribute::Local(IpAddr::V4(found)) => local = Some(*found),
            AddressAttribute::Address(IpAddr::V4(found)) => address = Some(*found),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let is_primary = message.header.scope == AddressScope::Universe
        && !flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated);
    Some(HostAddress { address: local.or(address)?, ifindex: message.header.index, is_primary })
}
