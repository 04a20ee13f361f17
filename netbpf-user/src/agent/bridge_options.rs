//! What is asked of a network in the datapath by `-o`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::requested::{invalid, parse};
use crate::config::{DeviceKind, GatewayMode};
use crate::error::Result;

/// Options of `-o` for the driver bridge, and Docker's names for them.
pub(super) const OPTIONS: &[(&str, &[&str])] = &[
    ("mtu", &["com.docker.network.driver.mtu"]),
    ("masquerade", &["com.docker.network.bridge.enable_ip_masquerade"]),
    ("mode", &["com.docker.network.bridge.gateway_mode_ipv4"]),
    ("mode_v6", &["com.docker.network.bridge.gateway_mode_ipv6"]),
    ("external_prefix_v6", &[]),
    ("snat", &["com.docker.network.host_ipv4"]),
    ("snat_v6", &["com.docker.network.host_ipv6"]),
    ("isolation", &[]),
    ("full_cone", &[]),
    ("clamp_mss", &[]),
    ("device", &[]),
];

/// The options, with their defaults.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) mtu: Option<u32>,
    pub(super) mode: GatewayMode,
    pub(super) mode_v6: GatewayMode,
    pub(super) external: Option<IpNet>,
    pub(super) snat: Option<IpAddr>,
    pub(super) snat_v6: Option<IpAddr>,
    pub(super) isolated: bool,
    pub(super) full_cone: Option<bool>,
    pub(super) clamp_mss: Option<bool>,
    pub(super) device: Option<DeviceKind>,
}

impl Options {
    pub(super) fn read<'a>(given: impl Iterator<Item = (&'a String, &'a String)>) -> Result<Self> {
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in given {
            let known = OPTIONS.iter().find(|(own, theirs)| *own == name || theirs.contains(&&**name));
            let Some((own, _)) = known else {
                let names: Vec<&str> = OPTIONS.iter().map(|(own, _)| *own).collect();
                return Err(invalid(format!(
                    "unknown option '{}': there are {}",
                    name.escape_debug(),
                    names.join(", ")
                )));
            };
            if values.insert(own, value).is_some() {
                return Err(invalid(format!("the option {own} is given twice, as {name} too: leave one out")));
            }
        }
        let switch = |name: &str| values.get(name).map(|value| on_or_off(name, value)).transpose();
        let mode = |name: &str| -> Result<Option<GatewayMode>> {
            let Some(value) = values.get(name) else { return Ok(None) };
            // Docker's words.
            let value = match *value {
                "nat" => "masquerade",
                "isolated" => "closed",
                value => value,
            };
            value.parse().map(Some).map_err(|error| invalid(format!("option {name}: {error}")))
        };
        let address = |name: &str, is_ipv4: bool, example: &str| -> Result<Option<IpAddr>> {
            let Some(text) = values.get(name) else { return Ok(None) };
            let address: IpAddr = parse(name, text, example)?;
            if address.is_ipv4() == is_ipv4 {
                return Ok(Some(address));
            }
            Err(invalid(format!("{name} {address} is of the other family: write one as {example}")))
        };
        let masquerades = switch("masquerade")?;
        let chosen = |mode: Option<GatewayMode>, name: &str| match (mode, masquerades) {
            (Some(mode), Some(masquerades)) if masquerades != (mode == GatewayMode::Masquerade) => {
                Err(invalid(format!("options masquerade and {name}={mode} say different things: leave one out")))
            }
            (None, Some(false)) => Ok(GatewayMode::Plain),
            (mode, _) => Ok(mode.unwrap_or_default()),
        };
        let (own, own_v6) = (chosen(mode("mode")?, "mode")?, chosen(mode("mode_v6")?, "mode_v6")?);
        if own == GatewayMode::Prefix {
            return Err(invalid("mode=prefix is for IPv6 alone (mode_v6): use masquerade, routed or closed".into()));
        }
        let (snat, snat_v6) = (address("snat", true, "10.0.0.1")?, address("snat_v6", false, "fd00::1")?);
        for (name, snat, mode) in [("snat", snat, own), ("snat_v6", snat_v6, own_v6)] {
            if let Some(snat) = snat.filter(|_| mode != GatewayMode::Masquerade) {
                return Err(invalid(format!(
                    "{name} {snat} is for masquerading, and the mode is {mode}: leave one out"
                )));
            }
        }
        Ok(Self {
            mtu: values.get("mtu").map(|text| parse("mtu", text, "1450")).transpose()?,
            mode: own,
            mode_v6: own_v6,
            external: values
                .get("external_prefix_v6")
                .map(|text| parse("prefix", text, "2001:db8::/64"))
                .transpose()?,
            snat,
            snat_v6,
            isolated: switch("isolation")?.unwrap_or(true),
            full_cone: switch("full_cone")?,
            clamp_mss: switch("clamp_mss")?,
            device: values.get("device").map(|value| value.parse().map_err(invalid)).transpose()?,
        })
    }
}

fn on_or_off(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err(invalid(format!("bad value '{}' of the option {name}: write on or off", value.escape_debug()))),
    }
}
