//! What is kept of a network over restarts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Addressing;

/// A network as it is desired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Its name.
    pub(crate) name: String,
    /// 64 hex digits.
    pub(crate) id: String,
    /// Its place in `NETWORKS`.
    pub(crate) number: u16,
    /// What its containers are connected by.
    pub(crate) driver: Driver,
    /// Its addresses.
    pub(crate) addressing: Addressing,
    /// Addresses that no container gets, by what they are for.
    pub(crate) reserved: BTreeMap<String, IpAddr>,
    /// MTU of its containers' devices, in bytes.
    pub(crate) mtu: u32,
    /// Whether nothing goes out or comes in, not even to the host.
    pub(crate) internal: bool,
    /// Whether containers of other networks are kept out.
    pub(crate) isolated: bool,
    /// See [`Settings::full_cone`](crate::Settings::full_cone).
    pub(crate) full_cone: bool,
    /// See [`Settings::clamp_mss`](crate::Settings::clamp_mss).
    pub(crate) clamp_mss: bool,
    /// The addresses given out last, one of each family.
    pub(crate) last: Vec<IpAddr>,
    /// Unix time of its creation, in seconds.
    pub(crate) created: u64,
}

/// What the containers of a network are connected by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "driver")]
pub(crate) enum Driver {
    /// The datapath.
    Bridge,
    /// The kernel's macvlan, on a device of the host.
    Macvlan {
        /// Name of that device.
        parent: String,
        /// `bridge`, `private`, `vepa` or `passthru`.
        mode: String,
    },
    /// The kernel's ipvlan, on a device of the host.
    Ipvlan {
        /// Name of that device.
        parent: String,
        /// `l2`, `l3` or `l3s`.
        mode: String,
    },
}

impl Driver {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
        }
    }
}
