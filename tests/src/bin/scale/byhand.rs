//! The same by hand: namespaces on a bridge, made by `ip -batch`, without names, rules or publishes.

use anyhow::Result;
use netbpf_user::rig::Namespace;

use super::name;

/// A host on which it is done.
pub(crate) struct ByHand<'rig>(pub(crate) &'rig Namespace);

impl ByHand<'_> {
    /// The address of a container, and that of its gateway.
    pub(crate) fn addresses(network: usize, number: usize) -> [String; 2] {
        [number + 2, 1].map(|last| format!("172.29.{network}.{last}"))
    }

    pub(crate) fn create_network(&self, network: usize) -> Result<()> {
        let [_, gateway] = Self::addresses(network, 0);
        Ok(self.0.ip(&[
            &format!("link add br{network} type bridge"),
            &format!("address add {gateway}/24 dev br{network}"),
            &format!("link set br{network} up"),
        ])?)
    }

    /// A container, by its number in the network.
    pub(crate) fn create(&self, network: usize, number: usize) -> Result<Namespace> {
        let own = name(&format!("h{network}-"), number);
        let [ip, gateway] = Self::addresses(network, number);
        let device = format!("v{network}-{number}");
        self.0.ip(&[
            &format!("netns add {own}"),
            &format!("link add {device} type veth peer name eth0 netns {own}"),
            &format!("link set {device} master br{network} up"),
        ])?;
        let container = Namespace::named(&own);
        container.ip(&[
            "link set lo up",
            &format!("address add {ip}/24 dev eth0"),
            "link set eth0 up",
            &format!("route add default via {gateway}"),
        ])?;
        Ok(container)
    }

    pub(crate) fn remove(&self, container: &Namespace) -> Result<()> {
        Ok(self.0.ip(&[&format!("netns delete {}", container.name())])?)
    }

    pub(crate) fn remove_network(&self, network: usize) -> Result<()> {
        Ok(self.0.ip(&[&format!("link delete br{network}")])?)
    }
}
