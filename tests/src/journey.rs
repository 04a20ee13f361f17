//! A packet's journey through the paths in memory: how it is built for where it sets out, where it
//! ends, and what is read off it there. Checksums are computed by another library (etherparse).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;
use netbpf_common::abi::{ENDPOINT_SLOTS, Flow, FlowKey, Life, Scope, Word};
use netbpf_common::path::{self, Env, FlowEntry, Verdict};
use netbpf_common::wire::{Be16, protocol, tcp_flags};

use crate::family::{Dual, TestFamily};
use crate::fixture::Hook;
use crate::frame::Frame;
use crate::headers::Headers;
use crate::memory::Memory;
use crate::packet::{Ethernet, icmp};
use crate::world::{CONTAINERS, Container, GATEWAY_MAC, HOST_DEVICE, OUTSIDE_MAC, UPLINK, UPLINK_MAC};
use crate::{in_each_family, in_family};

/// What builders put into the header.
pub const TTL: u8 = 64;

/// What a packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// A TCP segment with these control bits.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
    /// A UDP datagram whose checksum is zero: none.
    UdpWithoutChecksum,
    /// An ICMP echo request. Its identifier is the port of the sender.
    Ping,
    /// An ICMP echo reply. Its identifier is the port of the receiver.
    Pong,
}

impl Speech {
    /// The beginning of a TCP connection.
    pub const SYN: Self = Self::Tcp(tcp_flags::SYN);
    /// The answer to it.
    pub const SYN_ACK: Self = Self::Tcp(tcp_flags::SYN | tcp_flags::ACK);
    /// The middle of a TCP connection.
    pub const ACK: Self = Self::Tcp(tcp_flags::ACK);
    /// The end of one side of a TCP connection.
    pub const FIN: Self = Self::Tcp(tcp_flags::FIN | tcp_flags::ACK);
    /// The answer of a port without a listener.
    pub const REFUSAL: Self = Self::Tcp(tcp_flags::RST | tcp_flags::ACK);
    /// The sudden end of a TCP connection.
    pub const RST: Self = Self::Tcp(tcp_flags::RST);

    /// IP protocol number in the family of an address.
    pub const fn protocol(self, address: IpAddr) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp | Self::UdpWithoutChecksum => protocol::UDP,
            Self::Ping | Self::Pong => icmp(address).0,
        }
    }

    /// What the other side says to it.
    #[must_use]
    pub const fn answer(self) -> Self {
        match self {
            Self::Tcp(tcp_flags::SYN) => Self::SYN_ACK,
            Self::Tcp(_) => Self::ACK,
            Self::Ping => Self::Pong,
            other => other,
        }
    }

    /// What the same side says next.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Tcp(_) => Self::ACK,
            other => other,
        }
    }

    /// The frame. An echo has its identifier at the asking side, as the keys of flows do.
    pub fn frame(self, link: Ethernet, from: SocketAddr, to: SocketAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            // What a SYN carried would have to be acknowledged by the next segment.
            Self::Tcp(flags) if flags & tcp_flags::SYN != 0 => link.segment(from, to, flags, ttl, &[]),
            Self::Tcp(flags) => link.segment(from, to, flags, ttl, payload),
            Self::Udp => link.datagram(from, to, ttl, payload),
            Self::UdpWithoutChecksum => {
                let mut frame = link.datagram(from, to, ttl, payload);
                let end = frame.len() - payload.len();
                frame[end - 2..end].fill(0);
                frame
            }
            Self::Ping => link.echo_with(from.ip(), to.ip(), true, from.port(), ttl, payload),
            Self::Pong => link.echo_with(from.ip(), to.ip(), false, to.port(), ttl, payload),
        }
    }
}

/// Who speaks to whom, by what protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
}

impl Tuple {
    /// Of a packet.
    pub const fn new(speech: Speech, from: SocketAddr, to: SocketAddr) -> Self {
        Self { protocol: speech.protocol(from.ip()), from, to }
    }

    /// Reads a frame that holds TCP, UDP or an echo.
    pub fn read(frame: &[u8]) -> Option<Self> {
        const V4_REQUEST: u8 = 8;
        const V4_REPLY: u8 = 0;
        const V6_REQUEST: u8 = 128;
        const V6_REPLY: u8 = 129;
        let Headers { source, destination, protocol, transport, .. } = Headers::read(frame)?;
        let l4 = frame.get(transport)?;
        let word = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
        let (sport, dport) = match (protocol, *l4.first()?) {
            (IpNumber::TCP | IpNumber::UDP, _) => (word(0)?, word(2)?),
            (IpNumber::ICMP, V4_REQUEST) | (IpNumber::IPV6_ICMP, V6_REQUEST) => (word(4)?, 0),
            (IpNumber::ICMP, V4_REPLY) | (IpNumber::IPV6_ICMP, V6_REPLY) => (0, word(4)?),
            _ => return None,
        };
        Some(Self {
            protocol: protocol.0,
            from: SocketAddr::new(source, sport),
            to: SocketAddr::new(destination, dport),
        })
    }

