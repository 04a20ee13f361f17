//! What of the host can get in the way of IPv6.

use crate::agent::Engine;
use crate::agent::host::{HOST_DEVICE, ROUTE_DEVICE, ipv6_of_devices};
use crate::api::types::Finding;
use crate::config::{GatewayMode, Part};
use crate::net::{has_ipv6, sysctl};

fn finding(check: &str, found: impl Into<String>, advice: Option<&str>) -> Finding {
    let advice = advice.unwrap_or_default().to_owned();
    Finding { check: check.into(), ok: advice.is_empty(), found: found.into(), advice }
}

impl Engine {
    /// What `doctor` has to say of IPv6; nothing where no network has any.
    pub(super) async fn ipv6_findings(&self) -> Vec<Finding> {
        let state = self.state.lock().await;
        if !state.networks.have(false) {
            return Vec::new();
        }
        let mut findings = vec![switch(has_ipv6(), sysctl::read(sysctl::ALL_OFF).as_deref())];
        let devices = [HOST_DEVICE, ROUTE_DEVICE].into_iter().zip(ipv6_of_devices(&state.networks));
        findings.push(own_devices(devices.filter_map(|(device, ipv6)| ipv6.differs(device)).collect()));
        let masquerades = |part: &Part| part.gateway.is_ipv6() && part.mode == GatewayMode::Masquerade;
        if state.networks.parts().any(masquerades) {
            let with = state.host.uplinks.values().filter(|uplink| uplink.v6.is_some());
            findings.push(sources(with.map(|uplink| uplink.name.clone()).collect()));
        }
        findings
    }
}

/// Whether the host has IPv6 switched off for all devices, its own included.
fn switch(has_ipv6: bool, all_off: Option<&str>) -> Finding {
    let (found, advice) = match (has_ipv6, all_off) {
        (true, Some("0")) => ("the host has IPv6 switched on", None),
        (true, _) => (
            "the host has IPv6 switched off for all devices (net.ipv6.conf.all.disable_ipv6 = 1)",
            Some(
                "containers reach no world by IPv6: set net.ipv6.conf.all.disable_ipv6 = 0 and that of the uplinks, or \
                 ipv6 = false in netbpf's settings",
            ),
        ),
        (false, _) => (
            "the kernel has no IPv6",
            Some("start it without ipv6.disable=1, or set ipv6 = false in netbpf's settings"),
        ),
    };
    finding("ipv6-host", found, advice)
}

/// Whether somebody has changed the settings of netbpf's own devices: router advertisements accepted, forwarding off.
fn own_devices(differences: Vec<String>) -> Finding {
    if differences.is_empty() {
        let found = format!(
            "{HOST_DEVICE} and {ROUTE_DEVICE} have the settings that netbpf gave them, and no router advertisements"
        );
        return finding("ipv6-devices", found, None);
    }
    let advice = "something on the host changes IPv6 settings of all devices; let it leave netbpf's alone, and restart the agent";
    finding("ipv6-devices", format!("changed by others: {}", differences.join(", ")), Some(advice))
}

/// Whether there is an address to masquerade under.
fn sources(uplinks: Vec<String>) -> Finding {
    if uplinks.is_empty() {
        let advice = "containers reach no world by IPv6: give an uplink a lasting global or unique local address, or set mode_v6 \
                      or ipv6 in netbpf's settings";
        return finding("ipv6-source", "no uplink has an IPv6 address to masquerade under", Some(advice));
    }
    finding("ipv6-source", format!("uplinks with an IPv6 address to masquerade under: {}", uplinks.join(", ")), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_what_to_do_unless_all_is_well() {
        assert!(switch(true, Some("0")).ok);
        assert!(switch(true, Some("1")).advice.contains("net.ipv6.conf.all.disable_ipv6 = 0"));
        assert!(switch(false, None).advice.contains("ipv6 = false"));
        assert!(sources(vec!["eth0".into()]).found.contains("eth0"));
        assert!(sources(Vec::new()).advice.contains("uplink"));
        assert!(own_devices(Vec::new()).ok);
        assert!(own_devices(vec!["net/ipv6/conf/netbpf0/accept_ra is 1".into()]).found.contains("accept_ra is 1"));
    }
}
