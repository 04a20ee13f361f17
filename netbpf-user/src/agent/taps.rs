//! Taps of virtual machines: devices of the host that are ends of networks. Others make and delete them.

use std::collections::BTreeSet;

use netbpf_common::abi::ENDPOINT_SLOTS;
use nix::net::if_::if_nametoindex;

use super::Engine;
use super::state::State;
use crate::datapath::Hook;
use crate::error::{Error, Result};
use crate::net::address::is_link_local;
use crate::net::device::{Device, Framing};
use crate::net::sysctl::{self, Ipv6};

/// A tap that can be taken in.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    pub(super) ifindex: u32,
    pub(super) name: String,
    /// The MTU that its owner has given it, which the machine behind it knows.
    pub(super) mtu: u32,
}

impl Tap {
    /// The slot that packets from its device find.
    pub(super) const fn slot(&self) -> u32 {
        self.ifindex % ENDPOINT_SLOTS
    }
}

impl State {
    /// Numbers of the taps that are ends of networks.
    pub(super) fn taps(&self) -> BTreeSet<u32> {
        self.endpoints().filter(|(_, endpoint)| endpoint.is_tap).map(|(_, endpoint)| endpoint.ifindex).collect()
    }
}

impl Engine {
    /// The tap of a name, if it can be taken in.
    pub(super) async fn find_tap(&self, state: &State, name: &str) -> Result<Tap> {
        let device = self.netlink.device_named(name).await?.ok_or_else(|| {
            Error::NotFound(format!(
                "the host has no device {}: make it with `ip tuntap add NAME mode tap`, or start the virtual machine first",
                name.escape_debug()
            ))
        })?;
        check(state, &device)?;
        let addresses = self.netlink.addresses().await?;
        if let Some(own) = addresses.iter().find(|own| own.ifindex == device.ifindex && !is_link_local(own.address)) {
            return Err(Error::Conflict(format!(
                "the host has the address {} on {name}, and would be cut off from it: take it away with `ip address flush dev {name}`",
                own.address
            )));
        }
        Ok(Tap { ifindex: device.ifindex, name: device.name, mtu: device.mtu })
    }

    /// Lets a device be no uplink any more: what it receives is an endpoint's from now on.
    pub(super) fn take_from_uplinks(&self, state: &mut State, tap: &Tap) -> Result<()> {
        let Some(uplink) = state.host.uplinks.remove(&tap.ifindex) else { return Ok(()) };
        // The program first: one that nobody knew any more would let the machine speak as the world does.
        self.leave_uplink(tap.ifindex, &uplink)?;
        self.datapath.maps.uplinks.remove(tap.ifindex)
    }

    /// Lets a tap be an endpoint's device.
    pub(super) async fn take_in(&self, ifindex: u32, device: &str, mtu: u32) -> Result<()> {
        self.netlink.set_mtu(ifindex, mtu).await?;
        sysctl::isolate(device)?;
        Ipv6::Off.apply(device)?;
        self.attach_to_device(Hook::tap(ifindex, device)).await?;
        self.netlink.set_up(ifindex).await
    }

    /// Gives a tap back to the host, as far as it is there. The program last: by it a later start knows what to give back.
    pub(super) fn give_back(&self, ifindex: u32, device: &str) -> Result<()> {
        give_back_settings(ifindex, device)?;
        self.datapath.detach(&Hook::tap(ifindex, device))
    }

    /// Sees what has become of devices that are no endpoints' any more.
    pub(super) async fn follow_given_back(&self, state: &mut State) -> Result<()> {
        let seen = self.look_at_host().await?;
        self.follow_host(state, &seen)
    }
}

/// Lets a tap be as the kernel makes them, unless its name is another device's by now.
pub(super) fn give_back_settings(ifindex: u32, device: &str) -> Result<()> {
    if if_nametoindex(device) == Ok(ifindex) { sysctl::give_back(device) } else { Ok(()) }
}

/// Refuses what is no tap, or somebody's.
fn check(state: &State, device: &Device) -> Result<()> {
    let name = &device.name;
    if !device.is_tun || device.framing != Framing::Ethernet {
        return Err(Error::Invalid(format!(
            "{name} is no tap: of a container give the network namespace with --netns, or make a tap with `ip tuntap add NAME mode tap`"
        )));
    }
    if device.is_port {
        return Err(Error::Conflict(format!(
            "{name} is the port of a bridge: take it out of there with `ip link set {name} nomaster`"
        )));
    }
    let lies_on = |parent: &str| parent == name || parent.rsplit_once('.').is_some_and(|(on, _)| on == name);
    if let Some((network, _)) = state.networks.lans().find(|(_, lan)| lies_on(&lan.parent)) {
        return Err(Error::Conflict(format!(
            "network {} lies on {name}, and would be cut off from it: remove that network first",
            network.name
        )));
    }
    let slot = device.ifindex % ENDPOINT_SLOTS;
    match state.endpoints().find(|(_, endpoint)| endpoint.slot == slot) {
        Some((record, endpoint)) if endpoint.ifindex == device.ifindex => {
            Err(Error::Conflict(format!("{name} is that of container {} already: remove that one first", record.name)))
        }
        // Its number is the kernel's choice, which counts on with every device.
        Some(_) => Err(taken(device)),
        None if slot == 0 => Err(taken(device)),
        None => Ok(()),
    }
}

fn taken(device: &Device) -> Error {
    Error::Conflict(format!(
        "the place of a device with the number {} is taken: delete {} and make it again, so that it gets another number",
        device.ifindex, device.name
    ))
}