    /// The way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    /// Of the packets of a key.
    fn of_key<F: TestFamily>(key: &FlowKey<F::Addr>) -> Self {
        let end = |address: F::Addr, port: Be16| SocketAddr::new(address.into(), port.get());
        Self { protocol: key.proto, from: end(key.src, key.sport), to: end(key.dst, key.dport) }
    }

    /// The key of the flow of such packets that come from `scope`.
    pub fn key<F: TestFamily>(&self, scope: Scope) -> FlowKey<F::Addr> {
        let port = |end: SocketAddr| Be16::new(end.port());
        let (from, to) = (self.from, self.to);
        FlowKey::new(scope, self.protocol, F::addr(from.ip()), port(from), F::addr(to.ip()), port(to))
    }
}

/// Where a packet ended, and what it had become.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// What became of it.
    pub verdict: Verdict,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Arrival {
    /// What came of a frame. An echo reply from outside goes on to the host and, as a copy, into a
    /// container; then it is the copy.
    ///
    /// # Panics
    /// When there is a copy, and its original does not go on to the host.
    #[track_caller]
    pub fn new(verdict: Verdict, mut frame: Frame) -> Self {
        match frame.copies.pop() {
            Some((ifindex, bytes)) => {
                assert_eq!(verdict, Verdict::Pass, "the host gets it too");
                assert!(frame.copies.is_empty(), "one container gets it");
                Self { verdict: Verdict::Device { ifindex }, bytes }
            }
            None => Self { verdict, bytes: frame.bytes },
        }
    }

    /// Who speaks to whom at the end of the journey.
    ///
    /// # Panics
    /// When the packet did not get there.
    #[track_caller]
    pub fn tuple(&self) -> Tuple {
        assert!(self.way_back().is_some(), "{:?}", self.verdict);
        Tuple::read(&self.bytes).expect("a packet with ports")
    }

    /// Where an answer to it sets out; nothing if it got nowhere.
    pub fn way_back(&self) -> Option<Hook> {
        match self.verdict {
            Verdict::Pass | Verdict::Drop(_) | Verdict::Done | Verdict::HandOver => None,
            // An answer to somebody outside.
            Verdict::Device { ifindex: UPLINK } => Some(Hook::Uplink),
            Verdict::Peer { ifindex } | Verdict::Device { ifindex } => Some(Hook::Egress(ifindex)),
            Verdict::Neighbour { .. } => Some(Hook::Uplink),
            Verdict::Ingress { .. } => Some(Hook::Host),
        }
    }

    /// The control bits of the TCP segment that it is.
    pub fn tcp_flags(&self) -> Option<u8> {
        const FLAGS: usize = 13;
        let headers = Headers::read(&self.bytes)?;
        let l4 = self.bytes.get(headers.transport)?;
        (headers.protocol == IpNumber::TCP).then(|| l4.get(FLAGS).copied()).flatten()
    }
}

/// Sends a packet with a few bytes of payload.
pub fn send<E: Dual>(env: E, hook: Hook, speech: Speech, from: SocketAddr, to: SocketAddr) -> Arrival {
    let mut frame = frame_on(hook, speech.frame(link_on(hook), from, to, TTL, b"odd"));
    let verdict = travel(env, hook, &mut frame);
    Arrival::new(verdict, frame)
}

/// Sends the answer to a packet that has arrived.
///
/// # Panics
/// When it has not.
#[track_caller]
pub fn answer<E: Dual>(env: E, arrival: &Arrival, speech: Speech) -> Arrival {
    let Tuple { from, to, .. } = arrival.tuple();
    send(env, arrival.way_back().expect("checked"), speech, to, from)
}

/// Lets a frame meet the path of a hook.
pub fn travel<E: Dual>(env: E, hook: Hook, frame: &mut Frame) -> Verdict {
    match hook {
        Hook::Egress(_) => path::egress(frame, &env),
        Hook::Uplink => path::uplink(frame, &env),
        Hook::Host | Hook::Forwarded => path::host(frame, &env),
    }
}

