//! Fixtures: what goes in, in words what should happen, the verdict, and the bytes that come out.
//! Tier 0 runs them over tables in memory, tier 1 through the programs in the kernel.
//!
//! What is expected is built from scratch by another library (etherparse), checksums included.

use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_common::abi::{DropReason, NextHop};
use netbpf_common::path::Verdict;
use netbpf_common::wire::{Address as _, V4Addr, tcp_flags};

use crate::packet::{BROADCAST, Ethernet, Mac};
use crate::world::{
    BEHIND_FOREIGN, BLACKHOLE, C1, C2, C3, Container, FAR, GATEWAY, GATEWAY_MAC, HOST, HOST_DEVICE, OUTSIDE,
    OUTSIDE_MAC, UPLINK, UPLINK_MAC, VIRTUAL_LOOPBACK,
};

const SYN: u8 = tcp_flags::SYN;
const ACK: u8 = tcp_flags::ACK;
const FIN: u8 = tcp_flags::FIN;
const RST: u8 = tcp_flags::RST;
/// What builders put into the header, and what is left after a hop.
const TTL: u8 = 64;
const HOPPED: u8 = TTL - 1;

/// The path a packet takes, and the device it is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// From a container.
    Egress(u32),
    /// From outside.
    Uplink,
    /// From the host to its containers.
    Host,
    /// From elsewhere, by way of the host, to its containers.
    Forwarded,
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Step {
    /// What should happen.
    pub says: &'static str,
    /// Where it comes in.
    pub hook: Hook,
    /// What comes in.
    pub input: Vec<u8>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What goes out; nothing of a dropped packet.
    pub output: Vec<u8>,
}

/// Packets one after the other, in a fresh world.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// A sentence.
    pub name: &'static str,
    /// The packets.
    pub steps: Vec<Step>,
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

const fn link(from: Mac, to: Mac) -> Ethernet {
    Ethernet { from, to }
}

/// From a container to the gateway's MAC address.
const fn routed(from: Container) -> Ethernet {
    link(from.mac, GATEWAY_MAC)
}

/// From outside to the uplink.
const ARRIVING: Ethernet = link(OUTSIDE_MAC, UPLINK_MAC);

/// Into a container, in the gateway's name.
const fn delivered(to: Container) -> Ethernet {
    link(GATEWAY_MAC, to.mac)
}

/// From the host's stack: netbpf0 has no neighbours, and both ends of a frame are itself.
const FROM_HOST: Ethernet = link(GATEWAY_MAC, GATEWAY_MAC);

fn step(says: &'static str, hook: Hook, input: Vec<u8>, verdict: Verdict, output: Vec<u8>) -> Step {
    Step { says, hook, input, verdict, output }
}

fn dropped(says: &'static str, hook: Hook, input: Vec<u8>, reason: DropReason) -> Step {
    step(says, hook, input, Verdict::Drop(reason), Vec::new())
}

fn passed(says: &'static str, hook: Hook, input: Vec<u8>) -> Step {
    let output = input.clone();
    step(says, hook, input, Verdict::Pass, output)
}

const fn egress(container: Container) -> Hook {
    Hook::Egress(container.device())
}

const fn peer(container: Container) -> Verdict {
    Verdict::Peer { ifindex: container.device() }
}

fn outside() -> Verdict {
    const AF_INET: u32 = 2;
    let next_hop = NextHop { family: AF_INET, address: V4Addr::from(OUTSIDE).words() };
    Verdict::Neighbour { ifindex: UPLINK, next_hop }
}

const HOST_STACK: Verdict = Verdict::Ingress { ifindex: HOST_DEVICE };

/// All of them.
pub fn all() -> Vec<Fixture> {
    [neighbours(), masquerade(), publishes(), hairpins(), hosts(), refusals(), answers()].concat()
}

