//! A decided flow becomes a made one: port, checksum deltas, both entries.

use super::apply::deltas;
use super::publish::Published;
use super::refusal::{Refusal, code};
use super::{Env, Family, HostSocket, InsertError, Parsed, Scratch, table};
use crate::abi::{
    Config, ConfigFlags, DropReason, Endpoint, Flow, FlowKey, RingSlot, Scope, Sent, Stamp, TargetKind, Transport,
    Word, generation,
};
use crate::flow::{ATTEMPTS, PortRange};
use crate::wire::{Be16, Kind};

/// Where the packets of one direction go. A struct, not an enum: the verifier does not follow the
/// copy of a payload that a variant leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leg {
    kind: TargetKind,
    /// Endpoint slot or ifindex.
    target: u32,
    /// Of the endpoint.
    generation: u32,
}

impl Leg {
    /// To the host's stack.
    pub(super) const HOST: Self = Self { kind: TargetKind::Host, target: 0, generation: 0 };

    /// To the world by a route that the first packet looks up.
    pub(super) const UNKNOWN_WORLD: Self = Self::world(0);

    /// Into an endpoint.
    #[inline(always)]
    pub(super) const fn endpoint(slot: u32, endpoint: &Endpoint) -> Self {
        Self { kind: TargetKind::Endpoint, target: slot, generation: endpoint.generation }
    }

    /// To the world by the route that lies in the flow, out of this device.
    #[inline(always)]
    pub(super) const fn world(ifindex: u32) -> Self {
        Self { kind: TargetKind::World, target: ifindex, generation: 0 }
    }

    /// From which side the packets of the opposite direction come.
    #[inline(always)]
    fn scope(&self) -> Scope {
        match self.kind {
            TargetKind::Endpoint => Scope::Container,
            TargetKind::World => Scope::Uplink,
            TargetKind::Host => Scope::Host,
        }
    }

    /// Whether it leads to the world.
    #[inline(always)]
    pub(super) fn leaves(&self) -> bool {
        self.kind == TargetKind::World
    }

    /// The slot of its endpoint; 0 if it is none.
    #[inline(always)]
    pub(super) fn slot(&self) -> u32 {
        match self.kind {
            TargetKind::Endpoint => self.target,
            TargetKind::World | TargetKind::Host => 0,
        }
    }

    #[inline(always)]
    pub(super) fn write<F: Family, E: Env<F>>(&self, env: &E, flow: &mut Flow<F::Addr>) {
        flow.target_kind = self.kind as u8;
        let is_world = self.kind == TargetKind::World;
        flow.target = if is_world { 0 } else { self.target };
        flow.target_generation = self.generation;
        flow.uplink = if is_world { self.target } else { 0 };
        flow.route_epoch = if is_world { env.generation(generation::ROUTE_EPOCH) } else { 0 };
    }
}

/// A flow that was decided on.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewFlow<F: Family> {
    /// The source address it leaves with.
    pub(super) src: F::Addr,
    /// The source port it leaves with, if that is free.
    pub(super) sport: Be16,
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
    /// What the replies' way to the world takes, where that was asked for; 0 for anything.
    pub(super) back_mtu: u16,
}

impl<F: Family> Default for NewFlow<F> {
    fn default() -> Self {
        let (src, dst) = (F::Addr::default(), F::Addr::default());
        let (sport, dport, owner) = (Be16::ZERO, Be16::ZERO, Stamp::default());
        Self { src, sport, dst, dport, forward: Leg::HOST, back: Leg::HOST, owner, back_mtu: 0 }
    }
}

impl<F: Family> NewFlow<F> {
    /// Becomes a flow that is not translated and rests on its endpoints alone.
    #[inline(always)]
    pub(super) fn set(&mut self, key: &FlowKey<F::Addr>, forward: Leg, back: Leg) {
        (self.src, self.sport) = (key.src, key.sport);
        (self.dst, self.dport) = (key.dst, key.dport);
        (self.forward, self.back) = (forward, back);
        self.owner = Stamp { slot: generation::ALWAYS, generation: 0 };
        self.back_mtu = 0;
    }

    /// Leads to the container port of a publish, and rests on that too.
    #[inline(always)]
    pub(super) fn publish(&mut self, rule: &Published<'_>, config: &Config) {
        F::serve(rule.endpoint, config, &mut self.src, &mut self.dst);
        self.dport = Be16::new(rule.port);
        self.owner = rule.stamp;
    }

    /// The slot of the endpoint that it is counted for: who opens it, else whom it leads to.
    #[inline(always)]
    fn payer(&self) -> u32 {
        match self.back.slot() {
            0 => self.forward.slot(),
            slot => slot,
        }
    }
}

/// Makes the flow of `key` that was decided on in [`Env::scratch`], with the originator's port if
/// that is free and another if not. Its O entry is left there too. A code.
#[inline(never)]
pub(super) fn make<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> u64 {
    match insert(env, parsed, key) {
        Ok(()) => code::GOOD,
        Err(reason) => Refusal::Drop(reason).code(),
    }
}

