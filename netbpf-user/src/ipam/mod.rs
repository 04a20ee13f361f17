//! Addresses of a network: which are free, and which comes next.

mod pools;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::Part;
use crate::error::{Error, Result};

pub(crate) use pools::Pools;

/// The addresses of one subnet, of either family. What stands for the subnet as a whole and the gateway's address are never
/// given out.
#[derive(Debug)]
struct Pool {
    network: String,
    subnet: IpNet,
    /// The part of the subnet that addresses are chosen from.
    range: IpNet,
    gateway: IpAddr,
    /// Addresses that no container gets, by what they are for.
    reserved: BTreeMap<String, IpAddr>,
    used: BTreeSet<IpAddr>,
    last: IpAddr,
}

impl Pool {
    /// A pool with no address in use. `last` is the address given out last, if that is known.
    fn new(network: &str, part: &Part, reserved: &BTreeMap<String, IpAddr>, last: Option<IpAddr>) -> Self {
        let Part { subnet, range, gateway, .. } = *part;
        // Before the first: nobody has had any.
        let last = last.filter(|last| range.contains(last)).unwrap_or(range.broadcast());
        let reserved = reserved.clone();
        Self { network: network.into(), subnet, range, gateway, reserved, used: BTreeSet::new(), last }
    }

    fn is_of_family(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.gateway.is_ipv4()
    }

    /// The address given out last; what [`Pool::new`] needs after a restart.
    fn last(&self) -> IpAddr {
        self.last
    }

    /// Gives out the next free address after the one given out last, so that a freed address rests as long as possible.
    fn take(&mut self) -> Result<IpAddr> {
        let (first, end) = (bits(self.range.network()), bits(self.range.broadcast()));
        // Not their number, which for all addresses of IPv6 is one too many for the type.
        let following = (bits(self.last)..=end).skip(1).chain(first..=bits(self.last));
        let free = following
            .map(|bits| address(self.range, bits))
            .find(|address| !self.is_reserved(*address) && !self.used.contains(address));
        let address = free.ok_or_else(|| {
            Error::Exhausted(format!(
                "network {} ({}) has no free address: all {} are in use; remove containers, or use a larger subnet",
                self.network,
                self.range,
                self.used.iter().filter(|address| self.range.contains(*address)).count()
            ))
        })?;
        self.used.insert(address);
        self.last = address;
        Ok(address)
    }

    /// Gives out one address that somebody asked for.
    fn claim(&mut self, address: IpAddr) -> Result<()> {
        if !self.subnet.contains(&address) {
            return Err(Error::Invalid(format!(
                "address {address} is outside of network {} ({}): choose one inside",
                self.network, self.subnet
            )));
        }
        if let Some((name, _)) = self.reserved.iter().find(|(_, reserved)| **reserved == address) {
            return Err(Error::Invalid(format!(
                "address {address} is reserved as {name} in network {}: choose another",
                self.network
            )));
        }
        if self.is_reserved(address) {
            let what = match address {
                address if address == self.gateway => "the gateway",
                IpAddr::V4(_) => "the network or broadcast address",
                IpAddr::V6(_) => "the address of every router",
            };
            return Err(Error::Invalid(format!(
                "address {address} is {what} of network {}: choose another",
                self.network
            )));
        }
        if !self.used.insert(address) {
            return Err(Error::Conflict(format!(
                "address {address} is in use: choose another, or leave it to the pool"
            )));
        }
        Ok(())
    }

    /// Takes an address back.
    fn release(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }

    /// The first address of an IPv6 subnet is that of all its routers (RFC 4291 section 2.6.1); there is no broadcast address.
    fn is_reserved(&self, address: IpAddr) -> bool {
        address == self.subnet.network()
            || address == self.gateway
            || address.is_ipv4() && address == self.subnet.broadcast()
            || self.reserved.values().any(|reserved| *reserved == address)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address with these bits, of the family of a subnet that holds it.
fn address(family: IpNet, bits: u128) -> IpAddr {
    match family {
        IpNet::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GatewayMode;

    fn pool(subnet: &str, range: &str, last: Option<&str>) -> Pool {
        let subnet: IpNet = subnet.parse().unwrap();
        let part = Part {
            subnet,
            gateway: address(subnet, bits(subnet.network()) + 1),
            range: range.parse().unwrap(),
            mode: GatewayMode::Masquerade,
            external: None,
            snat: None,
        };
        let reserved = BTreeMap::from([("router".to_owned(), address(subnet, bits(subnet.network()) + 8))]);
        Pool::new("default", &part, &reserved, last.map(|last| last.parse().unwrap()))
    }

    fn take(pool: &mut Pool, count: usize) -> Vec<String> {
        (0..count).map(|_| pool.take().unwrap().to_string()).collect()
    }

    #[test]
    fn reserved_addresses_are_never_given_out_and_exhaustion_names_the_network() {
        let mut small = pool("10.0.0.0/29", "10.0.0.0/29", None);
        assert_eq!(take(&mut small, 5), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let full = small.take().unwrap_err().to_string();
        assert!(full.contains("default") && full.contains("10.0.0.0/29") && full.contains('5'), "{full}");
        let mut small = pool("fd00::/126", "fd00::/126", None);
        assert_eq!(take(&mut small, 2), ["fd00::2", "fd00::3"], "the last address is one as any other");
        assert!(small.take().unwrap_err().to_string().contains("fd00::/126"));
    }

    #[test]
    fn a_freed_address_rests_while_others_are_free() {
        for subnet in ["10.0.0.0/29", "fd00::/64"] {
            let mut pool = pool(subnet, subnet, None);
            let first = pool.take().unwrap();
            pool.release(first);
            assert_ne!(pool.take().unwrap(), first);
        }
    }

    #[test]
    fn the_largest_subnets_are_walked_round() {
        let end = Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe");
        let mut all = pool("::/0", "::/0", end);
        assert_eq!(take(&mut all, 2), ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::2"]);
        let mut wide = pool("fd00::/64", "fd00::/64", Some("fd00::ffff:ffff:ffff:fffe"));
        assert_eq!(take(&mut wide, 3), ["fd00::ffff:ffff:ffff:ffff", "fd00::2", "fd00::3"]);
        assert_eq!(wide.last().to_string(), "fd00::3");
    }

    #[test]
    fn addresses_come_from_the_range_and_may_be_asked_for_outside_of_it() {
        let mut pool = pool("fd00::/64", "fd00::1:0/126", Some("fd00::9"));
        pool.claim("fd00::7".parse().unwrap()).unwrap();
        assert_eq!(take(&mut pool, 4), ["fd00::1:0", "fd00::1:1", "fd00::1:2", "fd00::1:3"]);
        assert!(pool.take().unwrap_err().to_string().contains("all 4 are in use"));
    }

    #[test]
    fn a_static_address_must_be_inside_free_and_not_reserved() {
        let mut pool = pool("10.0.0.0/24", "10.0.0.0/24", None);
        let nine: IpAddr = Ipv4Addr::new(10, 0, 0, 9).into();
        pool.claim(nine).unwrap();
        let refused = |pool: &mut Pool, address: &str, word: &str| {
            let error = pool.claim(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(&mut pool, "10.0.0.0", "network or broadcast");
        refused(&mut pool, "10.0.0.255", "network or broadcast");
        refused(&mut pool, "10.0.1.0", "outside");
        refused(&mut pool, "fd00::1", "outside");
        refused(&mut pool, "10.0.0.9", "in use");
        refused(&mut pool, "10.0.0.1", "gateway");
        refused(&mut pool, "10.0.0.8", "reserved as router");
        assert!((0..251).all(|_| pool.take().unwrap() != nine));
        assert!(pool.take().is_err());
    }
}
