//! Which addresses networks have, with everything decided that the settings leave open.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{GatewayMode, Settings};
use crate::error::{Error, Result};

/// The 40 bits that tell the unique local addresses of one instance from those of others (RFC 4193 section 3.2.2).
pub(crate) type GlobalId = [u8; 5];

/// Length of the subnet of virtual IPv6 addresses.
pub(super) const VIRTUAL_PREFIX_V6: u8 = 120;

/// Subnet ID of the default network below the global ID, and that of the virtual addresses; those between are the numbers of
/// other networks.
const DEFAULT_SUBNET_ID: u16 = 0;
const VIRTUAL_SUBNET_ID: u16 = 0xffff;

/// One family's part of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its subnet.
    pub(crate) subnet: IpNet,
    /// Its gateway, an address of the host.
    pub(crate) gateway: IpAddr,
    /// Where containers get their addresses from.
    pub(crate) range: IpNet,
    /// How containers reach the world, and the world them.
    pub(crate) mode: GatewayMode,
    /// What the subnet is seen as outside, for [`GatewayMode::Prefix`].
    pub(crate) external: Option<IpNet>,
    /// The address of the host to masquerade under; the uplink's when absent.
    #[serde(default)]
    pub(crate) snat: Option<IpAddr>,
}

/// The addresses of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addressing {
    /// IPv4, if the network has it.
    pub(crate) v4: Option<Part>,
    /// IPv6, if the network has it.
    pub(crate) v6: Option<Part>,
}

/// What stands for the host's own addresses in `connect()`, also of an instance that leads nobody there: no other address may be
/// taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Virtuals {
    /// For IPv4.
    pub(crate) v4: Ipv4Net,
    /// For IPv6.
    pub(crate) v6: Ipv6Net,
}

impl Virtuals {
    /// Those that the settings name, and for the rest those of a global ID.
    pub(crate) fn new(settings: &Settings, id: GlobalId) -> Self {
        let drawn = || unique_local(id, VIRTUAL_SUBNET_ID, VIRTUAL_PREFIX_V6);
        Self { v4: settings.virtual_subnet, v6: settings.virtual_subnet_v6.unwrap_or_else(drawn) }
    }

    /// The address that clients on the host have by IPv6 where no network has it: the last of the virtual ones, which
    /// stands for no other.
    pub(crate) fn client_v6(&self) -> Ipv6Addr {
        self.v6.broadcast()
    }

    /// Those of the family of an address.
    pub(crate) fn of_family(&self, address: IpAddr) -> IpNet {
        if address.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

impl Addressing {
    /// The default network's: what the settings name, and for the rest addresses of a global ID.
    pub(crate) fn new(settings: &Settings, id: GlobalId) -> Result<Self> {
        let v4 = settings.ipv4.then(|| Part {
            subnet: settings.subnet().into(),
            gateway: settings.gateway().into(),
            range: settings.fixed_cidr.unwrap_or_else(|| settings.subnet()).into(),
            mode: settings.mode,
            external: None,
            snat: None,
        });
        let v6 = settings.ipv6.then(|| {
            let subnet = settings.subnet_v6.unwrap_or_else(|| unique_local(id, DEFAULT_SUBNET_ID, 64));
            let first = Ipv6Addr::from_bits(subnet.network().to_bits() + 1);
            Part {
                subnet: subnet.into(),
                gateway: settings.default_gateway_v6.unwrap_or(first).into(),
                range: settings.fixed_cidr_v6.unwrap_or(subnet).into(),
                mode: settings.mode_v6,
                external: settings.external_prefix_v6.map(IpNet::from),
                snat: None,
            }
        });
        let addressing = Self { v4, v6 };
        addressing.check_apart(&Virtuals::new(settings, id))?;
        Ok(addressing)
    }

    /// The parts that there are, IPv4 first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.v4.iter().chain(&self.v6)
    }

    /// The part of the family of an address.
    pub(crate) fn of_family(&self, address: IpAddr) -> Option<&Part> {
        self.parts().find(|part| part.gateway.is_ipv4() == address.is_ipv4())
    }

    /// Everything that belongs to the network, by what it is.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&'static str, IpNet)> {
        self.parts().flat_map(|part| {
            let external = part.external.map(|external| ("external prefix", external));
            std::iter::once(("subnet", part.subnet)).chain(external)
        })
    }

    /// No subnet may hold what is another's.
    pub(crate) fn check_apart(&self, virtuals: &Virtuals) -> Result<()> {
        let virtuals = [("virtual subnet", IpNet::from(virtuals.v4)), ("virtual subnet", virtuals.v6.into())];
        let claims: Vec<_> = self.claims().chain(virtuals).collect();
        for (place, (what, net)) in claims.iter().enumerate() {
            if let Some((other, their)) = claims[..place].iter().find(|(_, their)| overlap(*net, *their)) {
                return Err(Error::Invalid(format!("{what} {net} overlaps {other} {their}: move one of them")));
            }
        }
        Ok(())
    }
}

/// Whether two subnets have an address in common.
pub(crate) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// A subnet of the unique local addresses of a global ID (RFC 4193 section 3.1).
pub(crate) fn unique_local(id: GlobalId, subnet_id: u16, prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e] = id;
    let word = u16::from_be_bytes;
    let address = Ipv6Addr::from([word([0xfd, a]), word([b, c]), word([d, e]), subnet_id, 0, 0, 0, 0]);
    Ipv6Net::new_assert(address, prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: GlobalId = [0x12, 0x34, 0x56, 0x78, 0x9a];

    fn with(change: impl FnOnce(&mut Settings)) -> Result<Addressing> {
        let mut settings = Settings { ipv6: true, ..Settings::default() };
        change(&mut settings);
        Addressing::new(&settings, ID)
    }

    #[test]
    fn what_is_left_open_comes_from_the_global_id() {
        let addressing = with(|_| {}).unwrap();
        let v6 = addressing.v6.unwrap();
        assert_eq!(v6.subnet.to_string(), "fd12:3456:789a::/64");
        assert_eq!(v6.gateway.to_string(), "fd12:3456:789a::1");
        assert_eq!(v6.range, v6.subnet);
        let settings = Settings::default();
        assert_eq!(Virtuals::new(&settings, ID).v6.to_string(), "fd12:3456:789a:ffff::/120");
    }

    #[test]
    fn a_network_has_the_families_that_are_on() {
        let v6_only = with(|s| s.ipv4 = false).unwrap();
        assert!(v6_only.v4.is_none() && v6_only.parts().count() == 1);
        assert!(v6_only.of_family("10.0.0.1".parse().unwrap()).is_none());
        assert_eq!(with(|_| {}).unwrap().parts().count(), 2);
        let v4_only = with(|s| s.ipv6 = false).unwrap();
        assert!(v4_only.v6.is_none());
    }

    #[test]
    fn subnets_that_meet_are_refused() {
        let refused = |change: fn(&mut Settings)| with(change).unwrap_err().to_string();
        assert!(refused(|s| s.subnet_v6 = "fd12:3456:789a::/48".parse().ok()).contains("virtual subnet"));
        assert!(refused(|s| s.virtual_subnet = "172.30.7.0/24".parse().unwrap()).contains("overlaps"));
        let external = refused(|s| {
            s.subnet_v6 = "2001:db8::/64".parse().ok();
            s.external_prefix_v6 = "2001:db8::/64".parse().ok();
        });
        assert!(external.contains("external prefix"), "{external}");
    }
}
