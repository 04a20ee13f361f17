//! What is asked of a network on a device of the host, and what of that is not for it.

use super::bridge_options::OPTIONS;
use super::requested::invalid;
use crate::api::types::NetworkRequest;
use crate::error::Result;
use crate::store::Mode;

/// The device that a network is to lie on.
const PARENT: &str = "parent";

/// A request for such a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LanRequest {
    /// Name of that device; one is made when absent.
    pub(super) parent: Option<String>,
    /// How its containers see each other and the rest.
    pub(super) mode: Mode,
}

/// Whether an option is one of such networks.
pub(super) fn is_option(name: &str) -> bool {
    name == PARENT || Mode::ALL.iter().any(|modes| modes[0].option() == name)
}

impl LanRequest {
    /// What a request says of it; nothing where the driver is bridge.
    pub(super) fn read(request: &NetworkRequest) -> Result<Option<Self>> {
        let driver = &*request.driver;
        if matches!(driver, "" | "bridge") {
            return match request.options.keys().find(|name| is_option(name)) {
                Some(name) => Err(invalid(format!(
                    "the option {name} is not for the driver bridge: add -d macvlan or -d ipvlan, or leave it out"
                ))),
                None => Ok(None),
            };
        }
        let Some(modes) = Mode::ALL.into_iter().find(|modes| modes[0].driver() == driver) else {
            return Err(invalid(format!(
                "there is no driver '{}': there are bridge, macvlan and ipvlan",
                driver.escape_debug()
            )));
        };
        let (default, option) = (modes[0], modes[0].option());
        let its = [PARENT, option, "mtu", "com.docker.network.driver.mtu"];
        if let Some(name) = request.options.keys().find(|name| !its.contains(&&***name)) {
            let is_of_bridge = OPTIONS.iter().any(|(own, theirs)| own == name || theirs.contains(&&**name));
            return Err(invalid(match name.as_str() {
                "mode" => format!("the option mode is for the driver bridge: that of {driver} is {option}"),
                _ if is_of_bridge || is_option(name) => {
                    format!("the option {name} is not for the driver {driver}: leave it out, or choose another driver")
                }
                _ => format!("unknown option '{}': {driver} has {PARENT}, {option} and mtu", name.escape_debug()),
            }));
        }
        let mode = match request.options.get(option) {
            None => default,
            Some(text) => modes.iter().copied().find(|mode| mode.name() == text).ok_or_else(|| {
                let names: Vec<&str> = modes.iter().map(|mode| mode.name()).collect();
                invalid(format!("there is no {option} '{}': there are {}", text.escape_debug(), names.join(", ")))
            })?,
        };
        let parent = request.options.get(PARENT).cloned();
        if parent.is_none() && !request.internal {
            return Err(invalid(format!(
                "{driver} lies on a device of the host: name it with -o {PARENT}=DEVICE, or add --internal for a network that leads \
                 nowhere"
            )));
        }
        if mode.is_routed()
            && let Some(gateway) = request.gateways.first()
        {
            return Err(invalid(format!(
                "gateway {gateway} is of no use with {option}={}, whose device leads everywhere by itself: leave it out",
                mode.name()
            )));
        }
        Ok(Some(Self { parent, mode }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(driver: &str, options: &[(&str, &str)]) -> std::result::Result<Option<LanRequest>, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = NetworkRequest { name: "n".into(), driver: driver.into(), options, ..NetworkRequest::default() };
        LanRequest::read(&request).map_err(|error| error.to_string())
    }

    #[test]
    fn dockers_options_say_where_a_network_lies_and_how() {
        let on_eth0 = |mode| Ok(Some(LanRequest { parent: Some("eth0".into()), mode }));
        let parent = ("parent", "eth0");
        assert_eq!(read("macvlan", &[parent]), on_eth0(Mode::Bridge));
        assert_eq!(read("macvlan", &[parent, ("macvlan_mode", "passthru"), ("mtu", "1400")]), on_eth0(Mode::Passthru));
        assert_eq!(read("ipvlan", &[parent]), on_eth0(Mode::L2));
        assert_eq!(read("ipvlan", &[parent, ("ipvlan_mode", "l3s")]), on_eth0(Mode::L3s));
        assert_eq!(read("bridge", &[("mode", "routed")]), Ok(None));
    }

    #[test]
    fn what_is_for_another_driver_is_refused_in_one_line() {
        let parent = ("parent", "eth0");
        for (driver, options, word) in [
            ("overlay", &[][..], "overlay"),
            ("bridge", &[parent], "parent"),
            ("", &[("macvlan_mode", "bridge")], "macvlan_mode"),
            ("macvlan", &[], "-o parent="),
            ("macvlan", &[parent, ("macvlan_mode", "l2")], "passthru"),
            ("macvlan", &[parent, ("ipvlan_mode", "l2")], "ipvlan_mode"),
            ("macvlan", &[parent, ("mode", "private")], "macvlan_mode"),
            ("macvlan", &[parent, ("masquerade", "off")], "masquerade"),
            ("macvlan", &[parent, ("com.docker.network.bridge.enable_ip_masquerade", "true")], "enable_ip_masquerade"),
            ("macvlan", &[parent, ("isolation", "off")], "isolation"),
            ("macvlan", &[parent, ("snat", "10.0.0.1")], "snat"),
            ("macvlan", &[parent, ("full_cone", "on")], "full_cone"),
            ("ipvlan", &[parent, ("clamp_mss", "on")], "clamp_mss"),
            ("macvlan", &[parent, ("device", "netkit")], "device"),
            ("ipvlan", &[parent, ("device", "veth")], "device"),
            ("ipvlan", &[parent, ("ipvlan_mode", "bridge")], "l3s"),
            ("ipvlan", &[parent, ("speed", "high")], "speed"),
        ] {
            let line = read(driver, options).unwrap_err();
            assert!(line.contains(word) && !line.contains('\n'), "`{word}` is not named: {line}");
        }
    }

    #[test]
    fn a_network_of_a_driver_without_a_link_has_no_gateway_and_one_that_leads_nowhere_no_parent() {
        let mut request = NetworkRequest { driver: "ipvlan".into(), ..NetworkRequest::default() };
        request.options.insert("ipvlan_mode".into(), "l3".into());
        request.internal = true;
        assert_eq!(LanRequest::read(&request).unwrap(), Some(LanRequest { parent: None, mode: Mode::L3 }));
        request.gateways.push("10.5.0.1".into());
        let line = LanRequest::read(&request).unwrap_err().to_string();
        assert!(line.contains("10.5.0.1") && line.contains("ipvlan_mode=l3"), "{line}");
    }
}
