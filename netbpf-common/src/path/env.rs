//! What the paths ask of the world around them: tables, clock, chance, routes, sockets.

use core::ops::{Deref, DerefMut};

use super::errors::Quote;
use super::make::NewFlow;
use super::{Family, Parsed, Rewrite};
use crate::abi::{
    Config, DropReason, Endpoint, Event, Flow, FlowKey, Fragment, FragmentKey, HeldFrame, HeldKey, Network, NextHop,
    PublishKey, PublishedPort, RingSlot, Rule, Sent, Stamp, Uplink, Visitor, Word,
};

/// A flow entry that was found. Others may change or delete it at any time: what is read is a
/// copy, and counts only if the word is still of the same flow afterwards.
pub trait FlowEntry<A> {
    /// Copies everything.
    fn read_into(&self, flow: &mut Flow<A>);

    /// The key of the other entry alone.
    fn other(&self) -> FlowKey<A>;

    /// The word alone.
    fn word(&self) -> Word;

    /// What the sender of this direction has said last.
    fn sent(&self) -> Sent;

    /// The slot of the endpoint that the flow is counted for.
    fn payer(&self) -> u32;

    /// Largest packet that this direction's way out takes; 0 for any.
    fn mtu(&self) -> u16;

    /// Compare-and-swap of the word; whether it was `from`.
    fn swap(&self, from: Word, to: Word) -> bool;

    /// Overwrites the copy of the word in an R entry.
    fn copy_word(&self, word: Word);

    /// A packet of `bytes` has passed at `now`.
    fn touch(&self, now: u64, bytes: u32);

    /// The sender of this direction has said something new.
    fn track(&self, sent: &Sent);

    /// The decision was made again and is the same: takes the owner of `flow`, if the entry is still
    /// of that flow.
    fn restamp(&self, flow: &Flow<A>, owner: Stamp);

    /// The route was looked up again, in this epoch: takes target, next hop, MTU and time of `flow`, if
    /// the entry is still of that flow.
    fn reroute(&self, flow: &Flow<A>, epoch: u32);
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// There is one with this key.
    Exists,
    /// The table is full.
    Full,
}

/// Who on the host would take a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSocket {
    /// Nobody.
    None,
    /// A socket that waits for anybody.
    Listening,
    /// A socket connected to just this peer.
    Connected,
}

/// A question to the routing table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RouteQuery<A> {
    /// Source address as far as it is known, for source routing; unspecified otherwise.
    pub src: A,
    /// Where to.
    pub dst: A,
    /// IP protocol.
    pub proto: u8,
    /// Traffic class.
    pub tos: u8,
}

/// The way out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Route {
    /// The device.
    pub ifindex: u32,
    /// The neighbour.
    pub next_hop: NextHop,
    /// Largest packet in bytes from the IP header on; 0 while the kernel does not say (it does
    /// once the neighbour is known).
    pub mtu: u16,
}

/// Room for what the BPF stack has none to spare for.
#[derive(Debug)]
pub struct Scratch<F: Family> {
    /// The entry that the packet follows.
    pub(super) flow: Flow<F::Addr>,
    /// The flow that it opens.
    pub(super) new: NewFlow<F>,
    /// The endpoint-independent mapping that the flow is to use.
    pub(super) mapping: Flow<F::Addr>,
    /// The packet that an ICMP error is about.
    pub(super) quote: Quote<F>,
    /// How the error changes.
    pub(super) rewrite: Rewrite<F>,
    /// The way out that is asked for, and what came of it.
    pub(super) query: RouteQuery<F::Addr>,
    /// See `query`.
    pub(super) route: Route,
    /// On its way into the ring, or out of it.
    pub(super) ring: RingSlot<F::Addr>,
}

impl<F: Family> Default for Scratch<F> {
    fn default() -> Self {
        Self {
            flow: Flow::default(),
            new: NewFlow::default(),
            mapping: Flow::default(),
            quote: Quote::default(),
            rewrite: Rewrite::NONE,
            query: RouteQuery::default(),
            route: Route::default(),
            ring: RingSlot::default(),
        }
    }
}

/// The world of one instance, as far as both address families share it.
pub trait World {
    /// The room of one frame.
    type Room: DerefMut<Target = HeldFrame>;

    /// Time in jiffies; stands still while the machine sleeps.
    fn now(&self) -> u64;
    /// An unpredictable number.
    fn random(&self) -> u32;
    /// Settings.
    fn config(&self) -> &Config;
    /// Counts a drop. The hook calls it for every [`Verdict::Drop`](super::Verdict::Drop); paths
    /// only where the verdict is another.
    fn count_drop(&self, reason: DropReason);
    /// Counts.
    fn count(&self, event: Event);

    /// The same number, of which the verifier knows nothing any more: it would walk what follows once for each way that has
    /// led here.
    fn forget(&self, code: u64) -> u64 {
        code
    }

    /// Calls `body` with 0, 1, 2 and so on below `turns`, until it says `false`. The verifier walks what is repeated like this
    /// once, and an ordinary loop once per turn.
    fn repeat<B: FnMut(u32) -> bool>(&self, turns: u32, body: B) {
        let _ = (0..turns).all(body);
    }

