//! What the checks are about: of a running agent all that it knows, else what the settings say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::agent::state::{State, UplinkState};
use crate::agent::{DEFAULT_NETWORK, Engine};
use crate::config::{Addressing, DeviceKind, Part, PortRange, Settings, Virtuals};
use crate::datapath::pinned_programs;

/// One family of a network.
#[derive(Clone, Debug)]
pub(super) struct Net {
    pub(super) network: String,
    pub(super) part: Part,
}

impl Net {
    /// An address as containers have it.
    pub(super) fn a_container(&self) -> IpAddr {
        let next_but_one = match self.part.range.addr() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().saturating_add(2))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().saturating_add(2))),
        };
        if next_but_one == self.part.gateway { self.part.range.addr() } else { next_but_one }
    }
}

/// An instance, as the checks need to know it.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) nat_ports: PortRange,
    /// Where the resolver of containers is asked.
    pub(super) dns_port: Option<u16>,
    pub(super) nets: Vec<Net>,
    /// What stands for the host's own addresses.
    pub(super) virtuals: Vec<IpNet>,
    pub(super) bpffs: PathBuf,
    /// None: the root of the hierarchy.
    pub(super) cgroup: Option<PathBuf>,
    /// Devices to the world; without an agent nobody has chosen them.
    pub(super) uplinks: Option<BTreeMap<u32, UplinkState>>,
    /// Networks whose containers are to have netkits.
    pub(super) netkits: Vec<String>,
    /// Programs that are ours.
    pub(super) own_programs: BTreeSet<u32>,
    /// Devices that have one of ours.
    pub(super) own_hooks: BTreeSet<u32>,
}

impl Subject {
    /// A running agent's.
    pub(super) fn of_agent(engine: &Engine, state: &State) -> Self {
        let nets = state.networks.ours().flat_map(|network| {
            let record = &network.record;
            record.addressing.parts().map(|part| Net { network: record.name.clone(), part: *part })
        });
        let netkits = state.networks.ours().map(|network| &network.record);
        let netkits = netkits.filter(|record| record.device == DeviceKind::Netkit);
        Self {
            nets: nets.collect(),
            netkits: netkits.map(|record| record.name.clone()).collect(),
            cgroup: Some(engine.cgroup.clone()),
            uplinks: Some(state.host.uplinks.clone()),
            virtuals: virtuals(&engine.virtuals, state.host.locals.keys().any(|address| address.is_ipv6())),
            ..Self::of_settings(&engine.settings)
        }
    }

    /// As far as the settings tell; what the agent draws by itself is left out.
    pub(super) fn of_settings(settings: &Settings) -> Self {
        let addressing = Addressing::new(settings, Default::default()).unwrap_or_default();
        let drawn = |part: &&Part| part.gateway.is_ipv6() && settings.subnet_v6.is_none();
        let nets = addressing
            .parts()
            .filter(|part| !drawn(part))
            .map(|part| Net { network: DEFAULT_NETWORK.into(), part: *part });
        let pinned = pinned_programs(&settings.bpffs);
        Self {
            nat_ports: settings.nat_ports,
            dns_port: settings.dns_port(),
            nets: nets.collect(),
            virtuals: virtuals(&Virtuals::new(settings, Default::default()), settings.virtual_subnet_v6.is_some()),
            bpffs: settings.bpffs.clone(),
            cgroup: settings.cgroup.clone(),
            uplinks: None,
            netkits: (settings.device == DeviceKind::Netkit).then(|| DEFAULT_NETWORK.into()).into_iter().collect(),
            own_programs: pinned.iter().map(|(_, program)| *program).collect(),
            own_hooks: pinned.iter().filter_map(|(ifindex, _)| *ifindex).collect(),
        }
    }

    /// That of the defaults.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self::of_settings(&Settings::default())
    }
}

fn virtuals(virtuals: &Virtuals, with_ipv6: bool) -> Vec<IpNet> {
    [Some(virtuals.v4.into()), with_ipv6.then(|| virtuals.v6.into())].into_iter().flatten().collect()
}
