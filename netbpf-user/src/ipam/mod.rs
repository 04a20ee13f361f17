//! Addresses of a network: which are free, and which comes next.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::{Error, Result};

/// The addresses of one subnet. Network, broadcast and gateway address are never given out.
#[derive(Debug)]
pub(crate) struct Pool {
    network: String,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    used: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

impl Pool {
    /// A pool with no address in use. `last` is the address given out last, if that is known.
    pub(crate) fn new(network: &str, subnet: Ipv4Net, gateway: Ipv4Addr, last: Option<Ipv4Addr>) -> Self {
        let last = last.filter(|last| subnet.contains(last)).unwrap_or(subnet.network());
        Self { network: network.into(), subnet, gateway, used: BTreeSet::new(), last }
    }

    /// The address given out last; what [`Pool::new`] needs after a restart.
    pub(crate) fn last(&self) -> Ipv4Addr {
        self.last
    }

    /// Gives out the next free address after the one given out last, so that a freed address rests as long as possible.
    pub(crate) fn take(&mut self) -> Result<Ipv4Addr> {
        let (first, size) = (self.subnet.network().to_bits(), 1_u64 << (32 - self.subnet.prefix_len()));
        let start = u64::from(self.last.to_bits() - first);
        let free = (1..=size)
            .map(|step| Ipv4Addr::from_bits(first + ((start + step) % size) as u32))
            .find(|address| !self.is_reserved(*address) && !self.used.contains(address));
        let address = free.ok_or_else(|| {
            Error::Exhausted(format!(
                "network {} ({}) has no free address: all {} are in use; remove containers, or use a larger subnet",
                self.network,
                self.subnet,
                self.used.len()
            ))
        })?;
        self.used.insert(address);
        self.last = address;
        Ok(address)
    }

    /// Gives out one address that somebody asked for.
    pub(crate) fn claim(&mut self, address: Ipv4Addr) -> Result<()> {
        if !self.subnet.contains(&address) {
            return Err(Error::Invalid(format!(
                "address {address} is outside of network {} ({}): choose one inside",
                self.network, self.subnet
            )));
        }
        if self.is_reserved(address) {
            let what = if address == self.gateway { "the gateway" } else { "the network or broadcast address" };
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
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        address == self.subnet.network() || address == self.subnet.broadcast() || address == self.gateway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> Pool {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        let gateway = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
        Pool::new("default", subnet, gateway, None)
    }

    #[test]
    fn reserved_addresses_are_never_given_out_and_exhaustion_names_the_network() {
        let mut pool = pool("10.0.0.0/29");
        let taken: Vec<_> = (0..5).map(|_| pool.take().unwrap().octets()[3]).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        let full = pool.take().unwrap_err().to_string();
        assert!(full.contains("default") && full.contains("10.0.0.0/29") && full.contains('5'), "{full}");
    }

    #[test]
    fn a_freed_address_rests_while_others_are_free() {
        let mut pool = pool("10.0.0.0/29");
        let first = pool.take().unwrap();
        pool.release(first);
        assert_ne!(pool.take().unwrap(), first);
    }

    #[test]
    fn a_static_address_must_be_inside_free_and_not_reserved() {
        let mut pool = pool("10.0.0.0/24");
        pool.claim(Ipv4Addr::new(10, 0, 0, 9)).unwrap();
        let refused = |pool: &mut Pool, last, word: &str| {
            let error = pool.claim(Ipv4Addr::new(10, 0, last, 0)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(&mut pool, 0, "network or broadcast");
        refused(&mut pool, 1, "outside");
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 9)).unwrap_err().to_string().contains("in use"));
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 1)).unwrap_err().to_string().contains("gateway"));
        assert!((0..252).all(|_| pool.take().unwrap() != Ipv4Addr::new(10, 0, 0, 9)));
        assert!(pool.take().is_err());
    }
}
