//! Settings that make no sense, each refused in one line.

use std::ops::RangeInclusive;

use super::addressing::{Addressing, VIRTUAL_PREFIX_V6};
use super::subnet::{self, LONGEST_TRANSLATED, invalid};
use super::{AddressPool, GatewayMode, MIN_HALF_OPEN, Settings, Xdp};
use crate::error::{Error, Result};

/// Largest flow count: two entries each, and `map_max_entries` of a hash is bounded by 2^31.
const FLOWS: RangeInclusive<u32> = 1024..=1 << 24;

/// An LRU map gives every CPU a stock of its own: a small one would forget what has just come.
const FRAGMENTS: RangeInclusive<u32> = 1024..=1 << 20;

impl Settings {
    /// Refuses what makes no sense, before anything is touched.
    pub fn validate(&self) -> Result<()> {
        for (name, path) in [("state_dir", &self.state_dir), ("run_dir", &self.run_dir), ("bpffs", &self.bpffs)] {
            if !path.is_absolute() {
                return invalid(format!(
                    "{name} '{}' is not an absolute path: give one that starts with /",
                    path.display()
                ));
            }
        }
        if self.xdp != Xdp::Off {
            return Err(Error::Unsupported("XDP on uplinks is not offered by this version: use --xdp off".into()));
        }
        subnet::check_mtu(self.mtu, self.ipv6)?;
        if !self.ipv4 && !self.ipv6 {
            return invalid("ipv4 and ipv6 are both off: switch at least one of them on".into());
        }
        if self.ipv4 {
            self.validate_ipv4()?;
        }
        if self.ipv6 {
            self.validate_ipv6()?;
        } else if let Some(subnet) = self.subnet_v6 {
            return invalid(format!(
                "subnet_v6 {subnet} is of no use while ipv6 is off: set ipv6 = true, or leave it out"
            ));
        }
        // What is drawn is looked at when it has been. Here only what the settings name may be in each other's way, so not a
        // subnet that happens to be one of an ID: no subnet is of two.
        Addressing::new(self, [0; 5]).or_else(|_| Addressing::new(self, [0xff; 5]))?;
        self.validate_pools()?;
        self.validate_sizes()
    }

    fn validate_ipv4(&self) -> Result<()> {
        subnet::check_subnet("subnet", self.subnet.into())?;
        subnet::check_gateway("gateway", self.gateway().into(), self.subnet.into())?;
        let virtuals = self.virtual_subnet;
        if virtuals.prefix_len() != 24 || virtuals.network() != virtuals.addr() {
            return invalid(format!("virtual_subnet {virtuals} is not a /24: write one as in 169.254.30.0/24"));
        }
        if self.mode == GatewayMode::Prefix {
            return invalid("mode \"prefix\" is for IPv6 alone (mode_v6): use masquerade, routed or closed".into());
        }
        Ok(())
    }

    fn validate_ipv6(&self) -> Result<()> {
        let no_subnet = |name: &str, what: &dyn std::fmt::Display| {
            invalid(format!("{name} {what} is of no subnet: name that too, as subnet_v6"))
        };
        match (self.subnet_v6, self.gateway_v6) {
            (Some(subnet), gateway) => {
                subnet::check_subnet("subnet_v6", subnet.into())?;
                gateway.map_or(Ok(()), |it| subnet::check_gateway("gateway_v6", it.into(), subnet.into()))?;
            }
            (None, Some(gateway)) => return no_subnet("gateway_v6", &gateway),
            (None, None) => {}
        }
        match (self.subnet_v6, self.fixed_cidr_v6) {
            (Some(subnet), Some(range)) => subnet::check_range("fixed_cidr_v6", range.into(), subnet.into())?,
            (None, Some(range)) => return no_subnet("fixed_cidr_v6", &range),
            (_, None) => {}
        }
        if let Some(virtuals) = self.virtual_subnet_v6 {
            subnet::check_net("virtual_subnet_v6", virtuals.into())?;
            if virtuals.prefix_len() != VIRTUAL_PREFIX_V6 {
                return invalid(format!(
                    "virtual_subnet_v6 {virtuals} is not a /{VIRTUAL_PREFIX_V6}: write one, or leave it out"
                ));
            }
        }
        self.validate_external()
    }

