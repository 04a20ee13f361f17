//! Which programs hang where when all is as it should be.

use std::os::unix::fs::MetadataExt as _;

use netbpf_common::abi::program;

use super::Engine;
use super::host::HOST_DEVICE;
use super::state::State;
use crate::datapath::{Attachment, Hook, check_cgroup};
use crate::error::{Context as _, Result};
use crate::store::EndpointRecord;

/// Whose program it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// That of netbpf0.
    Host,
    /// A device to the world, by its number.
    Uplink(u32, String),
    /// A container.
    Container(String),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str(HOST_DEVICE),
            Self::Uplink(_, name) => write!(f, "uplink {name}"),
            Self::Container(name) => write!(f, "container {name}"),
        }
    }
}

impl EndpointRecord {
    /// The programs on its device.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        if self.is_tap {
            return vec![Hook::tap(self.ifindex, &*self.device)];
        }
        Hook::of_container(self.kind, self.ifindex, &self.device)
    }
}

impl Engine {
    /// The programs on devices.
    pub(super) fn hooks(&self, state: &State) -> Vec<(Owner, Hook)> {
        let mut hooks = vec![(Owner::Host, Hook::host(self.devices.0, HOST_DEVICE))];
        for (ifindex, uplink) in &state.host.uplinks {
            let owner = Owner::Uplink(*ifindex, uplink.name.clone());
            if uplink.express == Some(Ok(())) {
                hooks.push((owner.clone(), Hook::express(*ifindex, &*uplink.name)));
            }
            hooks.push((owner, Hook::uplink(*ifindex, &*uplink.name, uplink.is_bare)));
        }
        let ours = state.endpoints().filter(|(_, endpoint)| state.networks.of(endpoint).is_ours());
        hooks.extend(ours.flat_map(|(record, endpoint)| {
            endpoint.hooks().into_iter().map(|hook| (Owner::Container(record.name.clone()), hook))
        }));
        hooks
    }

    /// Socket hooks that are not on the cgroup that the settings name.
    pub(super) fn lost_sockets(&self, attachments: &[Attachment]) -> Result<Vec<&'static str>> {
        let cgroup = check_cgroup(self.cgroup.clone())?;
        let id = std::fs::metadata(&cgroup).context(|| format!("look at {}", cgroup.display()))?.ino();
        let has = |name: &str| attachments.iter().any(|it| it.is_current && it.program == name && it.target == id);
        Ok(program::SOCKET.into_iter().filter(|name| !has(name)).collect())
    }
}
