//! Addresses of devices, of both families.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::{Netlink, accept, describe};
use crate::error::{Error, Result};
use crate::failpoint;

/// An address of a device of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    /// The address.
    pub(crate) address: IpAddr,
    /// Number of its device.
    pub(crate) ifindex: u32,
    /// Whether packets to the world can leave with it: of global scope, neither secondary (of IPv6: temporary) nor deprecated.
    pub(crate) is_primary: bool,
}

impl HostAddress {
    /// Whether the world knows no way to it, only this site (RFC 4193).
    pub(crate) fn is_unique_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unique_local())
    }
}

/// Whether an address is of one link alone (RFC 4291 section 2.5.6). Those of IPv4 are addresses as any other.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

impl Netlink {
    /// Gives a device an address. One of IPv6 is not asked for on the link first: who gives it knows that nobody else has
    /// it. An address without others in its subnet brings no route.
    pub(crate) async fn add_address(&self, ifindex: u32, address: IpNet) -> Result<()> {
        let mut request = self.handle.address().add(ifindex, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let alone = address.prefix_len() == address.max_prefix_len();
            let route = if alone { AddressFlags::Noprefixroute } else { AddressFlags::empty() };
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | route));
        }
        failpoint::before("add an address");
        accept(request.execute().await, &[libc::EEXIST])
            .map_err(|error| Error::Internal(format!("cannot give device {ifindex} the address {address}: {error}")))
    }

    /// Takes all addresses of a device away but these; those of one link alone are the kernel's.
    pub(crate) async fn keep_addresses(&self, ifindex: u32, kept: &[IpNet]) -> Result<()> {
        for message in self.list_addresses().await? {
            let Some(address) = local(&message).filter(|_| message.header.index == ifindex) else { continue };
            let is_kept = kept.iter().any(|net| (net.addr(), net.prefix_len()) == (address, message.header.prefix_len));
            if !is_kept && !is_link_local(address) {
                failpoint::before("delete an address");
                accept(self.handle.address().del(message).execute().await, &[libc::EADDRNOTAVAIL, libc::ENODEV])
                    .map_err(|error| {
                        Error::Internal(format!("cannot take the address {address} from device {ifindex}: {error}"))
                    })?;
            }
        }
        Ok(())
    }

    /// All addresses that are the host's, in the kernel's order: the first of a device is the one it prefers.
    pub(crate) async fn addresses(&self) -> Result<Vec<HostAddress>> {
        Ok(self.list_addresses().await?.iter().filter_map(host_address).collect())
    }

    async fn list_addresses(&self) -> Result<Vec<AddressMessage>> {
        let mut addresses = Vec::new();
        // A kernel without IPv6 would list those of all families a second time.
        let families = [Some(AddressFamily::Inet), super::has_ipv6().then_some(AddressFamily::Inet6)];
        for family in families.into_iter().flatten() {
            let mut request = self.handle.address().get();
            request.message_mut().header.family = family;
            let _listing = self.listing.lock().await;
            let list: std::result::Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
            addresses
                .extend(list.map_err(|error| Error::Internal(format!("cannot list addresses: {}", describe(&error))))?);
        }
        Ok(addresses)
    }
}

/// On point-to-point devices IFA_ADDRESS is the peer's; IFA_LOCAL is always ours, where it is given.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

/// An address, unless somebody else may have it: as long as duplicates are looked for, and when one was found (RFC 4862
/// section 5.4).
fn host_address(message: &AddressMessage) -> Option<HostAddress> {
    let all = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(all) => Some(*all),
        _ => None,
    });
    let flags = all.unwrap_or(AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
        return None;
    }
    // One bit means secondary for IPv4 and temporary for IPv6 (include/uapi/linux/if_addr.h).
    let is_primary = message.header.scope == AddressScope::Universe
        && !flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated);
    Some(HostAddress { address: local(message)?, ifindex: message.header.index, is_primary })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(address: &str, scope: AddressScope, flags: AddressFlags) -> Option<HostAddress> {
        let mut message = AddressMessage::default();
        message.header.index = 2;
        message.header.scope = scope;
        let address = AddressAttribute::Address(address.parse().unwrap());
        message.attributes = vec![address, AddressAttribute::Flags(flags)];
        host_address(&message)
    }

    #[test]
    fn packets_leave_with_addresses_that_last_and_are_known_to_the_world() {
        let is_primary = |scope, flags| listed("2001:db8::1", scope, flags).unwrap().is_primary;
        assert!(is_primary(AddressScope::Universe, AddressFlags::Permanent));
        assert!(!is_primary(AddressScope::Link, AddressFlags::Permanent));
        assert!(!is_primary(AddressScope::Universe, AddressFlags::Secondary), "a temporary one");
        assert!(!is_primary(AddressScope::Universe, AddressFlags::Deprecated));
    }

    #[test]
    fn an_address_that_another_may_have_is_not_the_hosts() {
        for flags in [AddressFlags::Tentative, AddressFlags::Dadfailed | AddressFlags::Permanent] {
            assert_eq!(listed("2001:db8::3", AddressScope::Universe, flags), None);
        }
    }
}
