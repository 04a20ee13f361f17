//! What the server is told: the networks, and who is in them.

use std::net::IpAddr;

use ipnet::IpNet;

/// All networks at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts up with every snapshot. [`super::Status`] tells which one the server acts on, so that a container need not be
    /// started before its name is known.
    pub generation: u64,
    /// The networks. A container that is in several asks them in this order, after the one whose gateway it asks.
    pub networks: Vec<Network>,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Its name, which is also a domain: `web.NAME` is the container `web` in this network and no other.
    pub name: String,
    /// The addresses that the server has here, at most one of each family as a rule.
    pub gateways: Vec<IpAddr>,
    /// What its addresses are out of. Reverse lookups of these are never forwarded.
    pub subnets: Vec<IpNet>,
    /// Whether it has no way to the world, and so none for its queries.
    pub is_internal: bool,
    /// The containers in it.
    pub members: Vec<Member>,
}

/// A container in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Name of the container: its first name, and who it is in all of its networks.
    pub container: String,
    /// Its short id, if it has one.
    pub short_id: Option<String>,
    /// Its hostname.
    pub hostname: Option<String>,
    /// Names that it has in this network alone; others may have the same.
    pub aliases: Vec<String>,
    /// Its addresses in this network.
    pub addresses: Vec<IpAddr>,
    /// The servers that its own queries go to, in this order; the host's when empty. They are asked from the host's network
    /// namespace, so that a loopback address is the host's.
    pub upstreams: Vec<IpAddr>,
}
