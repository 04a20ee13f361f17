//! Devices of the host that networks lie on: which can be one, and those that are made for it.

use netbpf_common::wire::Mac;

use super::Engine;
use super::host::is_own;
use super::lan_options::LanRequest;
use super::network::{Networks, random_id};
use super::state::State;
use crate::error::{Context as _, Error, Result};
use crate::net::device::{Device, Framing};
use crate::net::lan::NewLan;
use crate::net::namespace::Namespace;
use crate::net::{Netlink, sysctl, wireless};
use crate::store::{Lan, Made, Mode, NetworkRecord};

/// Longest name of a device (IFNAMSIZ).
const LONGEST_NAME: usize = 15;

/// MTU of a device that leads nowhere.
const DUMMY_MTU: u32 = 1500;

/// A device that a network can lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// Its name.
    pub(super) name: String,
    /// What it is, if it has to be made.
    pub(super) made: Option<Made>,
    /// Its MTU, which those on it cannot exceed.
    pub(super) mtu: u32,
}

impl Engine {
    /// The device that a network is to lie on. Changes nothing.
    pub(super) async fn find_parent(&self, state: &State, request: &LanRequest) -> Result<Parent> {
        let Some(name) = &request.parent else {
            // As Docker names them.
            let name = format!("dm-{}", &random_id()[..12]);
            return Ok(Parent { name, made: Some(Made::Dummy), mtu: DUMMY_MTU });
        };
        let devices = self.netlink.devices().await?;
        let (device, made) = find(name, &devices, self.gateway_mac)?;
        let is_wireless = wireless::is_wireless(device.ifindex);
        let is_wireless = is_wireless.context(|| format!("ask whether {} is wireless", device.name))?;
        let is_own = is_own(device, self.gateway_mac) || state.taps().contains(&device.ifindex);
        check(device, request.mode, is_own, is_wireless)?;
        check_others(&state.networks, name, request.mode)?;
        Ok(Parent { name: name.clone(), made, mtu: device.mtu })
    }

    /// Makes the parent if that is needed, and tries whether the kernel puts on it what is to lie there.
    pub(super) async fn prepare_parent(&self, lan: &Lan) -> Result<()> {
        self.make_parent(lan).await?;
        let tried = self.try_parent(lan).await;
        if tried.is_err()
            && let Err(error) = self.remove_parent(lan).await
        {
            tracing::warn!("while undoing: {error}");
        }
        tried
    }

    /// Makes the parent if it is one that was or is to be made, and is not there.
    pub(super) async fn make_parent(&self, lan: &Lan) -> Result<()> {
        let Some(made) = &lan.made else { return Ok(()) };
        if self.netlink.device_named(&lan.parent).await?.is_some() {
            return Ok(());
        }
        match made {
            Made::Dummy => self.netlink.make_dummy(&lan.parent).await,
            Made::Vlan { on, id } => {
                let on = self.netlink.device_named(on).await?.ok_or_else(|| gone(on))?;
                self.netlink.make_vlan(&lan.parent, on.ifindex, *id).await?;
                // The host itself learns nothing from whoever is there.
                sysctl::write_where_present(&format!("ipv6/conf/{}/accept_ra", lan.parent), "0")
            }
        }
    }

    /// Removes the parent if it was made.
    pub(super) async fn remove_parent(&self, lan: &Lan) -> Result<()> {
        remove_parent(&self.netlink, lan).await
    }

    /// Where nobody sees it and nothing is kept of it.
    async fn try_parent(&self, lan: &Lan) -> Result<()> {
        use std::os::fd::AsFd as _;
        const NAME: &str = "try";
        let parent = self.netlink.device_named(&lan.parent).await?.ok_or_else(|| gone(&lan.parent))?;
        let nowhere = Namespace::make_unnamed().await?;
        let new = NewLan {
            name: NAME,
            parent: (parent.ifindex, &parent.name),
            mode: lan.mode,
            mac: None,
            mtu: None,
            namespace: nowhere.as_fd(),
        };
        self.netlink.make_lan(&new).await?;
        // Not left to the end of the namespace, which takes the kernel some time.
        let inside = nowhere.run(Netlink::open).await?;
        match inside.device_named(NAME).await? {
            Some(device) => inside.delete_device(device.ifindex).await,
            None => Ok(()),
        }
    }

