//! What the datapath counts, and the name of every reason to drop.

macro_rules! named {
    ($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum $type { $($(#[$doc])* $variant = $number,)* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// By its number.
            #[inline(always)]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The name in counters, logs and documents.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

/// Counters in the one element of `COUNTERS`.
pub const COUNTERS: u32 = 64;

/// The last of them counts nothing: the programs put numbers there for a moment.
pub const NO_COUNTER: u32 = COUNTERS - 1;

named! {
    /// Why a packet was dropped: also the index of its counter.
    DropReason {
        /// Shorter than its headers say, or a bad version, length or header length.
        Malformed = 0 "malformed",
        /// A container sent a frame with an 802.1Q tag.
        VlanTag = 1 "vlan-tag",
        /// A container sent from a MAC address that is not its own.
        SpoofedMac = 2 "spoofed-mac",
        /// A container sent from an IP address that is not its own.
        SpoofedAddress = 3 "spoofed-address",
        /// An ARP or ND message that claims what is not the sender's, or answers what nobody asked.
        SpoofedNeighbour = 4 "spoofed-neighbour",
        /// Neither IPv4 nor ARP, or an IP protocol that cannot be translated.
        UnsupportedProtocol = 5 "unsupported-protocol",
        /// A container sent IPv4 options, of which none is translated, or an IPv6 routing header: source routing would lead past
        /// the checks made here.
        IpOption = 6 "ip-option",
        /// A fragment whose first was not seen and that could not be held until it comes, or whose first belongs to no flow.
        Fragment = 7 "fragment",
        /// Broadcast or multicast that no member of the network is to get.
        Multicast = 8 "multicast",
        /// A destination that is no machine: loopback, reserved, unspecified.
        Martian = 9 "martian",
        /// No endpoint has the address.
        NoEndpoint = 10 "no-endpoint",
        /// The device is not an endpoint's, or its endpoint is gone.
        UnknownDevice = 11 "unknown-device",
        /// No route, or a blackhole, unreachable or prohibit route.
        NoRoute = 12 "no-route",
        /// The route leaves by a device without our program or without an address.
        NoUplink = 13 "no-uplink",
        /// Another network, or from an internal one anything but its members: not reachable.
        Isolated = 14 "isolated",
        /// The network has no way out.
        NoMasquerade = 15 "no-masquerade",
        /// Every NAT port towards this destination is in use.
        NoPort = 16 "no-port",
        /// The flow table is full.
        TableFull = 17 "table-full",
        /// A packet the host forwarded: containers are reached by publishes alone.
        Forwarded = 18 "forwarded",
        /// A TCP packet of a connection that ended when its endpoint or rule went away.
        StaleFlow = 19 "stale-flow",
        /// A RST, or a reply of echo, that belongs to no flow.
        NoFlow = 20 "no-flow",
        /// An ICMP error that belongs to no flow, or an ICMP message that no container may send.
        IcmpError = 21 "icmp-error",
        /// Time to live exceeded at the gateway.
        TtlExceeded = 22 "ttl-exceeded",
        /// Larger than the way out takes.
        TooBig = 23 "too-big",
        /// A kernel helper refused; a defect of netbpf or a lack of memory.
        Internal = 24 "internal",
        /// Another CPU has just made a flow with the same key; the sender's next packet finds it.
        Raced = 25 "raced",
        /// The container has as many confirmed flows as it may have.
        FlowLimit = 26 "flow-limit",
        /// A first fragment too small for its transport header (RFC 1858).
        TinyFragment = 27 "tiny-fragment",
        /// A fragment that overlaps the first one (RFC 1858, RFC 5722).
        OverlappingFragment = 28 "overlapping-fragment",
        /// A container broadcasts or multicasts faster than it may.
        BroadcastRate = 29 "broadcast-rate",
        /// A container sent to a MAC address that is neither the gateway's nor that of who has the IP address.
        ForeignMac = 30 "foreign-mac",
        /// More or longer IPv6 extension headers than are looked through, or one behind a fragment header.
        ExtensionHeaders = 31 "extension-headers",
        /// The published port is not for this sender: its source or its way in is not on the list.
        NotAllowed = 32 "not-allowed",
    }
}

named! {
    /// What else is counted.
    Event {
        /// Packets of known flows.
        Hit = 40 "hit",
        /// Flows made.
        FlowMade = 41 "flow-made",
        /// Half-open flows that made room for newer ones.
        FlowEvicted = 42 "flow-evicted",
        /// Flows deleted by the collector.
        FlowCollected = 43 "flow-collected",
        /// Flows that were decided again because what they rest on had changed.
        FlowRedecided = 44 "flow-redecided",
        /// ARP requests and neighbour solicitations answered.
        NeighbourAnswered = 45 "neighbour-answered",
        /// ICMP errors made.
        IcmpMade = 46 "icmp-made",
        /// TCP resets made.
        ResetMade = 47 "reset-made",
        /// Packets of an uplink or of the host that were none of ours.
        Passed = 48 "passed",
        /// Swaps of a flow's word that another CPU won.
        SwapLost = 49 "swap-lost",
        /// TCP segments with a FIN or RST, or that would complete a handshake, with numbers that cannot be right:
        /// passed on, without effect on their flow.
        OutOfWindow = 50 "out-of-window",
        /// ICMP errors translated.
        ErrorTranslated = 51 "error-translated",
        /// Copies of broadcasts and multicasts delivered.
        Replicated = 52 "replicated",
        /// Endpoint-independent mappings made.
        MappingMade = 53 "mapping-made",
        /// Fragments held until the first of their packet comes.
        FragmentHeld = 54 "fragment-held",
        /// Held fragments sent on behind the first one.
        FragmentReleased = 55 "fragment-released",
        /// Packets of known flows that were taken ahead of the host's stack, by XDP.
        Express = 56 "express",
    }
}
