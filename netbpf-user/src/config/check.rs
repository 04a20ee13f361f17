//! Settings that make no sense, each refused in one line.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::addressing::{Addressing, VIRTUAL_PREFIX_V6};
use super::subnet::{self, LONGEST_TRANSLATED};
use super::{AddressPool, GatewayMode, MIN_HALF_OPEN, Settings};
use crate::agent::check_resolver;
use crate::error::{Error, Result};

/// Largest flow count: two entries each, and `map_max_entries` of a hash is bounded by 2^31.
const FLOWS: RangeInclusive<u32> = 1024..=1 << 24;

/// An LRU map gives every CPU a stock of its own: a small one would forget what has just come.
const FRAGMENTS: RangeInclusive<u32> = 1024..=1 << 20;

/// Why settings make no sense, and which of them are to blame: of several, the first that somebody has set.
#[derive(Debug)]
pub(super) struct Nonsense {
    pub(super) settings: &'static [&'static str],
    pub(super) error: Error,
}

type Sense = std::result::Result<(), Nonsense>;

/// Blames a setting for what was refused.
trait Blame {
    fn blame(self, settings: &'static [&'static str]) -> Sense;
}

impl Blame for Result<()> {
    fn blame(self, settings: &'static [&'static str]) -> Sense {
        self.map_err(|error| Nonsense { settings, error })
    }
}

fn nonsense(settings: &'static [&'static str], line: String) -> Sense {
    subnet::invalid(line).blame(settings)
}

impl Settings {
    /// Refuses what makes no sense, before anything is touched.
    pub fn validate(&self) -> Result<()> {
        self.make_sense().map_err(|nonsense| nonsense.error)
    }

    pub(super) fn make_sense(&self) -> Sense {
        for (name, path) in
            [(&["state_dir"], &self.state_dir), (&["run_dir"], &self.run_dir), (&["bpffs"], &self.bpffs)]
        {
            if !path.is_absolute() {
                let line =
                    format!("{} '{}' is not an absolute path: give one that starts with /", name[0], path.display());
                return nonsense(name, line);
            }
        }
        subnet::check_mtu(self.mtu, self.ipv6).blame(&["mtu"])?;
        if !self.ipv4 && !self.ipv6 {
            return nonsense(&["ipv4"], "ipv4 and ipv6 are both off: switch at least one of them on".into());
        }
        self.check_ipv4()?;
        self.check_ipv6()?;
        // What is drawn is looked at when it has been. Here only what the settings name may be in each other's way, so not a
        // subnet that happens to be one of an ID: no subnet is of two.
        let apart = Addressing::new(self, [0; 5]).or_else(|_| Addressing::new(self, [0xff; 5]));
        let subnets = &["virtual_subnet_v6", "virtual_subnet", "external_prefix_v6", "subnet_v6", "subnet", "bip"];
        apart.map(|_| ()).blame(subnets)?;
        self.check_pools()?;
        check_resolver(&self.dns, &[], &[]).blame(&["dns"])?;
        check_resolver(&[], &self.dns_search, &[]).blame(&["dns_search"])?;
        check_resolver(&[], &[], &self.dns_options).blame(&["dns_options"])?;
        self.check_sizes()
    }

    fn check_ipv4(&self) -> Sense {
        if !self.ipv4 {
            idle(&["bip"], &self.bip, "ipv4")?;
            idle(&["subnet"], &self.subnet, "ipv4")?;
            idle(&["default_gateway"], &self.default_gateway, "ipv4")?;
            return idle(&["fixed_cidr"], &self.fixed_cidr, "ipv4");
        }
        if let Some(bip) = self.bip {
            let twice = |name: &str, what: &dyn Display| {
                let line = format!("bip {bip} and {name} {what} say the same thing twice: leave one of them out");
                nonsense(&["bip"], line)
            };
            self.subnet.map_or(Ok(()), |subnet| twice("subnet", &subnet))?;
            self.default_gateway.map_or(Ok(()), |gateway| twice("default_gateway", &gateway))?;
            subnet::check_subnet("bip", bip.trunc().into()).blame(&["bip"])?;
        }
        let subnet = self.subnet().into();
        subnet::check_subnet("subnet", subnet).blame(&["subnet"])?;
        let gateway = if self.bip.is_some() { "bip" } else { "default_gateway" };
        subnet::check_gateway(gateway, self.gateway().into(), subnet).blame(&["bip", "default_gateway"])?;
        if let Some(range) = self.fixed_cidr {
            subnet::check_range("fixed_cidr", range.into(), subnet).blame(&["fixed_cidr"])?;
        }
        let virtuals = self.virtual_subnet;
        if virtuals.prefix_len() != 24 || virtuals.network() != virtuals.addr() {
            let line = format!("virtual_subnet {virtuals} is not a /24: write one as in 169.254.30.0/24");
            return nonsense(&["virtual_subnet"], line);
        }
        if self.mode == GatewayMode::Prefix {
            let line = "mode \"prefix\" is for IPv6 alone (mode_v6): use masquerade, routed or closed";
            return nonsense(&["mode"], line.into());
        }
        Ok(())
    }