    /// Takes away the parent of a network that is no more, unless another lies on it, which has it then.
    pub(super) async fn leave_parent(&self, state: &mut State, removed: &NetworkRecord) -> Result<()> {
        let Some(lan) = removed.driver.lan().filter(|lan| lan.made.is_some()) else { return Ok(()) };
        match state.networks.leave_to_another(lan) {
            Some(heir) => self.store.save(&crate::store::Changes { networks: vec![heir], ..Default::default() }),
            None => self.remove_parent(lan).await,
        }
    }
}

/// Removes a parent that was made.
pub(super) async fn remove_parent(netlink: &Netlink, lan: &Lan) -> Result<()> {
    if lan.made.is_none() {
        return Ok(());
    }
    match netlink.device_named(&lan.parent).await? {
        Some(device) => netlink.delete_device(device.ifindex).await,
        None => Ok(()),
    }
}

pub(super) fn gone(parent: &str) -> Error {
    Error::Conflict(format!("the device {parent} is gone: bring it back, or remove the network that lies on it"))
}

/// The device of a name; where there is none and the name is that of a VLAN of one that is there (eth0.50), that one, and what
/// is to be made.
fn find<'a>(name: &str, devices: &'a [Device], gateway_mac: Mac) -> Result<(&'a Device, Option<Made>)> {
    let named = |name: &str| devices.iter().find(|device| device.name == name);
    if let Some(device) = named(name) {
        return Ok((device, None));
    }
    let vlan = name.rsplit_once('.').filter(|_| name.len() <= LONGEST_NAME).and_then(|(on, id)| {
        let is_number = id.bytes().all(|byte| byte.is_ascii_digit()) && !id.starts_with('0');
        let id = id.parse().ok().filter(|id| is_number && (1..=4094).contains(id))?;
        Some((named(on)?, Some(Made::Vlan { on: on.to_owned(), id })))
    });
    vlan.ok_or_else(|| {
        let can_be = |device: &&Device| check(device, Mode::Bridge, is_own(device, gateway_mac), false).is_ok();
        let names: Vec<&str> = devices.iter().filter(can_be).map(|device| &*device.name).collect();
        let there = if names.is_empty() { "none that can be".into() } else { names.join(", ") };
        Error::Invalid(format!("there is no device '{}' to be the parent: there are {there}", name.escape_debug()))
    })
}

/// Refuses devices that carry nothing, or not for this mode.
fn check(device: &Device, mode: Mode, is_own: bool, is_wireless: bool) -> Result<()> {
    let (name, driver) = (&device.name, mode.driver());
    let line = if is_own {
        "is netbpf's own: take one that leads to the world"
    } else if device.is_loopback || device.framing != Framing::Ethernet {
        "has no Ethernet frames: take one that has, as a network card, a bridge or a VLAN"
    } else if device.is_lan {
        "is a macvlan or ipvlan itself: take the device that it lies on"
    } else if device.is_port {
        "is a port of a bridge or bond, which has its frames: take that bridge or bond"
    } else if is_wireless && mode.is_macvlan() {
        // A station sends with the one address that its access point knows.
        "is wireless, where no frame gets through from another MAC address than the device's own: use ipvlan, or a wired device"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!("{driver} cannot lie on {name}, which {line}")))
}