fn neighbours() -> Vec<Fixture> {
    let (a, b) = (at(C1.ip, 20_000), at(C2.ip, 7));
    let between = link(C1.mac, C2.mac);
    let back = link(C2.mac, C1.mac);
    vec![
        Fixture {
            name: "containers of a network talk without a byte being changed",
            steps: vec![
                step(
                    "the question arrives as it was sent",
                    egress(C1),
                    between.datagram(a, b, TTL, b"question"),
                    peer(C2),
                    between.datagram(a, b, TTL, b"question"),
                ),
                step(
                    "so does the answer",
                    egress(C2),
                    back.datagram(b, a, TTL, b"answer"),
                    peer(C1),
                    back.datagram(b, a, TTL, b"answer"),
                ),
                step(
                    "and what goes by the gateway's MAC address gets the neighbour's",
                    egress(C1),
                    routed(C1).datagram(a, b, TTL, b"question"),
                    peer(C2),
                    delivered(C2).datagram(a, b, TTL, b"question"),
                ),
            ],
        },
        Fixture {
            name: "ARP is answered for the gateway and for neighbours, and for nobody else",
            steps: vec![
                step(
                    "the gateway",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(C1.ip, GATEWAY),
                    peer(C1),
                    link(GATEWAY_MAC, C1.mac).arp_reply(GATEWAY, C1.ip),
                ),
                step(
                    "a neighbour",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(C1.ip, C2.ip),
                    peer(C1),
                    link(C2.mac, C1.mac).arp_reply(C2.ip, C1.ip),
                ),
                step(
                    "a probe for a neighbour's address (RFC 5227) finds it in use",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(Ipv4Addr::UNSPECIFIED, C2.ip),
                    peer(C1),
                    link(C2.mac, C1.mac).arp_reply(C2.ip, Ipv4Addr::UNSPECIFIED),
                ),
                dropped(
                    "a probe for one's own address is not answered",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(Ipv4Addr::UNSPECIFIED, C1.ip),
                    DropReason::NoEndpoint,
                ),
                dropped(
                    "an address of another network is nobody's here",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(C1.ip, C3.ip),
                    DropReason::NoEndpoint,
                ),
                dropped(
                    "a question in another's name",
                    egress(C1),
                    link(C1.mac, BROADCAST).arp_request(C2.ip, GATEWAY),
                    DropReason::SpoofedNeighbour,
                ),
                dropped(
                    "an answer that nobody asked for",
                    egress(C1),
                    link(C1.mac, C2.mac).arp_reply(GATEWAY, C2.ip),
                    DropReason::SpoofedNeighbour,
                ),
            ],
        },
    ]
}

