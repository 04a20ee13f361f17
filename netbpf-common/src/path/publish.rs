//! Which publish rule a packet falls under.

use super::{Env, Family};
use crate::abi::{Endpoint, PublishKey, RuleFlags, Stamp, Transport, Visitor, generation};

/// A publish that is in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published<'a> {
    /// Rule and generation.
    pub(super) stamp: Stamp,
    /// Slot of the endpoint.
    pub(super) slot: u32,
    /// The endpoint.
    pub(super) endpoint: &'a Endpoint,
    /// Container port, in host order.
    pub(super) port: u16,
    /// [`RuleFlags`].
    flags: u32,
}

impl Published<'_> {
    /// Whether it is for who comes in with this source by this device, 0 for none. The host's own processes are not asked.
    #[inline(always)]
    pub(super) fn is_for<F: Family, E: Env<F>>(&self, env: &E, source: F::Addr, ifindex: u32) -> bool {
        if self.flags & RuleFlags::RESTRICTED == 0 {
            return true;
        }
        let ifindex = if self.flags & RuleFlags::BY_DEVICE == 0 { 0 } else { ifindex };
        env.is_allowed(Visitor { rule: self.stamp.slot - generation::FIRST_RULE, ifindex, address: source })
    }
}

/// The publish of a port (host order) on an address of the host.
#[inline(always)]
pub(super) fn find<F: Family, E: Env<F>>(
    env: &E,
    address: F::Addr,
    transport: Transport,
    port: u16,
) -> Option<Published<'_>> {
    let published = env.published(transport.port_index(port));
    let specific =
        if published.specific == 0 { 0 } else { env.published_on(&PublishKey::new(address, transport, port)) };
    let number = if specific == 0 { published.wildcard } else { specific };
    if number == 0 {
        return None;
    }
    // Before the rule: a rule that is withdrawn in between then has a generation that is past.
    let slot = generation::FIRST_RULE + number;
    let stamp = Stamp { slot, generation: env.generation(slot) };
    let rule = env.rule(number)?;
    let endpoint = env.endpoint(rule.endpoint).filter(|e| e.generation == rule.generation && e.generation != 0)?;
    if !F::has_service(endpoint) {
        return None;
    }
    Some(Published { stamp, slot: rule.endpoint, endpoint, port: rule.container_port_for(port), flags: rule.flags })
}

/// Whether a port is published on an address of the host, or on any if the address is unspecified:
/// no process of the host may bind it.
#[inline(always)]
pub(super) fn is_held<F: Family, E: Env<F>>(env: &E, address: F::Addr, transport: Transport, port: u16) -> bool {
    let published = env.published(transport.port_index(port));
    published.wildcard != 0
        || published.specific != 0
            && (address == F::Addr::default() || env.published_on(&PublishKey::new(address, transport, port)) != 0)
}