    fn check_ipv6(&self) -> Sense {
        if !self.ipv6 {
            idle(&["subnet_v6"], &self.subnet_v6, "ipv6")?;
            idle(&["default_gateway_v6"], &self.default_gateway_v6, "ipv6")?;
            idle(&["fixed_cidr_v6"], &self.fixed_cidr_v6, "ipv6")?;
            return idle(&["external_prefix_v6"], &self.external_prefix_v6, "ipv6");
        }
        let no_subnet = |name: &'static [&'static str], what: &dyn Display| {
            nonsense(name, format!("{} {what} is of no subnet: name that too, as subnet_v6", name[0]))
        };
        match (self.subnet_v6, self.default_gateway_v6) {
            (Some(subnet), gateway) => {
                subnet::check_subnet("subnet_v6", subnet.into()).blame(&["subnet_v6"])?;
                let check = |it| subnet::check_gateway("default_gateway_v6", it, subnet.into());
                gateway.map_or(Ok(()), |it| check(it.into())).blame(&["default_gateway_v6"])?;
            }
            (None, Some(gateway)) => return no_subnet(&["default_gateway_v6"], &gateway),
            (None, None) => {}
        }
        match (self.subnet_v6, self.fixed_cidr_v6) {
            (Some(subnet), Some(range)) => {
                subnet::check_range("fixed_cidr_v6", range.into(), subnet.into()).blame(&["fixed_cidr_v6"])?;
            }
            (None, Some(range)) => return no_subnet(&["fixed_cidr_v6"], &range),
            (_, None) => {}
        }
        if let Some(virtuals) = self.virtual_subnet_v6 {
            let blame = &["virtual_subnet_v6"];
            subnet::check_net("virtual_subnet_v6", virtuals.into()).blame(blame)?;
            if virtuals.prefix_len() != VIRTUAL_PREFIX_V6 {
                let line =
                    format!("virtual_subnet_v6 {virtuals} is not a /{VIRTUAL_PREFIX_V6}: write one, or leave it out");
                return nonsense(blame, line);
            }
        }
        self.check_external()
    }

    fn check_external(&self) -> Sense {
        let Some(external) = self.external_prefix_v6 else {
            return match self.mode_v6 {
                GatewayMode::Prefix => nonsense(
                    &["mode_v6"],
                    "mode_v6 \"prefix\" needs to know what addresses are translated to: set external_prefix_v6".into(),
                ),
                _ => Ok(()),
            };
        };
        let blame = &["external_prefix_v6"];
        if self.mode_v6 != GatewayMode::Prefix {
            let line =
                format!("external_prefix_v6 {external} is for mode_v6 = \"prefix\": set that, or leave the prefix out");
            return nonsense(blame, line);
        }
        let length = self.subnet_v6.map_or(LONGEST_TRANSLATED, |subnet| subnet.prefix_len());
        subnet::check_external("external_prefix_v6", external.into(), length).blame(blame)
    }

    fn check_pools(&self) -> Sense {
        let blame = &["default_address_pools"];
        for AddressPool { base, size } in &self.default_address_pools {
            subnet::check_net("address pool", (*base).into()).blame(blame)?;
            if *size < base.prefix_len() || !(8..=29).contains(size) {
                let least = base.prefix_len().max(8);
                return nonsense(
                    blame,
                    format!(
                        "address pool {base} cannot be cut into subnets of /{size}: choose a size from /{least} to /29"
                    ),
                );
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Sense {
        if self.nat_ports.first < 1024 || self.nat_ports.last - self.nat_ports.first < 255 {
            let line = format!("nat_ports {} is no use: take at least 256 ports, none below 1024", self.nat_ports);
            return nonsense(&["nat_ports"], line);
        }
        in_range(&["flows"], self.flows, FLOWS)?;
        in_range(&["flows_v6"], self.flows_v6, FLOWS)?;
        let fewest = self.flows.min(self.flows_v6);
        if !self.half_open.is_power_of_two() || self.half_open < MIN_HALF_OPEN || self.half_open > fewest {
            let line = format!(
                "half_open {} is no use: choose a power of two, at least {MIN_HALF_OPEN} and at most flows and flows_v6 \
                 ({fewest})",
                self.half_open
            );
            return nonsense(&["half_open", "flows", "flows_v6"], line);
        }
        if !(1..=self.flows).contains(&self.flow_limit()) {
            let line = format!(
                "flows_per_container {} is out of range: choose 1 to flows ({})",
                self.flow_limit(),
                self.flows
            );
            return nonsense(&["flows_per_container", "flows"], line);
        }
        in_range(&["fragments"], self.fragments, FRAGMENTS)?;
        in_range(&["held_fragments"], self.held_fragments, FRAGMENTS)?;
        if self.broadcast_rate == 0 {
            return nonsense(&["broadcast_rate"], "broadcast_rate is 0: choose at least one per second".into());
        }
        for (name, seconds) in &self.timeouts {
            if !Self::TIMEOUT_NAMES.contains(&name.as_str()) {
                let line = format!("unknown timeout '{name}': there are {}", Self::TIMEOUT_NAMES.join(", "));
                return nonsense(&["timeouts"], line);
            }
            if *seconds == 0 {
                return nonsense(&["timeouts"], format!("timeout {name} is 0: choose at least one second"));
            }
        }
        Ok(())
    }
}

/// Refuses what is said of a family that is off.
fn idle(name: &'static [&'static str], said: &Option<impl Display>, family: &str) -> Sense {
    let Some(said) = said else { return Ok(()) };
    let name_of = name[0];
    nonsense(name, format!("{name_of} {said} is of no use while {family} is off: set {family} = true, or leave it out"))
}

fn in_range(name: &'static [&'static str], value: u32, range: RangeInclusive<u32>) -> Sense {
    if range.contains(&value) {
        return Ok(());
    }
    nonsense(name, format!("{} {value} is out of range: choose {} to {}", name[0], range.start(), range.end()))
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
        assert!(refused(|s| s.subnet = "172.30.0.5/16".parse().ok()).contains("172.30.0.0/16"));
        assert!(refused(|s| s.default_gateway = Some(Ipv4Addr::new(10, 0, 0, 1))).contains("gateway"));
        assert!(refused(|s| s.half_open = 1000).contains("power of two"));
        assert!(refused(|s| _ = s.timeouts.insert("tcp".into(), 1)).contains("tcp_syn_sent"));
        assert!(refused(|s| s.flows_per_container = Some(0)).contains("flows_per_container"));
        assert!(refused(|s| s.flows_per_container = Some(s.flows + 1)).contains("flows_per_container"));
        assert!(refused(|s| s.flows_v6 = 10).contains("flows_v6"));
        assert!(refused(|s| s.fragments = 10).contains("1024"));
        let pool = |base: &str, size| vec![AddressPool { base: base.parse().unwrap(), size }];
        assert!(refused(|s| s.default_address_pools = pool("10.0.0.0/16", 8)).contains("/16 to /29"));
        assert!(refused(|s| s.default_address_pools = pool("10.0.0.0/16", 30)).contains("/29"));
        assert!(refused(|s| s.default_address_pools = pool("10.0.0.1/16", 24)).contains("10.0.0.0/16"));
        assert!(refused(|s| s.broadcast_rate = 0).contains("broadcast_rate"));
        assert!(refused(|s| s.virtual_subnet = "172.30.7.0/24".parse().unwrap()).contains("overlaps"));
        assert!(refused(|s| s.mode = GatewayMode::Prefix).contains("IPv6 alone"));
        assert!(refused(|s| s.ipv4 = false).contains("both off"));
        assert!(refused(|s| s.subnet_v6 = "fd00::/64".parse().ok()).contains("ipv6 = true"));
        assert!(refused(|s| s.fixed_cidr_v6 = "fd00::/64".parse().ok()).contains("ipv6 = true"));
        assert!(
            refused(|s| (s.ipv4, s.ipv6, s.bip) = (false, true, "10.0.0.1/8".parse().ok())).contains("ipv4 = true")
        );
        assert!(refused(|s| s.dns = vec!["0.0.0.0".parse().unwrap()]).contains("0.0.0.0"));
        assert!(refused(|s| s.dns_search = vec!["a..b".into()]).contains("a..b"));
        assert!(refused(|s| s.dns_options = vec!["a b".into()]).contains("a b"));
    }

    #[test]
    fn what_docker_says_of_the_default_network_is_said_once_and_makes_sense() {
        let with_bip = |bip: &str, change: fn(&mut Settings)| {
            refused(|s| {
                s.bip = bip.parse().ok();
                change(s);
            })
        };
        assert!(with_bip("10.5.0.1/24", |s| s.subnet = "10.5.0.0/24".parse().ok()).contains("subnet 10.5.0.0/24"));
        let twice = with_bip("10.5.0.1/24", |s| s.default_gateway = "10.5.0.1".parse().ok());
        assert!(twice.contains("default_gateway 10.5.0.1"), "{twice}");
        assert!(with_bip("10.5.0.0/24", |_| {}).contains("bip 10.5.0.0 is no host address"));
        assert!(with_bip("10.5.0.255/24", |_| {}).contains("no host address"));
        assert!(with_bip("10.5.0.1/30", |_| {}).contains("/29"));
        assert!(with_bip("10.5.0.1/24", |s| s.fixed_cidr = "10.6.0.0/25".parse().ok()).contains("fixed_cidr"));
        assert!(refused(|s| s.fixed_cidr = "172.30.0.1/24".parse().ok()).contains("host bits"));
        assert!(refused(|s| s.fixed_cidr = "172.30.0.0/31".parse().ok()).contains("room"));
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
            (|s| s.default_gateway_v6 = "fd00::1".parse().ok(), "subnet_v6"),
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
        assert!(in_subnet(|s| s.default_gateway_v6 = "2001:db8:2::1".parse().ok()).contains("default_gateway_v6"));
        assert!(in_subnet(|s| s.default_gateway_v6 = "2001:db8:1::".parse().ok()).contains("default_gateway_v6"));
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