/// A frame as the hook finds it.
pub fn frame_on(hook: Hook, bytes: Vec<u8>) -> Frame {
    match hook {
        Hook::Egress(device) => Frame::new(device, bytes),
        Hook::Uplink => Frame { for_us: bytes.starts_with(&UPLINK_MAC), ..Frame::new(UPLINK, bytes) },
        Hook::Host => Frame::new(HOST_DEVICE, bytes),
        Hook::Forwarded => Frame { ingress_ifindex: UPLINK, ..Frame::new(HOST_DEVICE, bytes) },
    }
}

/// The Ethernet addresses of what comes by a hook; a container sends by way of the gateway.
pub fn link_on(hook: Hook) -> Ethernet {
    match hook {
        Hook::Egress(device) => Ethernet { from: container_of(device).mac, to: GATEWAY_MAC },
        Hook::Uplink => Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC },
        Hook::Host | Hook::Forwarded => Ethernet { from: GATEWAY_MAC, to: GATEWAY_MAC },
    }
}

/// The container behind a host-side device.
///
/// # Panics
/// When there is none in the world.
pub fn container_of(device: u32) -> Container {
    let slot = device & (ENDPOINT_SLOTS - 1);
    *CONTAINERS.iter().find(|container| container.slot == slot).expect("a container of the world")
}

/// From which side the packets of a hook come.
pub const fn scope_of(hook: Hook) -> Scope {
    match hook {
        Hook::Egress(_) => Scope::Container,
        Hook::Uplink => Scope::Uplink,
        Hook::Host | Hook::Forwarded => Scope::Host,
    }
}

/// What tests look at of a flow entry, of whichever family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// State and number of the flow.
    pub word: Word,
    /// When its route was looked up.
    pub routed: u32,
    /// Whether it is of those who answer.
    pub is_reply: bool,
    /// Bytes that have passed.
    pub bytes: u64,
}

/// The flow entry that packets of this tuple find when they come by a hook.
pub fn entry<E: Dual>(env: E, hook: Hook, tuple: &Tuple) -> Option<Record> {
    in_family!(tuple.from.ip(), F => {
        let flow = copy_of::<F>(&Env::<F>::flow(&env, &tuple.key::<F>(scope_of(hook)))?);
        Some(Record { word: flow.word, routed: flow.routed, is_reply: flow.is_reply != 0, bytes: flow.bytes })
    })
}

fn copy_of<F: TestFamily>(entry: &impl FlowEntry<F::Addr>) -> Flow<F::Addr> {
    let mut flow = Flow::default();
    entry.read_into(&mut flow);
    flow
}

/// What the originators of all flows say, in both families.
///
/// # Panics
/// When a flow is not whole, see [`originals`].
#[track_caller]
pub fn flows(memory: &Memory) -> Vec<Tuple> {
    in_each_family!(F => keys::<F>(memory).iter().map(Tuple::of_key::<F>).collect::<Vec<_>>()).concat()
}

#[track_caller]
fn keys<F: TestFamily>(memory: &Memory) -> Vec<FlowKey<F::Addr>> {
    let flows = memory.of::<F>().flows.borrow();
    originals::<F>(&flows.iter().map(|(key, entry)| (*key, copy_of::<F>(entry))).collect())
}

/// The original keys of the flows in a table.
///
/// # Panics
/// When there is half a flow, a dead one, or a reply key that two flows have.
#[track_caller]
pub fn originals<F: TestFamily>(table: &HashMap<FlowKey<F::Addr>, Flow<F::Addr>>) -> Vec<FlowKey<F::Addr>> {
    let mut originals = Vec::with_capacity(table.len() / 2);
    for (key, flow) in table {
        let other = table.get(&flow.other).unwrap_or_else(|| panic!("half a flow: {key:?}"));
        assert_eq!(other.other, *key, "the other half of {key:?} belongs to another flow");
        assert!(flow.word.same_flow(other.word), "{key:?} and its other half are not of the same flow");
        assert_eq!(flow.is_reply + other.is_reply, 1, "{key:?} has two halves of the same kind");
        assert_ne!(flow.word.life(), Life::Dead, "{key:?} is dead");
        if flow.is_reply == 0 {
            originals.push(*key);
        }
    }
    originals
}

/// Asks the collector to look at every flow; how many it ended.
pub fn collect(memory: &Memory) -> usize {
    in_each_family!(F => keys::<F>(memory).iter().filter(|key| path::collect::collect::<F, _>(&memory, key)).count())
        .iter()
        .sum()
}
