//! A decided flow becomes a made one: port, checksum deltas, both entries.

use super::apply::deltas;
use super::follow::Refusal;
use super::table::{self, Made};
use super::{Env, Family, HostSocket, Parsed, Scratch};
use crate::abi::{DropReason, Endpoint, Flow, FlowKey, Scope, Stamp, TargetKind, Transport, generation};
use crate::flow::{ATTEMPTS, PortRange};
use crate::wire::Be16;

/// Where the packets of one direction go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leg {
    /// Into an endpoint.
    Endpoint {
        /// Its slot.
        slot: u32,
        /// Its generation.
        generation: u32,
    },
    /// To the world by the route that lies in the flow.
    World {
        /// The device; 0 for a route that the first packet looks up.
        ifindex: u32,
    },
    /// To the host's stack.
    Host,
}

impl Leg {
    #[inline(always)]
    pub(super) fn endpoint(slot: u32, endpoint: &Endpoint) -> Self {
        Self::Endpoint { slot, generation: endpoint.generation }
    }

    /// From which side the packets of the opposite direction come.
    #[inline(always)]
    fn scope(&self) -> Scope {
        match self {
            Self::Endpoint { .. } => Scope::Container,
            Self::World { .. } => Scope::Uplink,
            Self::Host => Scope::Host,
        }
    }

    #[inline(always)]
    fn endpoint_generation(&self) -> u32 {
        match *self {
            Self::Endpoint { generation, .. } => generation,
            _ => 0,
        }
    }

    #[inline(always)]
    fn write<F: Family, E: Env<F>>(&self, env: &E, flow: &mut Flow<F::Addr>) {
        (flow.target_kind, flow.target, flow.target_generation) = match *self {
            Self::Endpoint { slot, generation } => (TargetKind::Endpoint as u8, slot, generation),
            Self::World { ifindex } => (TargetKind::World as u8, ifindex, env.generation(generation::ROUTE_EPOCH)),
            Self::Host => (TargetKind::Host as u8, 0, 0),
        };
    }
}

/// A flow that was decided on.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewFlow<F: Family> {
    /// The source address it leaves with.
    pub(super) src: F::Addr,
    /// The destination address it leaves with.
    pub(super) dst: F::Addr,
    /// The destination port it leaves with.
    pub(super) dport: Be16,
    /// Where the originator's packets go.
    pub(super) forward: Leg,
    /// Where the replies go.
    pub(super) back: Leg,
    /// What the decision rests on.
    pub(super) owner: Stamp,
}

impl<F: Family> NewFlow<F> {
    /// A flow that is not translated and rests on its endpoints alone.
    #[inline(always)]
    pub(super) fn plain(key: &FlowKey<F::Addr>, forward: Leg, back: Leg) -> Self {
        Self {
            src: key.src,
            dst: key.dst,
            dport: key.dport,
            forward,
            back,
            owner: Stamp { slot: generation::ALWAYS, generation: 0 },
        }
    }
}

/// Makes the flow of `key` that was decided on in [`Env::scratch`], with the originator's port if
/// that is free and another if not. Its O entry is left there too.
#[inline(never)]
pub(super) fn make<F: Family, E: Env<F>>(
    env: &E,
    parsed: &Parsed<F>,
    key: &FlowKey<F::Addr>,
    made: &mut Result<(), Refusal>,
) {
    *made = insert(env, parsed, key).map_err(Refusal::Drop);
}

#[inline(always)]
fn insert<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> Result<(), DropReason> {
    let mut scratch = env.scratch().ok_or(DropReason::Internal)?;
    let Scratch { flow, new } = &mut *scratch;
    let config = env.config();
    let range = PortRange::new(config.nat_first, config.nat_last);
    let seed = env.random();
    let scope = new.forward.scope();
    let mut reply = FlowKey::new(scope, key.proto, new.dst, new.dport, new.src, key.sport);
    flow.seen = env.now();
    flow.owner = new.owner;

    for attempt in 0..=ATTEMPTS {
        if attempt > 0 {
            if !parsed.l4.has_free_ports() {
                break;
            }
            reply.dport = Be16::new(range.candidate(seed, attempt - 1));
        }
        if scope == Scope::Uplink && !may_use(env, &reply, &range) {
            continue;
        }
        // The change of a sum is the same whichever way round the tuple is.
        let (forth, back) = (deltas(key, &reply), deltas(&reply, key));
        flow.packets = 0;
        flow.bytes = 0;
        flow.other = *key;
        flow.is_reply = 1;
        flow.source_generation = new.forward.endpoint_generation();
        (flow.address_delta, flow.port_delta) = back;
        new.back.write(env, flow);
        let made = table::make(env, key, &reply, flow, |flow| {
            flow.other = reply;
            flow.is_reply = 0;
            flow.packets = 1;
            flow.bytes = u64::from(parsed.ip.total_len);
            flow.source_generation = new.back.endpoint_generation();
            (flow.address_delta, flow.port_delta) = forth;
            new.forward.write(env, flow);
        });
        match made {
            Made::Yes => return Ok(()),
            Made::ReplyTaken => {}
            Made::Raced => return Err(DropReason::Raced),
            Made::Full => return Err(DropReason::TableFull),
        }
    }
    Err(DropReason::NoPort)
}

/// Whether the port in this reply key may be shared with the host: none of its sockets has it,
/// and it is not published. A port outside the NAT range is then marked, so that replies to it
/// are looked for.
#[inline(always)]
fn may_use<F: Family, E: Env<F>>(env: &E, reply: &FlowKey<F::Addr>, range: &PortRange) -> bool {
    let Some(transport) = Transport::from_protocol(reply.proto) else { return true };
    let port = reply.dport.get();
    let index = transport.port_index(port);
    let published = env.published(index);
    if published.wildcard != 0 || published.specific != 0 || env.host_socket(reply) != HostSocket::None {
        return false;
    }
    if !range.contains(port) {
        env.keep(index);
    }
    true
}
