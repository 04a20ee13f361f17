//! The pools of a network with one or two address families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Pool;
use crate::config::Addressing;
use crate::error::{Error, Result};

/// One pool for each family that the network has, IPv4 first.
#[derive(Debug)]
pub(crate) struct Pools {
    network: String,
    pools: Vec<Pool>,
}

impl Pools {
    /// Pools with no address in use. `last` are the addresses given out last, as far as they are known.
    pub(crate) fn new(
        network: &str,
        addressing: &Addressing,
        reserved: &BTreeMap<String, IpAddr>,
        last: &[IpAddr],
    ) -> Self {
        let last = |family: IpAddr| last.iter().copied().find(|last| last.is_ipv4() == family.is_ipv4());
        let pools = addressing.parts().map(|part| Pool::new(network, part, reserved, last(part.gateway)));
        Self { network: network.into(), pools: pools.collect() }
    }

    /// The addresses given out last.
    pub(crate) fn last(&self) -> impl Iterator<Item = IpAddr> {
        self.pools.iter().map(Pool::last)
    }

    /// Gives out one address of each family: the one that was asked for, or the next. All or none.
    pub(crate) fn give(&mut self, asked: &[IpAddr]) -> Result<Vec<IpAddr>> {
        for address in asked {
            self.of(*address)?;
        }
        let mut given = Vec::new();
        let asked_of = |pool: &Pool| asked.iter().copied().find(|address| pool.is_of_family(*address));
        // What was asked for may be refused, so before anything is chosen: an address that was given out has to rest.
        let (claimed, chosen): (Vec<_>, Vec<_>) = self.pools.iter_mut().partition(|pool| asked_of(pool).is_some());
        for pool in claimed.into_iter().chain(chosen) {
            let result = match asked_of(pool) {
                Some(address) => pool.claim(address).map(|()| address),
                None => pool.take(),
            };
            match result {
                Ok(address) => given.push(address),
                Err(error) => {
                    self.release(given);
                    return Err(error);
                }
            }
        }
        given.sort_by_key(IpAddr::is_ipv6);
        Ok(given)
    }

    /// Notes an address that a container has.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<()> {
        self.of(address)?.claim(address)
    }

    /// Takes addresses back.
    pub(crate) fn release(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if let Ok(pool) = self.of(address) {
                pool.release(address);
            }
        }
    }

    fn of(&mut self, address: IpAddr) -> Result<&mut Pool> {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        self.pools.iter_mut().find(|pool| pool.is_of_family(address)).ok_or_else(|| {
            Error::Invalid(format!(
                "address {address} is of no use: network {} has no {family}; leave it out, or take a network that has",
                self.network
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    fn pools(ipv4: bool, ipv6: bool) -> Pools {
        let subnet_v6 = "fd00::/64".parse().ok().filter(|_| ipv6);
        let settings = Settings { ipv4, ipv6, subnet_v6, ..Settings::default() };
        let addressing = Addressing::new(&settings, [1; 5]).unwrap();
        Pools::new("default", &addressing, &BTreeMap::new(), &["fd00::9".parse().unwrap()])
    }

    fn give(pools: &mut Pools, asked: &[&str]) -> std::result::Result<Vec<String>, String> {
        let asked: Vec<IpAddr> = asked.iter().map(|text| text.parse().unwrap()).collect();
        let given = pools.give(&asked).map_err(|error| error.to_string())?;
        Ok(given.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_container_gets_one_address_of_each_family() {
        let mut both = pools(true, true);
        assert_eq!(give(&mut both, &[]).unwrap(), ["172.30.0.2", "fd00::a"]);
        assert_eq!(give(&mut both, &["fd00::5"]).unwrap(), ["172.30.0.3", "fd00::5"]);
        assert_eq!(give(&mut pools(false, true), &[]).unwrap(), ["fd00::a"]);
        assert_eq!(give(&mut pools(true, false), &[]).unwrap(), ["172.30.0.2"]);
    }

    #[test]
    fn an_address_of_a_family_that_is_off_is_refused() {
        let refused = give(&mut pools(true, false), &["fd00::5"]).unwrap_err();
        assert!(refused.contains("default has no IPv6"), "{refused}");
        let refused = give(&mut pools(false, true), &["172.30.0.5"]).unwrap_err();
        assert!(refused.contains("default has no IPv4"), "{refused}");
    }

    #[test]
    fn a_refusal_keeps_no_address() {
        let mut pools = pools(true, true);
        assert!(give(&mut pools, &["172.30.0.7", "fd00::1"]).unwrap_err().contains("gateway"));
        assert_eq!(give(&mut pools, &["172.30.0.7"]).unwrap()[0], "172.30.0.7");
        assert!(give(&mut pools, &["fd00::1"]).is_err());
        assert_eq!(give(&mut pools, &[]).unwrap()[0], "172.30.0.2", "none was passed over for it");
    }
}