/// Refuses a device that another network has in a way which leaves no room for this one.
fn check_others(networks: &Networks, parent: &str, mode: Mode) -> Result<()> {
    for (other, lan) in networks.lans().filter(|(_, lan)| lan.parent == parent) {
        let why = if lan.mode.is_macvlan() != mode.is_macvlan() {
            "a device carries macvlan or ipvlan, not both"
        } else if lan.mode == Mode::Passthru || mode == Mode::Passthru {
            "the mode passthru is for one network alone"
        } else if !mode.is_macvlan() && lan.mode != mode {
            "all ipvlan of a device have one mode"
        } else {
            continue;
        };
        return Err(Error::Conflict(format!(
            "device {parent} carries network {} ({}, {}) already, and {why}: choose another parent or mode, or remove that network",
            other.name,
            lan.mode.driver(),
            lan.mode.name()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::network::Network;
    use super::*;
    use crate::config::{Addressing, Settings};
    use crate::store::Driver;

    const GATEWAY: Mac = Mac::new([2, 1, 2, 3, 4, 5]);

    fn on(networks: &mut Networks, name: &str, parent: &str, mode: Mode) {
        let lan = Lan { parent: parent.into(), made: None, mode, gateways: Vec::new() };
        let like = Network::of_settings(&Settings::default(), Addressing::default(), None).record;
        networks.insert(Network::new(NetworkRecord { name: name.into(), driver: Driver::Lan(lan), ..like }));
    }

    #[test]
    fn what_carries_no_frames_of_others_is_refused_with_its_reason() {
        let refused =
            |device: Device, mode, own, wireless| check(&device, mode, own, wireless).unwrap_err().to_string();
        let (eth0, bridge) = (|| Device::example(2, "eth0"), Mode::Bridge);
        check(&eth0(), bridge, false, false).unwrap();
        assert!(refused(eth0(), bridge, true, false).contains("own"));
        for (line, word) in [
            (
                refused(Device { is_loopback: true, framing: Framing::Other, ..eth0() }, bridge, false, false),
                "Ethernet",
            ),
            (refused(Device { framing: Framing::Bare, ..eth0() }, bridge, false, false), "Ethernet"),
            (refused(Device { is_lan: true, ..eth0() }, bridge, false, false), "itself"),
            (refused(Device { is_port: true, ..eth0() }, bridge, false, false), "port of a bridge"),
            (refused(eth0(), bridge, false, true), "wireless"),
        ] {
            assert!(line.contains("eth0") && line.contains(word) && !line.contains('\n'), "{line}");
        }
        // It sends with the device's own address.
        check(&eth0(), Mode::L2, false, true).unwrap();
    }

    #[test]
    fn a_name_with_a_number_is_a_vlan_of_a_device_that_is_there() {
        let devices = [
            Device { is_loopback: true, ..Device::example(2, "lo") },
            Device::example(2, "eth0"),
            Device::example(2, "eth1.7"),
        ];
        let found = |name: &str| find(name, &devices, GATEWAY).map(|(device, made)| (&*device.name, made));
        assert_eq!(found("eth0").unwrap(), ("eth0", None));
        assert_eq!(found("eth1.7").unwrap(), ("eth1.7", None), "it is there");
        assert_eq!(found("eth0.50").unwrap(), ("eth0", Some(Made::Vlan { on: "eth0".into(), id: 50 })));
        for name in ["eth9", "eth9.5", "eth0.0", "eth0.4095", "eth0.+5", "eth0.05", "eth0.", ""] {
            let line = find(name, &devices, GATEWAY).unwrap_err().to_string();
            assert!(line.ends_with("there are eth0, eth1.7"), "{line}");
        }
    }

    #[test]
    fn a_device_carries_networks_that_go_together() {
        let mut networks = Networks::default();
        on(&mut networks, "a", "eth0", Mode::Bridge);
        on(&mut networks, "b", "eth1", Mode::L2);
        on(&mut networks, "c", "eth2", Mode::Passthru);
        for (parent, mode) in [("eth0", Mode::Private), ("eth1", Mode::L2), ("eth3", Mode::Passthru)] {
            check_others(&networks, parent, mode).unwrap();
        }
        for (parent, mode, words) in [
            ("eth0", Mode::L2, ["network a", "not both"]),
            ("eth0", Mode::Passthru, ["network a", "alone"]),
            ("eth1", Mode::Bridge, ["network b", "not both"]),
            ("eth1", Mode::L3, ["network b", "one mode"]),
            ("eth2", Mode::Passthru, ["network c", "alone"]),
            ("eth2", Mode::Bridge, ["network c", "alone"]),
        ] {
            let line = check_others(&networks, parent, mode).unwrap_err().to_string();
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }

    #[test]
    fn what_was_made_for_a_network_is_left_to_another_on_it() {
        let mut networks = Networks::default();
        on(&mut networks, "a", "eth0.5", Mode::Bridge);
        let vlan = Some(Made::Vlan { on: "eth0".into(), id: 5 });
        let removed = Lan { parent: "eth0.5".into(), made: vlan.clone(), mode: Mode::Bridge, gateways: Vec::new() };
        let heir = networks.leave_to_another(&removed).unwrap();
        assert_eq!((heir.name.as_str(), &heir.driver.lan().unwrap().made), ("a", &vlan));
        assert_eq!(networks.lans().next().unwrap().1.made, vlan);
        assert_eq!(networks.leave_to_another(&Lan { parent: "eth0.6".into(), ..removed }), None);
    }
}
