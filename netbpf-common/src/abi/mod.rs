//! What crosses the line between kernel and agent: the layout of every map, and the names.
//!
//! Every struct is `repr(C)`, free of padding and of the same layout for BPF and for the host; the
//! test at the end of this file fixes the sizes. A change of any layout raises [`ABI_VERSION`].

mod config;
mod counter;
mod endpoint;
mod flow;
mod fragment;
mod pod;
mod publish;
mod skb;

pub use config::{Config, ConfigFlags, RING_SHARES, TIMEOUTS, Timeout};
pub use counter::{COUNTERS, DropReason, Event, NO_COUNTER};
pub use endpoint::{
    ENDPOINT_SLOTS, Endpoint, EndpointFlags, GatewayMode, NETWORKS, Network, NetworkFlags, Subnet, Uplink, UplinkFlags,
};
pub use flow::{COLLECT_KEYS, Flow, FlowKey, Life, NextHop, RingSlot, Scope, Sent, Stamp, TargetKind, Word};
pub use fragment::{FRAGMENT_SECONDS, Fragment, FragmentKey, HELD_FRAGMENTS, HELD_LEN, HeldFrame, HeldKey};
pub use publish::{
    GENERATIONS, KEPT_WORDS, LOOPBACK_INDEX, PORT_TABLE, PORTS, PublishKey, PublishedPort, RULES, Rule, RuleFlags,
    TRANSLATOR_INDEX, Transport, VIRTUALS, Visitor, Visitors, generation,
};
pub use skb::SkbLayout;

/// Raised by every change of a layout below. An agent finds it in [`Config`] of a pinned instance.
pub const ABI_VERSION: u32 = 6;

/// Names of the maps, as pinned under the instance's bpffs directory.
pub mod map {
    /// One [`Config`](super::Config).
    pub const CONFIG: &str = "CONFIG";
    /// Array of [`Endpoint`](super::Endpoint) by slot.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array of [`Network`](super::Network) by number.
    pub const NETWORKS: &str = "NETWORKS";
    /// Hash: ifindex (u32) to [`Uplink`](super::Uplink).
    pub const UPLINKS: &str = "UPLINKS";
    /// Array of u32: generations of publish rules and epochs, see [`generation`](super::generation).
    pub const GENERATIONS: &str = "GENERATIONS";
    /// Array of [`Rule`](super::Rule) by rule number; 0 is unused.
    pub const RULES: &str = "RULES";
    /// Bitmap of ports outside the NAT range that a flow has kept; written by BPF.
    pub const KEPT_PORTS: &str = "KEPT_PORTS";
    /// Per-CPU array of u64: counter of flows made, from which the flow ids come, then by family and share the position in
    /// the ring.
    pub const RING_HEAD: &str = "RING_HEAD";
    /// Array of u64 by slot of an endpoint: confirmed flows that are counted for it.
    pub const CONFIRMED: &str = "CONFIRMED";
    /// Array of u32 by slot of an endpoint: the slot of another of its network, all of them in a ring.
    pub const MEMBERS: &str = "MEMBERS";
    /// Array of u64 by slot of an endpoint: its allowance of broadcasts.
    pub const BROADCASTS: &str = "BROADCASTS";
    /// Per-CPU array with one element: an array of [`COUNTERS`](super::COUNTERS) u64 by [`DropReason`](super::DropReason) and [`Event`](super::Event).
    pub const COUNTERS: &str = "COUNTERS";

    /// Device map: host-side device by slot of an endpoint that takes frames ahead of the host's stack.
    pub const EXPRESS: &str = "EXPRESS";

    /// Array of the programs that hand packets over to: [`program::PARTS`](super::program::PARTS) in this order.
    pub const PARTS: &str = "PARTS";

    /// Names of the maps that each address family has of its own.
    #[derive(Clone, Copy, Debug)]
    pub struct OfFamily {
        /// Hash: address of an endpoint to its slot (u32).
        pub addresses: &'static str,
        /// Hash: address of the host to its virtual index (u32, 0 for none).
        pub locals: &'static str,
        /// Array: virtual index to the address of the host it stands for.
        pub virtuals: &'static str,
        /// Array of [`PublishedPort`](super::PublishedPort) by transport and port.
        pub ports: &'static str,
        /// Hash: [`PublishKey`](super::PublishKey) to rule number (u32).
        pub published: &'static str,
        /// LPM trie: [`Visitors`](super::Visitors) that restricted publishes let in (u32, always 1).
        pub allowed: &'static str,
        /// Hash: [`FlowKey`](super::FlowKey) to [`Flow`](super::Flow), two entries per flow.
        pub flows: &'static str,
        /// Per-CPU array of [`RingSlot`](super::RingSlot): half-open flows, oldest first within each share.
        pub ring: &'static str,
        /// LRU hash: [`FragmentKey`](super::FragmentKey) to [`Fragment`](super::Fragment).
        pub fragments: &'static str,
        /// LRU hash: [`HeldKey`](super::HeldKey) to [`HeldFrame`](super::HeldFrame).
        pub held: &'static str,
    }

    /// Those of IPv4.
    pub const V4: OfFamily = OfFamily {
        addresses: "ADDRESSES_V4",
        locals: "LOCALS_V4",
        virtuals: "VIRTUALS_V4",
        ports: "PORTS_V4",
        published: "PUBLISHED_V4",
        allowed: "ALLOWED_V4",
        flows: "FLOWS_V4",
        ring: "RING_V4",
        fragments: "FRAGMENTS_V4",
        held: "HELD_V4",
    };