    /// Endpoint by slot.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// Network by number.
    fn network(&self, number: u16) -> Option<&Network>;
    /// Device to the world.
    fn uplink(&self, ifindex: u32) -> Option<&Uplink>;

    /// Whether an endpoint, by slot, takes frames ahead of the host's stack.
    fn takes_express(&self, slot: u32) -> bool;

    /// Generation of a rule or epoch.
    fn generation(&self, slot: u32) -> u32;
    /// Publish rule by number.
    fn rule(&self, number: u32) -> Option<&Rule>;
    /// Whether a flow has kept this port outside the NAT range.
    fn is_kept(&self, port_index: u32) -> bool;
    /// Remembers that a flow has kept this port outside the NAT range.
    fn keep(&self, port_index: u32);

    /// A number no flow has had.
    fn next_flow_id(&self) -> u64;
    /// One confirmed flow more or less is counted for an endpoint, by slot.
    fn count_confirmed(&self, payer: u32, change: i64);
    /// Confirmed flows that are counted for an endpoint, by slot.
    fn confirmed(&self, payer: u32) -> u64;

    /// Room for one frame, with whatever the last user left there.
    fn room(&self) -> Option<Self::Room>;
    /// Slot of the next endpoint of the same network, all of them in a ring; 0 for none.
    fn next_member(&self, slot: u32) -> u32;
    /// Whether one more packet of an endpoint, by slot, may become several at this time; slot 0 stands for whoever is
    /// outside, and an answer to what may be forged.
    fn may_multiply(&self, slot: u32) -> bool;
}

/// The world of one instance, for one address family.
pub trait Env<F: Family>: World {
    /// A flow entry that was found.
    type Entry: FlowEntry<F::Addr>;
    /// The room of [`Scratch`].
    type Scratch: DerefMut<Target = Scratch<F>>;
    /// The room of [`Parsed`].
    type Parsed: DerefMut<Target = Parsed<F>>;
    /// A frame that is held.
    type Held: Deref<Target = HeldFrame>;

    /// Slot of the endpoint that has the address; 0 for none.
    fn slot_of(&self, address: F::Addr) -> u32;
    /// Whether the address is one of the host's.
    fn is_local(&self, address: F::Addr) -> bool;
    /// Virtual index of an address of the host; 0 for none.
    fn virtual_index(&self, address: F::Addr) -> u32;
    /// Whether the address is a virtual one, whatever it stands for.
    fn is_virtual(&self, address: F::Addr) -> bool;
    /// The address of the host that a virtual address stands for.
    fn behind_virtual(&self, address: F::Addr) -> Option<F::Addr>;
    /// The virtual address that stands for an address of the host with this index.
    fn virtual_address(&self, index: u32) -> F::Addr;

    /// What a port is published as, by [`Transport::port_index`](crate::abi::Transport::port_index).
    fn published(&self, port_index: u32) -> PublishedPort;
    /// Rule of a publish on one address; 0 for none.
    fn published_on(&self, key: &PublishKey<F::Addr>) -> u32;
    /// Whether a restricted publish lets somebody in.
    fn is_allowed(&self, visitor: Visitor<F::Addr>) -> bool;

    /// Finds a flow entry.
    fn flow(&self, key: &FlowKey<F::Addr>) -> Option<Self::Entry>;
    /// Inserts a flow entry if there is none with its key.
    fn insert(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError>;
    /// Deletes a flow entry.
    fn remove(&self, key: &FlowKey<F::Addr>);
    /// Room for one flow at a time, with whatever the last user left there; it stays from call to
    /// call until the packet is done with.
    fn scratch(&self) -> Option<Self::Scratch>;
    /// Room for the headers of the packet, for which the BPF stack has none to spare either.
    fn parsed(&self) -> Option<Self::Parsed>;
    /// Puts a new flow into the share of an endpoint in this CPU's ring and gives the one whose place it takes.
    fn exchange_ring(&self, payer: u32, slot: &mut RingSlot<F::Addr>);

    /// Remembers a first fragment.
    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment);
    /// What is remembered of a first fragment, or that others are held for it.
    fn recall(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment>;
    /// A place among the fragments that are held for the first one of a packet; each is given once.
    fn take_place(&self, key: &FragmentKey<F::Addr>) -> Option<u64>;
    /// Holds a frame; whether there was memory for it.
    fn hold(&self, key: &HeldKey<F::Addr>, frame: &HeldFrame) -> bool;
    /// A frame that is held.
    fn held(&self, key: &HeldKey<F::Addr>) -> Option<Self::Held>;
    /// Holds a frame no longer.
    fn let_go(&self, key: &HeldKey<F::Addr>);

    /// Which socket of the host would receive a packet with this key.
    fn host_socket(&self, key: &FlowKey<F::Addr>) -> HostSocket;
    /// Finds the way to an address.
    fn route(&self, query: &RouteQuery<F::Addr>, route: &mut Route) -> Result<(), DropReason>;
}
