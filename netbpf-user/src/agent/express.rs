//! Uplinks that are served ahead of the host's stack (XDP), and the containers that take frames that way.

use std::path::PathBuf;

use super::Engine;
use super::state::{State, UplinkState};
use crate::config::{DeviceKind, Xdp};
use crate::datapath::{ExpressDevice, Hook, set_gro, strips_vlan_tags};
use crate::error::{Context as _, Error, Result};
use crate::failpoint;
use crate::net::device::Device;
use crate::net::namespace::Namespace;

/// Whether a container's device of this kind takes frames ahead of the host's stack: the driver of netkit has nothing for XDP.
pub(super) fn takes_express(kind: DeviceKind) -> bool {
    kind == DeviceKind::Veth
}

impl Engine {
    /// Whether uplinks are to be served ahead of the host's stack, as far as their drivers can.
    pub(super) fn wants_express(&self) -> bool {
        self.settings.xdp != Xdp::Off
    }

    /// Serves an uplink ahead of the host's stack, if that is wanted and goes; no longer, if an agent before this one did.
    pub(super) fn serve_express(&self, device: &Device, uplink: &mut UplinkState) -> Result<()> {
        let hook = Hook::express(device.ifindex, &*device.name);
        if !self.wants_express() || uplink.is_bare || device.mac.is_none() || !uplink.is_attached {
            uplink.express = None;
            return if self.datapath.has_link(&hook)? { self.datapath.detach(&hook) } else { Ok(()) };
        }
        if uplink.express == Some(Ok(())) {
            return Ok(());
        }
        let suits = self.suits_express(device);
        if suits.is_err() && self.datapath.has_link(&hook)? {
            self.datapath.detach(&hook)?;
        }
        let served = suits.and_then(|()| self.datapath.attach(&hook)).map_err(|error| error.to_string());
        if let Err(why) = &served
            && uplink.express.as_ref() != Some(&served)
        {
            tracing::warn!("uplink {}: {why}; it is served without XDP", device.name);
        }
        uplink.express = Some(served);
        Ok(())
    }

    /// Refuses a device whose frames are not what they were on a wire when XDP sees them.
    fn suits_express(&self, device: &Device) -> Result<()> {
        let name = &device.name;
        if (device.is_veth || device.is_tun) && !self.settings.uplinks.contains(name) {
            return Err(Error::Unsupported(format!(
                "{name} is a veth or a tap, whose other end may leave checksums to be computed: name it with --uplink, and there \
                 `ethtool -K DEVICE tx off`"
            )));
        }
        if !device.is_veth && strips_vlan_tags(name).unwrap_or(false) {
            return Err(Error::Unsupported(format!(
                "{name} takes VLAN tags out of frames, so that tagged ones would pass for others: ethtool -K {name} rxvlan off"
            )));
        }
        Ok(())
    }

    /// Why an uplink that the settings name is not served as they say.
    pub(super) fn refused_express(&self, uplink: &UplinkState) -> Option<String> {
        let is_asked_for = self.settings.xdp == Xdp::Native && self.settings.uplinks.contains(&uplink.name);
        let Some(Err(why)) = uplink.express.as_ref().filter(|_| is_asked_for) else { return None };
        Some(format!("uplink {}: {why}", uplink.name))
    }

    /// Detaches what serves an uplink.
    pub(super) fn leave_uplink(&self, ifindex: u32, uplink: &UplinkState) -> Result<()> {
        self.datapath.detach(&Hook::express(ifindex, &*uplink.name))?;
        self.datapath.detach(&Hook::uplink(ifindex, &*uplink.name, uplink.is_bare))
    }

    /// Lets every container's devices take frames ahead of the host's stack, or no longer. One that cannot is served by the stack.
    pub(super) async fn follow_receivers(&self, state: &State) -> Result<()> {
        let is_wanted = self.wants_express();
        for (record, endpoint) in state.endpoints() {
            let takes_part = endpoint.slot != 0 && !endpoint.is_tap && takes_express(endpoint.kind) && record.exists();
            if !takes_part || self.takes_express(endpoint.slot, endpoint.ifindex)? == is_wanted {
                continue;
            }
            let place = (record.netns.clone(), endpoint.name.clone());
            if let Err(error) = self.receive_express(place, endpoint.slot, endpoint.ifindex, is_wanted).await {
                tracing::warn!("container {}: {error}: it is served without XDP", record.name);
            }
        }
        Ok(())
    }

    fn takes_express(&self, slot: u32, ifindex: u32) -> Result<bool> {
        let device = self.datapath.maps.express.get(slot)?;
        Ok(device.is_some_and(|device| device.ifindex == ifindex))
    }

    /// Lets the device of a container, by namespace and name, take frames ahead of the host's stack, or no longer: the kernel gives
    /// them to a veth alone that collects segments (GRO), and loses them before another (drivers/net/veth.c, veth_xdp_xmit).
    pub(super) async fn receive_express(
        &self,
        (netns, name): (PathBuf, String),
        slot: u32,
        ifindex: u32,
        is_wanted: bool,
    ) -> Result<()> {
        let namespace = Namespace::open(&netns)?;
        let device = name.clone();
        let set = move || set_gro(&device, is_wanted).context(|| format!("set generic receive offload of {device}"));
        failpoint::before("set receive offload");
        namespace.run(set).await?;
        // Last: what is there is not looked at again by the next start.
        let express = &self.datapath.maps.express;
        if is_wanted { express.set(slot, ExpressDevice { ifindex, program: 0 }) } else { express.remove(slot) }
    }

    /// Refuses to start with uplinks that the settings name and that cannot be served as they say.
    pub(super) fn check_express(&self, state: &State) -> Result<()> {
        let refused = state.host.uplinks.values().find_map(|uplink| self.refused_express(uplink));
        refused.map_or(Ok(()), |why| Err(Error::Unsupported(why)))
    }
}