#[inline(always)]
fn insert<F: Family, E: Env<F>>(env: &E, parsed: &Parsed<F>, key: &FlowKey<F::Addr>) -> Result<(), DropReason> {
    let mut scratch = env.scratch().ok_or(DropReason::Internal)?;
    let Scratch { flow, new, ring, .. } = &mut *scratch;
    let scope = new.forward.scope();
    if !new.forward.leaves() && F::is_translated(new.src) {
        F::may_cross(parsed)?;
    }
    flow.payer = new.payer();
    if env.confirmed(flow.payer) >= u64::from(env.config().flow_limit) {
        return Err(DropReason::FlowLimit);
    }
    let alive = Word::half(env.next_flow_id());
    // Of the way that was looked up, if one was; else of whatever flow lay here before.
    let mtu = if new.forward.leaves() { flow.mtu } else { 0 };
    begin(env, flow, alive);
    flow.mtu = new.back_mtu;
    flow.owner = new.owner;
    flow.other = *key;
    flow.source_generation = new.forward.generation;
    new.back.write(env, flow);
    flow.key = FlowKey::new(scope, key.proto, new.dst, new.dport, new.src, new.sport);
    // A container that leaves with an address of its own shares the ports of that with nobody.
    let is_shared = !new.forward.leaves() || env.config().flags & ConfigFlags::REACHABLE == 0 || env.is_local(new.src);
    reserve(env, flow, is_shared && parsed.l4.has_free_ports(), is_shared)?;

    flow.other = flow.key;
    flow.key = *key;
    flow.is_reply = 0;
    flow.packets = 1;
    flow.bytes = u64::from(parsed.ip.total_len);
    if parsed.l4.kind == Kind::Tcp {
        flow.sent = Sent::default().after(&parsed.l4, parsed.payload_len());
    }
    flow.source_generation = new.back.generation;
    (flow.address_delta, flow.port_delta) = deltas(key, &flow.other);
    new.forward.write(env, flow);
    flow.mtu = mtu;
    complete(env, flow, ring, alive)
}

/// An R entry without a past, of a flow that is being made.
#[inline(always)]
pub(super) fn begin<F: Family, E: Env<F>>(env: &E, flow: &mut Flow<F::Addr>, alive: Word) {
    flow.word = alive.unborn();
    flow.seen = env.now();
    flow.packets = 0;
    flow.bytes = 0;
    flow.is_reply = 1;
    flow.mtu = 0;
    flow.sent = Sent::default();
}

/// Inserts the R entry of the flow whose original key is `flow.other`, under the key `flow.key` or, if its port is taken and
/// another will do, the next that is free: inserting it is the allocation. `is_shared`: the host and others have ports of
/// the same address.
#[inline(always)]
pub(super) fn reserve<F: Family, E: Env<F>>(
    env: &E,
    flow: &mut Flow<F::Addr>,
    has_choice: bool,
    is_shared: bool,
) -> Result<(), DropReason> {
    let config = env.config();
    let range = PortRange::new(config.nat_first, config.nat_last);
    let seed = env.random();
    let mut search = Search::<F, E> { env, flow, reserved: Err(DropReason::NoPort), range, seed, is_shared };
    env.repeat(if has_choice { 1 + ATTEMPTS } else { 1 }, |attempt| search.goes_on(attempt));
    search.reserved
}

/// A search for a free port. One value: of several each would take the stack a pointer more.
struct Search<'a, F: Family, E> {
    env: &'a E,
    flow: &'a mut Flow<F::Addr>,
    reserved: Result<(), DropReason>,
    range: PortRange,
    seed: u32,
    is_shared: bool,
}

impl<F: Family, E: Env<F>> Search<'_, F, E> {
    /// Tries one; whether the search goes on.
    #[inline(always)]
    fn goes_on(&mut self, attempt: u32) -> bool {
        let Self { env, flow, .. } = self;
        if attempt > 0 {
            flow.key.dport = Be16::new(self.range.candidate(self.seed, attempt - 1));
        }
        if self.is_shared && flow.key.scope == Scope::Uplink as u16 && !may_use(*env, &flow.key, &self.range) {
            return true;
        }
        (flow.address_delta, flow.port_delta) = deltas(&flow.key, &flow.other);
        match env.insert(&flow.key, flow) {
            Ok(()) => self.reserved = Ok(()),
            Err(InsertError::Exists) => return true,
            Err(InsertError::Full) => self.reserved = Err(DropReason::TableFull),
        }
        false
    }
}

/// Inserts the O entry, which `flow` is, and lets both live.
#[inline(always)]
pub(super) fn complete<F: Family, E: Env<F>>(
    env: &E,
    flow: &mut Flow<F::Addr>,
    ring: &mut RingSlot<F::Addr>,
    alive: Word,
) -> Result<(), DropReason> {
    match table::complete(env, flow, ring, alive) {
        Ok(()) => {
            flow.word = alive;
            Ok(())
        }
        Err(InsertError::Exists) => Err(DropReason::Raced),
        Err(InsertError::Full) => Err(DropReason::TableFull),
    }
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