    fn validate_external(&self) -> Result<()> {
        let Some(external) = self.external_prefix_v6 else {
            return match self.mode_v6 {
                GatewayMode::Prefix => invalid(
                    "mode_v6 \"prefix\" needs to know what addresses are translated to: set external_prefix_v6".into(),
                ),
                _ => Ok(()),
            };
        };
        if self.mode_v6 != GatewayMode::Prefix {
            return invalid(format!(
                "external_prefix_v6 {external} is for mode_v6 = \"prefix\": set that, or leave the prefix out"
            ));
        }
        let length = self.subnet_v6.map_or(LONGEST_TRANSLATED, |subnet| subnet.prefix_len());
        subnet::check_external("external_prefix_v6", external.into(), length)
    }

    fn validate_pools(&self) -> Result<()> {
        for AddressPool { base, size } in &self.address_pools {
            subnet::check_net("address pool", (*base).into())?;
            if *size < base.prefix_len() || !(8..=29).contains(size) {
                return invalid(format!(
                    "address pool {base} cannot be cut into subnets of /{size}: choose a size from /{} to /29",
                    base.prefix_len().max(8)
                ));
            }
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<()> {
        if self.nat_ports.first < 1024 || self.nat_ports.last - self.nat_ports.first < 255 {
            return invalid(format!(
                "nat_ports {} is no use: take at least 256 ports, none below 1024",
                self.nat_ports
            ));
        }
        for (name, flows) in [("flows", self.flows), ("flows_v6", self.flows_v6)] {
            if !FLOWS.contains(&flows) {
                let (least, most) = (FLOWS.start(), FLOWS.end());
                return invalid(format!("{name} {flows} is out of range: choose {least} to {most}"));
            }
        }
        let fewest = self.flows.min(self.flows_v6);
        if !self.half_open.is_power_of_two() || self.half_open < MIN_HALF_OPEN || self.half_open > fewest {
            return invalid(format!(
                "half_open {} is no use: choose a power of two, at least {MIN_HALF_OPEN} and at most flows and flows_v6 \
                 ({fewest})",
                self.half_open
            ));
        }
        if !(1..=self.flows).contains(&self.flow_limit()) {
            return invalid(format!(
                "flows_per_container {} is out of range: choose 1 to flows ({})",
                self.flow_limit(),
                self.flows
            ));
        }
        for (name, fragments) in [("fragments", self.fragments), ("held_fragments", self.held_fragments)] {
            if !FRAGMENTS.contains(&fragments) {
                let (least, most) = (FRAGMENTS.start(), FRAGMENTS.end());
                return invalid(format!("{name} {fragments} is out of range: choose {least} to {most}"));
            }
        }
        if self.broadcast_rate == 0 {
            return invalid("broadcast_rate is 0: choose at least one per second".into());
        }
        for (name, seconds) in &self.timeouts {
            if !Self::TIMEOUT_NAMES.contains(&name.as_str()) {
                return invalid(format!("unknown timeout '{name}': there are {}", Self::TIMEOUT_NAMES.join(", ")));
            }
            if *seconds == 0 {
                return invalid(format!("timeout {name} is 0: choose at least one second"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        let line = settings.validate().unwrap_err().to_string();
        assert!(!line.contains('\n') && line.contains(": "), "what and why, then what to do: {line}");
        line
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(refused(|s| s.subnet = "172.30.0.5/16".parse().unwrap()).contains("172.30.0.0/16"));
        assert!(refused(|s| s.gateway = Some(Ipv4Addr::new(10, 0, 0, 1))).contains("gateway"));
        assert!(refused(|s| s.half_open = 1000).contains("power of two"));
        assert!(refused(|s| s.xdp = Xdp::Native).contains("--xdp off"));
        assert!(refused(|s| _ = s.timeouts.insert("tcp".into(), 1)).contains("tcp_syn_sent"));
        assert!(refused(|s| s.flows_per_container = Some(0)).contains("flows_per_container"));
        assert!(refused(|s| s.flows_per_container = Some(s.flows + 1)).contains("flows_per_container"));
        assert!(refused(|s| s.flows_v6 = 10).contains("flows_v6"));
        assert!(refused(|s| s.fragments = 10).contains("1024"));
        let pool = |base: &str, size| vec![AddressPool { base: base.parse().unwrap(), size }];
        assert!(refused(|s| s.address_pools = pool("10.0.0.0/16", 8)).contains("/16 to /29"));
        assert!(refused(|s| s.address_pools = pool("10.0.0.0/16", 30)).contains("/29"));
        assert!(refused(|s| s.address_pools = pool("10.0.0.1/16", 24)).contains("10.0.0.0/16"));
        assert!(refused(|s| s.broadcast_rate = 0).contains("broadcast_rate"));
        assert!(refused(|s| s.virtual_subnet = "172.30.7.0/24".parse().unwrap()).contains("overlaps"));
        assert!(refused(|s| s.mode = GatewayMode::Prefix).contains("IPv6 alone"));
        assert!(refused(|s| s.ipv4 = false).contains("both off"));
        assert!(refused(|s| s.subnet_v6 = "fd00::/64".parse().ok()).contains("ipv6 = true"));
    }

    #[test]
    fn ipv6_that_cannot_work_is_refused() {
        type Case = (fn(&mut Settings), &'static str);
        let cases: &[Case] = &[
            (|s| s.mtu = 1279, "1280"),
            (|s| s.subnet_v6 = "fd00::5/64".parse().ok(), "fd00::/64"),
            (|s| s.subnet_v6 = "fd00::/47".parse().ok(), "/48"),
            (|s| s.subnet_v6 = "fd00::/121".parse().ok(), "/120"),
            (|s| s.subnet_v6 = "ff05::/64".parse().ok(), "multicast"),
            (|s| s.subnet_v6 = "fe80::/64".parse().ok(), "link-local"),
            (|s| s.subnet_v6 = "::/64".parse().ok(), "reserved"),
            (|s| s.subnet_v6 = "::ffff:0:0/96".parse().ok(), "reserved"),
            (|s| s.gateway_v6 = "fd00::1".parse().ok(), "subnet_v6"),
            (|s| s.fixed_cidr_v6 = "fd00::/80".parse().ok(), "subnet_v6"),
            (|s| s.virtual_subnet_v6 = "fd00::/64".parse().ok(), "/120"),
            (|s| s.mode_v6 = GatewayMode::Prefix, "external_prefix_v6"),
            (|s| s.external_prefix_v6 = "2001:db8::/64".parse().ok(), "\"prefix\""),
        ];
        for (change, word) in cases {
            let mut settings = Settings { ipv6: true, ..Settings::default() };
            change(&mut settings);
            let line = settings.validate().unwrap_err().to_string();
            assert!(line.contains(word) && !line.contains('\n'), "{line}");
        }
        let in_subnet = |change: fn(&mut Settings)| {
            let mut settings =
                Settings { ipv6: true, subnet_v6: "2001:db8:1::/64".parse().ok(), ..Settings::default() };
            settings.validate().unwrap();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(in_subnet(|s| s.gateway_v6 = "2001:db8:2::1".parse().ok()).contains("gateway_v6"));
        assert!(in_subnet(|s| s.gateway_v6 = "2001:db8:1::".parse().ok()).contains("gateway_v6"));
        assert!(in_subnet(|s| s.fixed_cidr_v6 = "2001:db8:2::/80".parse().ok()).contains("fixed_cidr_v6"));
        assert!(in_subnet(|s| s.virtual_subnet_v6 = "2001:db8:1::/120".parse().ok()).contains("overlaps"));
        let translated = |subnet: &str, external: &str| {
            let settings = Settings {
                ipv6: true,
                subnet_v6: subnet.parse().ok(),
                mode_v6: GatewayMode::Prefix,
                external_prefix_v6: external.parse().ok(),
                ..Settings::default()
            };
            settings.validate().map_err(|error| error.to_string())
        };
        assert!(translated("fd00::/64", "2001:db8::/56").unwrap_err().contains("/64"));
        assert!(translated("fd00::/80", "2001:db8::/80").unwrap_err().contains("RFC 6296"));
        assert!(translated("fd00::/64", "fe80::/64").unwrap_err().contains("link-local"));
        translated("fd00::/64", "2001:db8::/64").unwrap();
        translated("fd00::/48", "2001:db8::/48").unwrap();
    }

    #[test]
    fn a_network_may_have_either_family_or_both() {
        for (ipv4, ipv6) in [(true, false), (true, true), (false, true)] {
            Settings { ipv4, ipv6, ..Settings::default() }.validate().unwrap();
        }
    }
}
