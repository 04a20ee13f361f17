//! From bytes to what identifies a flow.

use super::{Family, HEADERS_END, Headers, Ip, Part, World, verdict::Outcome};
use crate::abi::{DropReason, FlowKey, Scope};
use crate::wire::{Be16, Checksum, Ethernet, Icmp, Kind, L4, Ports, Tcp, Udp, protocol, tcp_flags};

/// An IP packet as the paths see it.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<F: Family> {
    /// The Ethernet header.
    pub ethernet: Ethernet,
    /// The IP header.
    pub ip: Ip<F::Addr>,
    /// The transport header.
    pub l4: L4,
    /// The key of the flow that the packet is of, or that it is an error about.
    pub key: FlowKey<F::Addr>,
}

impl<F: Family> Parsed<F> {
    /// Offset of the transport header in the frame, in bytes.
    #[inline(always)]
    pub fn l4_at(&self) -> u32 {
        self.ip.payload_at(Ethernet::LEN)
    }

    /// The key of the packet itself.
    #[inline(always)]
    pub fn own_key(&self, scope: Scope) -> FlowKey<F::Addr> {
        let Ports { sport, dport } = self.l4.ports;
        FlowKey::new(scope, self.ip.proto, self.ip.src, sport, self.ip.dst, dport)
    }

    /// Bytes of data behind the transport header.
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        self.ip.payload_len().saturating_sub(u32::from(self.l4.header_len))
    }

    /// The checksum that follows a change of addresses or ports.
    #[inline(always)]
    pub fn checksum(&self) -> Option<Checksum> {
        self.l4.checksum(F::ICMP_HAS_PSEUDO_HEADER)
    }

    /// Length of the largest IP packet this becomes on a wire: of one segment if it is GSO.
    #[inline(always)]
    pub fn segment_len(&self, gso_size: u32) -> u32 {
        if gso_size == 0 {
            self.ip.total_len
        } else {
            F::segment_header_len(&self.ip) + u32::from(self.l4.header_len) + gso_size
        }
    }
}

impl<F: Family> Default for Parsed<F> {
    fn default() -> Self {
        let l4 = L4::new(Kind::Other, Ports::default());
        Self { ethernet: Ethernet::default(), ip: Ip::default(), l4, key: FlowKey::default() }
    }
}