fn masquerade() -> Vec<Fixture> {
    let (inner, outer, far) = (at(C1.ip, 20_000), at(HOST, 20_000), at(FAR, 443));
    let leaving = routed(C1);
    vec![
        Fixture {
            name: "a TCP connection to the world leaves with the host's address and comes back",
            steps: vec![
                step(
                    "the SYN keeps its port",
                    egress(C1),
                    leaving.segment(inner, far, SYN, TTL, b""),
                    outside(),
                    leaving.segment(outer, far, SYN, HOPPED, b""),
                ),
                step(
                    "the SYN-ACK finds the container",
                    Hook::Uplink,
                    ARRIVING.segment(far, outer, SYN | ACK, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(far, inner, SYN | ACK, HOPPED, b""),
                ),
                step(
                    "data out, of odd length",
                    egress(C1),
                    leaving.segment(inner, far, ACK, TTL, b"GET"),
                    outside(),
                    leaving.segment(outer, far, ACK, HOPPED, b"GET"),
                ),
                step(
                    "the end",
                    Hook::Uplink,
                    ARRIVING.segment(far, outer, FIN | ACK, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(far, inner, FIN | ACK, HOPPED, b""),
                ),
                passed(
                    "another sender's packet to the same port is the host's affair",
                    Hook::Uplink,
                    ARRIVING.segment(at(OUTSIDE, 443), outer, SYN | ACK, TTL, b""),
                ),
            ],
        },
        Fixture {
            name: "UDP without a checksum stays without one through masquerade",
            steps: vec![step(
                "zero stays zero",
                egress(C1),
                leaving.udp_without_checksum(inner, far, b"x"),
                outside(),
                hopped(leaving.udp_without_checksum(outer, far, b"x")),
            )],
        },
        Fixture {
            name: "an echo keeps its identifier when that is free",
            steps: vec![
                step(
                    "request",
                    egress(C1),
                    leaving.echo(C1.ip, FAR, true, 7, TTL),
                    outside(),
                    leaving.echo(HOST, FAR, true, 7, HOPPED),
                ),
                passed(
                    "the reply goes on to the host too, which may have asked with the same identifier",
                    Hook::Uplink,
                    ARRIVING.echo(FAR, HOST, false, 7, TTL),
                ),
            ],
        },
        Fixture {
            name: "a protocol without ports is masqueraded by address alone",
            steps: vec![step(
                "GRE",
                egress(C1),
                leaving.protocol(47, C1.ip, FAR, &[0; 8]),
                outside(),
                hopped(leaving.protocol(47, HOST, FAR, &[0; 8])),
            )],
        },
        Fixture {
            name: "there is no way out where no uplink serves it",
            steps: vec![
                dropped(
                    "a route by a device without our program",
                    egress(C1),
                    leaving.datagram(inner, at(BEHIND_FOREIGN, 53), TTL, b"x"),
                    DropReason::NoUplink,
                ),
                dropped(
                    "a blackhole",
                    egress(C1),
                    leaving.datagram(inner, at(BLACKHOLE, 53), TTL, b"x"),
                    DropReason::NoRoute,
                ),
            ],
        },
    ]
}

/// A frame with one hop less to live, made from scratch.
fn hopped(mut frame: Vec<u8>) -> Vec<u8> {
    const IP: usize = 14;
    let mut header = etherparse::Ipv4Header::from_slice(&frame[IP..]).expect("a header that was built").0;
    header.time_to_live -= 1;
    header.header_checksum = header.calc_header_checksum();
    frame[IP..IP + 20].copy_from_slice(&header.to_bytes());
    frame
}

fn publishes() -> Vec<Fixture> {
    let client = at(OUTSIDE, 40_000);
    vec![
        Fixture {
            name: "a published TCP port leads into the container, which sees the client's own address",
            steps: vec![
                step(
                    "SYN",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 8080), SYN, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(client, at(C1.ip, 80), SYN, HOPPED, b""),
                ),
                step(
                    "SYN-ACK, from the published address",
                    egress(C1),
                    routed(C1).segment(at(C1.ip, 80), client, SYN | ACK, TTL, b""),
                    outside(),
                    routed(C1).segment(at(HOST, 8080), client, SYN | ACK, HOPPED, b""),
                ),
                step(
                    "data",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 8080), ACK, TTL, b"GET / HTTP/1.1"),
                    peer(C1),
                    delivered(C1).segment(client, at(C1.ip, 80), ACK, HOPPED, b"GET / HTTP/1.1"),
                ),
            ],
        },
        Fixture {
            name: "a port of a published range leads to its own place in the container's range",
            steps: vec![step(
                "the seventh",
                Hook::Uplink,
                ARRIVING.datagram(client, at(HOST, 7006), TTL, b"x"),
                peer(C2),
                delivered(C2).datagram(client, at(C2.ip, 17_006), HOPPED, b"x"),
            )],
        },
        Fixture {
            name: "what is not published is the host's own affair",
            steps: vec![
                passed("another port", Hook::Uplink, ARRIVING.segment(client, at(HOST, 22), SYN, TTL, b"")),
                passed(
                    "the middle of a connection that nobody knows: the host's stack resets it",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 8080), ACK, TTL, b""),
                ),
                passed(
                    "a port that is published on 127.0.0.1 alone",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 9090), SYN, TTL, b""),
                ),
                passed(
                    "127.0.0.1 from outside",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(Ipv4Addr::LOCALHOST, 9090), SYN, TTL, b""),
                ),
                passed(
                    "a published port of a machine behind the host",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(FAR, 8080), SYN, TTL, b""),
                ),
                passed(
                    "a container's own address",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(C1.ip, 80), SYN, TTL, b""),
                ),
                passed(
                    "somebody outside who claims to be a container",
                    Hook::Uplink,
                    ARRIVING.segment(at(C2.ip, 40_000), at(HOST, 8080), SYN, TTL, b""),
                ),
                passed(
                    "somebody outside who claims an address of the containers' subnet",
                    Hook::Uplink,
                    ARRIVING.datagram(at(Ipv4Addr::new(172, 30, 9, 9), 40_000), at(HOST, 5353), TTL, b"x"),
                ),
                passed("IP options", Hook::Uplink, with_options(&ARRIVING.datagram(client, at(HOST, 5353), TTL, b"x"))),
                dropped(
                    "somebody outside who claims a virtual address, and would seem to be 127.0.0.1",
                    Hook::Uplink,
                    ARRIVING.datagram(at(VIRTUAL_LOOPBACK, 40_000), at(HOST, 123), TTL, b"x"),
                    DropReason::Martian,
                ),
                passed("a ping of the host", Hook::Uplink, ARRIVING.echo(OUTSIDE, HOST, true, 9, TTL)),
                passed("a tagged frame", Hook::Uplink, ARRIVING.tagged_udp(77, client, at(HOST, 5353), b"x")),
                passed(
                    "a frame for another machine",
                    Hook::Uplink,
                    link(OUTSIDE_MAC, [2, 0, 0, 0, 0, 0x77]).datagram(client, at(HOST, 5353), TTL, b"x"),
                ),
                passed("a fragment", Hook::Uplink, ARRIVING.fragment(OUTSIDE, HOST, &[0; 64])),
            ],
        },
        Fixture {
            name: "a client that uses its port again right after close gets a new connection",
            steps: vec![
                step(
                    "the first connection begins",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 8080), SYN, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(client, at(C1.ip, 80), SYN, HOPPED, b""),
                ),
                step(
                    "and is closed by the container",
                    egress(C1),
                    routed(C1).segment(at(C1.ip, 80), client, FIN | ACK, TTL, b""),
                    outside(),
                    routed(C1).segment(at(HOST, 8080), client, FIN | ACK, HOPPED, b""),
                ),
                step(
                    "the second begins",
                    Hook::Uplink,
                    ARRIVING.segment(client, at(HOST, 8080), SYN, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(client, at(C1.ip, 80), SYN, HOPPED, b""),
                ),
            ],
        },
    ]
}