    /// Those of IPv6.
    pub const V6: OfFamily = OfFamily {
        addresses: "ADDRESSES_V6",
        locals: "LOCALS_V6",
        virtuals: "VIRTUALS_V6",
        ports: "PORTS_V6",
        published: "PUBLISHED_V6",
        allowed: "ALLOWED_V6",
        flows: "FLOWS_V6",
        ring: "RING_V6",
        fragments: "FRAGMENTS_V6",
        held: "HELD_V6",
    };

    impl OfFamily {
        /// All of them.
        pub const fn all(&self) -> [&'static str; 10] {
            [
                self.addresses,
                self.locals,
                self.virtuals,
                self.ports,
                self.published,
                self.allowed,
                self.flows,
                self.ring,
                self.fragments,
                self.held,
            ]
        }
    }

    /// Those that both families share.
    const SHARED: [&str; 14] = [
        CONFIG,
        ENDPOINTS,
        NETWORKS,
        UPLINKS,
        GENERATIONS,
        RULES,
        KEPT_PORTS,
        RING_HEAD,
        CONFIRMED,
        MEMBERS,
        BROADCASTS,
        COUNTERS,
        EXPRESS,
        PARTS,
    ];

    /// Every map that is pinned: the state that outlives an agent.
    pub fn all() -> impl Iterator<Item = &'static str> {
        SHARED.into_iter().chain(V4.all()).chain(V6.all())
    }
}

/// Names of the programs in the object.
pub mod program {
    /// TC ingress of each endpoint's host-side veth: all that a container sends.
    pub const EGRESS: &str = "egress";
    /// TC ingress of each uplink: all that comes from outside. Devices with an Ethernet header.
    pub const UPLINK: &str = "uplink";
    /// TC ingress of each uplink without Ethernet headers: tun, WireGuard, PPP.
    pub const UPLINK_BARE: &str = "uplink_bare";
    /// XDP of uplinks that are served ahead of the host's stack.
    pub const EXPRESS: &str = "express";
    /// TC egress of netbpf0: all that the host sends to containers.
    pub const HOST: &str = "host";
    /// What `egress`, `uplink`, `uplink_bare` and `host` hand IPv6 packets over to (bpf_tail_call).
    pub const PARTS: [&str; 4] = ["egress_v6", "uplink_v6", "uplink_bare_v6", "host_v6"];
    /// Run by the agent with BPF_PROG_TEST_RUN: takes keys of IPv4 flows, deletes what has expired.
    pub const COLLECT_V4: &str = "collect_v4";
    /// The same for IPv6.
    pub const COLLECT_V6: &str = "collect_v6";
    /// cgroup/connect4.
    pub const CONNECT4: &str = "connect4";
    /// cgroup/connect6.
    pub const CONNECT6: &str = "connect6";
    /// cgroup/sendmsg4.
    pub const SENDMSG4: &str = "sendmsg4";
    /// cgroup/sendmsg6.
    pub const SENDMSG6: &str = "sendmsg6";
    /// cgroup/recvmsg4.
    pub const RECVMSG4: &str = "recvmsg4";
    /// cgroup/recvmsg6.
    pub const RECVMSG6: &str = "recvmsg6";
    /// cgroup/getpeername4.
    pub const GETPEERNAME4: &str = "getpeername4";
    /// cgroup/getpeername6.
    pub const GETPEERNAME6: &str = "getpeername6";
    /// cgroup/bind4.
    pub const BIND4: &str = "bind4";
    /// cgroup/bind6.
    pub const BIND6: &str = "bind6";

    /// Those of devices.
    pub const DEVICE: [&str; 4] = [EGRESS, UPLINK, UPLINK_BARE, HOST];

    /// Those that delete flows.
    pub const COLLECT: [&str; 2] = [COLLECT_V4, COLLECT_V6];

    /// The socket hooks, attached to the instance's cgroup.
    pub const SOCKET: [&str; 10] =
        [CONNECT4, CONNECT6, SENDMSG4, SENDMSG6, RECVMSG4, RECVMSG6, GETPEERNAME4, GETPEERNAME6, BIND4, BIND6];
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};

    use super::*;
    use crate::wire::{V4Addr, V6Addr};

    #[test]
    fn the_layouts_are_those_of_abi_version_6() {
        assert_eq!(size_of::<Config>(), 192);
        assert_eq!(size_of::<Endpoint>(), 40);
        assert_eq!(size_of::<Network>(), 92);
        assert_eq!(size_of::<Uplink>(), 32);
        assert_eq!(size_of::<Rule>(), 16);
        assert_eq!(size_of::<PublishedPort>(), 8);
        assert_eq!(size_of::<PublishKey<V4Addr>>(), 8);
        assert_eq!(size_of::<PublishKey<V6Addr>>(), 20);
        assert_eq!(size_of::<Visitors<V4Addr>>(), 16);
        assert_eq!(size_of::<Visitors<V6Addr>>(), 28);
        assert_eq!(size_of::<FlowKey<V4Addr>>(), 16);
        assert_eq!(size_of::<FlowKey<V6Addr>>(), 40);
        assert_eq!(size_of::<Flow<V4Addr>>(), 144);
        assert_eq!(size_of::<Flow<V6Addr>>(), 192);
        assert_eq!(size_of::<RingSlot<V4Addr>>(), 24);
        assert_eq!(size_of::<FragmentKey<V4Addr>>(), 16);
        assert_eq!(size_of::<FragmentKey<V6Addr>>(), 40);
        assert_eq!(size_of::<Fragment>(), 24);
        assert_eq!(size_of::<HeldKey<V4Addr>>(), 20);
        assert_eq!(size_of::<HeldFrame>(), 2048);
        assert_eq!(size_of::<SkbLayout>(), 16);
        assert_eq!(align_of::<Flow<V4Addr>>(), 8);
    }
}