/// Reads the headers behind an Ethernet header. Ports of a fragment that is not the first are not read, since it has
/// none: they are still to be asked for (see `fragments`).
#[inline(always)]
pub fn parse<F: Family, P: Headers, W: World>(
    packet: &mut P,
    world: &W,
    ethernet: Ethernet,
    parsed: &mut Parsed<F>,
) -> Outcome<()> {
    parsed.ethernet = ethernet;
    match DropReason::from_u32(read(packet, world, parsed)) {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// The body of [`parse`], with a stack frame of its own. A number that is no reason: it could be read.
#[inline(never)]
fn read<F: Family, P: Headers, W: World>(packet: &mut P, world: &W, parsed: &mut Parsed<F>) -> u32 {
    match headers(packet, world, parsed) {
        Ok(()) => u32::MAX,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn headers<F: Family, P: Headers, W: World>(packet: &mut P, world: &W, parsed: &mut Parsed<F>) -> Outcome<()> {
    F::parse(packet, Ethernet::LEN, &mut parsed.ip)?;
    let ip = &parsed.ip;
    let at = packet.reach(ip.payload_at(Ethernet::LEN), Tcp::LEN);
    let mut l4 = match ip.part {
        Part::Later => L4::new(Kind::Fragment, Ports::default()),
        part => {
            let short = if part == Part::First { DropReason::TinyFragment } else { DropReason::Malformed };
            transport::<F, P>(packet, ip.proto, at, ip.payload_len()).ok_or(short)?
        }
    };
    if ip.proto == protocol::UDP && ip.part == Part::Whole {
        let length: Be16 = packet.read(at + Udp::LENGTH_AT).ok_or(DropReason::Malformed)?;
        if u32::from(length.get()) < Udp::LEN || u32::from(length.get()) > ip.payload_len() {
            return Err(DropReason::Malformed);
        }
    }
    if l4.tcp_flags & tcp_flags::SYN != 0 {
        let at = packet.reach(at, u32::from(l4.header_len));
        let found = options(packet, world, at, u32::from(l4.header_len));
        (l4.mss_at, l4.scale) = ((found >> 8) as u8, found as u8);
    }
    parsed.l4 = l4;
    Ok(())
}

/// Reads what identifies a flow in the transport header at `at`; nothing if of its packet less than that is there.
#[inline(always)]
fn transport<F: Family, P: Headers>(packet: &P, proto: u8, at: u32, payload: u32) -> Option<L4> {
    let need = |len: u32| (payload >= len).then_some(());
    match proto {
        protocol::TCP => {
            need(Tcp::LEN)?;
            let tcp: Tcp = packet.read(at)?;
            let header_len = u16::from(tcp.offset >> 4) * 4;
            if u32::from(header_len) < Tcp::LEN {
                return None;
            }
            need(u32::from(header_len))?;
            let ports = Ports { sport: tcp.sport, dport: tcp.dport };
            Some(L4 {
                tcp_flags: tcp.flags,
                header_len,
                seq: tcp.seq.get(),
                ack: tcp.ack.get(),
                window: tcp.window.get(),
                ..L4::new(Kind::Tcp, ports)
            })
        }
        proto if proto == F::ICMP => {
            need(Icmp::LEN)?;
            let icmp: Icmp = packet.read(at)?;
            Some(with_ports(F::icmp_kind(icmp.kind), icmp.id))
        }
        protocol::SCTP => {
            need(12)?;
            Some(L4::new(Kind::Sctp, packet.read(at)?))
        }
        _ => {
            if proto == protocol::UDP {
                need(Udp::LEN)?;
            }
            quoted(packet, proto, at)
        }
    }
}

/// Reads what identifies a flow in the first eight bytes of a transport header: no more may be there of a packet that an
/// error quotes (RFC 792).
#[inline(always)]
pub(super) fn quoted_transport<F: Family, P: Headers>(packet: &P, proto: u8, at: u32) -> Option<L4> {
    if proto == F::ICMP {
        let icmp: Icmp = packet.read(at)?;
        return Some(with_ports(F::icmp_kind(icmp.kind), icmp.id));
    }
    quoted(packet, proto, at)
}

#[inline(always)]
fn quoted<P: Headers>(packet: &P, proto: u8, at: u32) -> Option<L4> {
    let kind = match proto {
        protocol::TCP => Kind::Tcp,
        protocol::UDP => Kind::Udp,
        protocol::SCTP => Kind::Sctp,
        _ => return Some(L4::new(Kind::Other, Ports::default())),
    };
    Some(L4::new(kind, packet.read(at)?))
}

/// An ICMP message has its identifier at the asking side.
#[inline(always)]
fn with_ports(kind: Kind, id: Be16) -> L4 {
    let ports = match kind {
        Kind::EchoRequest => Ports { sport: id, dport: Be16::ZERO },
        Kind::EchoReply => Ports { sport: Be16::ZERO, dport: id },
        _ => Ports::default(),
    };
    L4::new(kind, ports)
}

/// What the options of a SYN say (RFC 9293 section 3.1), as one number: offset of the maximum segment size, and window scale.
#[inline(never)]
fn options<P: Headers, W: World>(packet: &P, world: &W, tcp_at: u32, header_len: u32) -> u32 {
    let mut options = Options { packet, tcp_at, header_len, at: Tcp::LEN as u8, mss_at: 0, scale: 0 };
    world.repeat(Tcp::MAX_OPTIONS, |_| options.read());
    u32::from(options.mss_at) << 8 | u32::from(options.scale)
}

/// The options of a SYN as far as they are read. One value: of several each would take the stack a pointer more.
struct Options<'a, P> {
    packet: &'a P,
    tcp_at: u32,
    header_len: u32,
    /// Offset of the next one in the header.
    at: u8,
    /// Offset of the maximum segment size, and window scale, if they were met.
    mss_at: u8,
    scale: u8,
}

impl<P: Headers> Options<'_, P> {
    /// Reads the next one; whether there may be more.
    #[inline(always)]
    fn read(&mut self) -> bool {
        let place = u32::from(self.at);
        if place + 2 > self.header_len {
            return false;
        }
        let tcp_at = self.tcp_at & HEADERS_END;
        // Kind and length in one word; the last byte of the options can only be one that says nothing.
        let Some(option) = self.packet.read::<Be16>(tcp_at + place) else { return false };
        let (kind, len) = ((option.get() >> 8) as u8, option.get() as u8);
        if kind == Tcp::NO_OPERATION {
            self.at += 1;
            return true;
        }
        if kind == Tcp::END_OF_OPTIONS || len < 2 || place + u32::from(len) > self.header_len {
            return false;
        }
        if kind == Tcp::MAX_SEGMENT_SIZE && len == 4 {
            self.mss_at = self.at + 2;
        } else if kind == Tcp::WINDOW_SCALE && len == 3 {
            // The word that ends with the shift count.
            self.scale = self.packet.read::<Be16>(tcp_at + place + 1).map_or(0, |word| word.get() as u8);
        }
        self.at = self.at.wrapping_add(len);
        true
    }
}