fn hairpins() -> Vec<Fixture> {
    let client = at(C2.ip, 20_001);
    let own = at(C1.ip, 20_002);
    vec![
        Fixture {
            name: "a neighbour reaches a published port by the host's address and is seen as itself",
            steps: vec![
                step(
                    "there",
                    egress(C2),
                    routed(C2).segment(client, at(HOST, 8080), SYN, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(client, at(C1.ip, 80), SYN, TTL, b""),
                ),
                step(
                    "and back, from the address it had asked",
                    egress(C1),
                    link(C1.mac, C2.mac).segment(at(C1.ip, 80), client, SYN | ACK, TTL, b""),
                    peer(C2),
                    link(C1.mac, C2.mac).segment(at(HOST, 8080), client, SYN | ACK, TTL, b""),
                ),
            ],
        },
        Fixture {
            name: "a container of another network reaches a published port by the host's address",
            steps: vec![step(
                "there",
                egress(C3),
                routed(C3).segment(at(C3.ip, 20_003), at(HOST, 8080), SYN, TTL, b""),
                peer(C1),
                delivered(C1).segment(at(C3.ip, 20_003), at(C1.ip, 80), SYN, TTL, b""),
            )],
        },
        Fixture {
            name: "a container reaches itself by a published port, and sees the gateway as the client",
            steps: vec![
                step(
                    "there",
                    egress(C1),
                    routed(C1).segment(own, at(HOST, 8080), SYN, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(at(GATEWAY, 20_002), at(C1.ip, 80), SYN, TTL, b""),
                ),
                step(
                    "and back",
                    egress(C1),
                    routed(C1).segment(at(C1.ip, 80), at(GATEWAY, 20_002), SYN | ACK, TTL, b""),
                    peer(C1),
                    delivered(C1).segment(at(HOST, 8080), own, SYN | ACK, TTL, b""),
                ),
            ],
        },
    ]
}

fn hosts() -> Vec<Fixture> {
    let local = at(GATEWAY, 45_000);
    vec![
        Fixture {
            name: "host and container talk by their addresses",
            steps: vec![
                step(
                    "the host asks",
                    Hook::Host,
                    FROM_HOST.datagram(local, at(C1.ip, 53), TTL, b"question"),
                    Verdict::Device { ifindex: C1.device() },
                    delivered(C1).datagram(local, at(C1.ip, 53), TTL, b"question"),
                ),
                step(
                    "the container answers",
                    egress(C1),
                    routed(C1).datagram(at(C1.ip, 53), local, TTL, b"answer"),
                    HOST_STACK,
                    routed(C1).datagram(at(C1.ip, 53), local, TTL, b"answer"),
                ),
                step(
                    "a container asks a port of the host that is not published",
                    egress(C1),
                    routed(C1).datagram(at(C1.ip, 20_000), at(HOST, 123), TTL, b"time?"),
                    HOST_STACK,
                    routed(C1).datagram(at(C1.ip, 20_000), at(HOST, 123), TTL, b"time?"),
                ),
            ],
        },
        Fixture {
            name: "a virtual address stands for 127.0.0.1: the container sees the gateway",
            steps: vec![
                step(
                    "there",
                    Hook::Host,
                    FROM_HOST.segment(local, at(VIRTUAL_LOOPBACK, 9090), SYN, TTL, b""),
                    Verdict::Device { ifindex: C1.device() },
                    delivered(C1).segment(local, at(C1.ip, 90), SYN, TTL, b""),
                ),
                step(
                    "and back",
                    egress(C1),
                    routed(C1).segment(at(C1.ip, 90), local, SYN | ACK, TTL, b""),
                    HOST_STACK,
                    routed(C1).segment(at(VIRTUAL_LOOPBACK, 9090), local, SYN | ACK, TTL, b""),
                ),
            ],
        },
        Fixture {
            name: "what the host forwards does not reach containers",
            steps: vec![dropped(
                "from outside to a container's address",
                Hook::Forwarded,
                FROM_HOST.segment(at(OUTSIDE, 40_000), at(C1.ip, 80), SYN, TTL, b""),
                DropReason::Forwarded,
            )],
        },
    ]
}

fn refusals() -> Vec<Fixture> {
    let (from, to) = (at(C1.ip, 20_000), at(FAR, 53));
    let frame = routed(C1).datagram(from, to, TTL, b"x");
    let mut steps = vec![
        dropped("a frame with a tag", egress(C1), routed(C1).tagged_udp(77, from, to, b"x"), DropReason::VlanTag),
        dropped(
            "another's MAC address",
            egress(C1),
            link(C2.mac, GATEWAY_MAC).datagram(from, to, TTL, b"x"),
            DropReason::SpoofedMac,
        ),
        dropped(
            "another's IP address",
            egress(C1),
            routed(C1).datagram(at(C2.ip, 20_000), to, TTL, b"x"),
            DropReason::SpoofedAddress,
        ),
        dropped(
            "an address outside",
            egress(C1),
            routed(C1).datagram(at(OUTSIDE, 20_000), to, TTL, b"x"),
            DropReason::SpoofedAddress,
        ),
        dropped(
            "loopback",
            egress(C1),
            routed(C1).datagram(from, at(Ipv4Addr::LOCALHOST, 53), TTL, b"x"),
            DropReason::Martian,
        ),
        dropped(
            "multicast",
            egress(C1),
            link(C1.mac, [1, 0, 0x5e, 0, 0, 0xfb]).datagram(from, at(Ipv4Addr::new(224, 0, 0, 251), 53), TTL, b"x"),
            DropReason::Multicast,
        ),
        dropped(
            "broadcast",
            egress(C1),
            link(C1.mac, BROADCAST).datagram(from, at(Ipv4Addr::BROADCAST, 67), TTL, b"x"),
            DropReason::Multicast,
        ),
        dropped(
            "another network",
            egress(C1),
            routed(C1).datagram(from, at(C3.ip, 53), TTL, b"x"),
            DropReason::Isolated,
        ),
        dropped("a fragment to the world", egress(C1), routed(C1).fragment(C1.ip, FAR, &[0; 64]), DropReason::Fragment),
        dropped(
            "a reply of echo to nobody's request",
            egress(C1),
            routed(C1).echo(C1.ip, FAR, false, 7, TTL),
            DropReason::NoFlow,
        ),
        dropped(
            "a reset of nobody's connection",
            egress(C1),
            routed(C1).segment(from, to, RST, TTL, b""),
            DropReason::NoFlow,
        ),
        dropped(
            "IPv6",
            egress(C1),
            ethertype(routed(C1).datagram(from, to, TTL, &[0; 32]), 0x86dd),
            DropReason::UnsupportedProtocol,
        ),
        dropped(
            "a SYN-ACK that answers nobody",
            egress(C1),
            routed(C1).segment(from, to, SYN | ACK, TTL, b""),
            DropReason::NoFlow,
        ),
        dropped("a damaged header", egress(C1), byte(frame.clone(), 22, 63), DropReason::Malformed),
        dropped(
            "a protocol whose checksum cannot follow the address",
            egress(C1),
            routed(C1).protocol(33, C1.ip, FAR, &[0; 16]),
            DropReason::UnsupportedProtocol,
        ),
        dropped("IP options", egress(C1), with_options(&frame), DropReason::IpOption),
        dropped("a version that is not 4", egress(C1), byte(frame.clone(), 14, 0x65), DropReason::Malformed),
        dropped("a header shorter than 20 bytes", egress(C1), byte(frame.clone(), 14, 0x44), DropReason::Malformed),
        dropped("a length beyond the frame", egress(C1), byte(frame.clone(), 16, 0xff), DropReason::Malformed),
        dropped("a length shorter than the header", egress(C1), short(frame.clone()), DropReason::Malformed),
    ];
    steps.extend(
        (14..frame.len()).map(|len| dropped("cut off", egress(C1), frame[..len].to_vec(), DropReason::Malformed)),
    );
    vec![Fixture { name: "what a container must not send is dropped by name and leaves no flow", steps }]
}

fn byte(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

fn short(frame: Vec<u8>) -> Vec<u8> {
    byte(byte(frame, 16, 0), 17, 19)
}

fn ethertype(mut frame: Vec<u8>, value: u16) -> Vec<u8> {
    frame[12..14].copy_from_slice(&value.to_be_bytes());
    frame
}

/// The frame with four bytes of options, all "no operation".
fn with_options(frame: &[u8]) -> Vec<u8> {
    let (header, rest) = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("a header that was built");
    let mut header = etherparse::Ipv4Header { options: [1; 4].into(), ..header };
    header.total_len += 4;
    header.header_checksum = header.calc_header_checksum();
    [&frame[..14], &header.to_bytes(), rest].concat()
}

fn answers() -> Vec<Fixture> {
    let from = at(C1.ip, 20_000);
    vec![Fixture {
        name: "the sender of what cannot go on is told why",
        steps: vec![
            {
                let last = routed(C1).datagram(from, at(FAR, 33_434), 1, b"probe");
                step(
                    "time exceeded, from the gateway: traceroute's first line",
                    egress(C1),
                    last.clone(),
                    peer(C1),
                    icmp_error(delivered(C1), GATEWAY, C1.ip, 11, 0, 0, &last),
                )
            },
            {
                let big = routed(C1).datagram(from, at(FAR, 4000), TTL, &[7; 1600]);
                step(
                    "fragmentation needed, with the MTU of the way out",
                    egress(C1),
                    big.clone(),
                    peer(C1),
                    icmp_error(delivered(C1), GATEWAY, C1.ip, 3, 4, 1500, &big),
                )
            },
            {
                let lost = FROM_HOST.segment(at(GATEWAY, 45_000), at(Ipv4Addr::new(172, 30, 0, 99), 80), SYN, TTL, b"");
                step(
                    "host unreachable, to a process of the host",
                    Hook::Host,
                    lost.clone(),
                    HOST_STACK,
                    icmp_error(FROM_HOST, Ipv4Addr::new(172, 30, 0, 99), GATEWAY, 3, 1, 0, &lost),
                )
            },
        ],
    }]
}

/// An ICMP error about a frame, made from scratch; it quotes 28 bytes of payload in words of four.
fn icmp_error(link: Ethernet, from: Ipv4Addr, to: Ipv4Addr, kind: u8, code: u8, mtu: u16, about: &[u8]) -> Vec<u8> {
    let quoted = &about[14..];
    let quoted = &quoted[..quoted.len().min(48) & !3];
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let checksum = etherparse::checksum::Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
    let mut header =
        etherparse::Ipv4Header::new(message.len() as u16, TTL, etherparse::IpNumber::ICMP, from.octets(), to.octets())
            .expect("an error is short");
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    [&link.to[..], &link.from, &[8, 0], &header.to_bytes(), &message].concat()
}
