//! Containers by hand: namespaces on a bridge, made by `ip -batch`, without names, rules or publishes.

use netbpf_user::rig::{Namespace, RigError};

type Result<T> = std::result::Result<T, RigError>;

/// A host on which it is done.
#[derive(Debug)]
pub struct ByHand<'rig>(
    /// The host.
    pub &'rig Namespace,
);

impl ByHand<'_> {
    /// The address of a container, and that of its gateway.
    pub fn addresses(network: usize, number: usize) -> [String; 2] {
        [number + 2, 1].map(|last| format!("172.29.{network}.{last}"))
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// When the kernel refuses, as for all of these.
    pub fn create_network(&self, network: usize) -> Result<()> {
        let [_, gateway] = Self::addresses(network, 0);
        self.0.ip(&[
            &format!("link add br{network} type bridge"),
            &format!("address add {gateway}/24 dev br{network}"),
            &format!("link set br{network} up"),
        ])
    }

    /// A container of a name, by its number in the network.
    ///
    /// # Errors
    /// When the name or number is taken.
    pub fn create(&self, own: &str, network: usize, number: usize) -> Result<Namespace> {
        let [ip, gateway] = Self::addresses(network, number);
        let device = format!("v{network}-{number}");
        self.0.ip(&[
            &format!("netns add {own}"),
            &format!("link add {device} type veth peer name eth0 netns {own}"),
            &format!("link set {device} master br{network} up"),
        ])?;
        let container = Namespace::named(own);
        container.ip(&[
            "link set lo up",
            &format!("address add {ip}/24 dev eth0"),
            "link set eth0 up",
            &format!("route add default via {gateway}"),
        ])?;
        Ok(container)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, container: &Namespace) -> Result<()> {
        self.0.ip(&[&format!("netns delete {}", container.name())])
    }

    /// Removes a bridge.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_network(&self, network: usize) -> Result<()> {
        self.0.ip(&[&format!("link delete br{network}")])
    }
}
