//! Where a container is to be, and what of a request goes together there.

use super::describe;
use super::network::DEFAULT_NETWORK;
use crate::api::types::CreateRequest;
use crate::error::{Error, Result};

/// Where a container is to be.
#[derive(PartialEq, Eq)]
pub(super) enum Place {
    /// In a network.
    Network(String),
    /// In a namespace without one.
    None,
    /// In the host's namespace.
    Host,
    /// In the namespace of this container.
    Container(String),
}

impl Place {
    pub(super) fn of(request: &CreateRequest) -> Result<Self> {
        let of_the_inside = [
            ("a namespace", request.netns.is_some()),
            ("a search domain", !request.dns_search.is_empty()),
            ("an option of the resolver", !request.dns_options.is_empty()),
            ("a host to be told of", !request.extra_hosts.is_empty()),
        ];
        let of_no_use = of_the_inside.into_iter().find(|(_, is_given)| request.tap.is_some() && *is_given);
        if let Some((what, _)) = of_no_use {
            return Err(Error::Invalid(format!(
                "{what} is of no use with a tap: leave it out, the machine behind it has files of its own"
            )));
        }
        let place = match request.network.as_deref() {
            None => Self::Network(DEFAULT_NETWORK.into()),
            Some(describe::HOST) => Self::Host,
            Some(describe::NONE) => Self::None,
            Some(network) => match network.strip_prefix(describe::CONTAINER) {
                Some(other) => Self::Container(other.into()),
                None => Self::Network(network.into()),
            },
        };
        if matches!(place, Self::Network(_)) {
            return Ok(place);
        }
        let network = request.network.as_deref().unwrap_or_default();
        let useless = [
            ("an address", request.ip.is_some() || request.ip6.is_some()),
            ("a MAC address", request.mac_address.is_some()),
            ("an alias", !request.aliases.is_empty()),
            ("a publish", !request.publish.is_empty() || !request.publish_exposed.is_empty()),
            ("a namespace to take in", request.netns.is_some() && place != Self::None),
            ("a tap", request.tap.is_some()),
        ];
        match useless.into_iter().find(|(_, is_given)| *is_given) {
            Some((what, _)) => Err(Error::Invalid(format!(
                "{what} is of no use with the network {network}: leave it out, or choose a network"
            ))),
            None => Ok(place),
        }
    }
}
