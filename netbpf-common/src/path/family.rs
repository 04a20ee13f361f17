//! Address families as a type parameter: one path, one instance per family.

use core::fmt::Debug;

use super::{Packet, verdict::Outcome};
use crate::abi::{DropReason, Endpoint, Network, Subnet, Uplink};
use crate::wire::checksum::{Delta, Sum, pseudo_header};
use crate::wire::{Address, Be16, Be32, Ethernet, IcmpV4, Ipv4, Kind, QUOTED_PAYLOAD, Tcp, V4Addr, protocol};

/// What the paths need of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ip<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Protocol of the payload.
    pub proto: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Traffic class.
    pub tos: u8,
    /// Length of the header with options, in bytes.
    pub header_len: u32,
    /// Length of header and payload as the header says, in bytes.
    pub total_len: u32,
    /// Which part of its packet this is.
    pub part: Part,
    /// Where in its packet's payload this begins, in bytes.
    pub offset: u16,
    /// Identification of the fragments of one packet; IPv4 uses the low half.
    pub id: Be32,
    /// Whether the header, without options, is what its checksum says; true where it has none.
    pub is_intact: bool,
}

/// What of a packet an IP header stands before.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// Another fragment.
    Later,
}

impl<A> Ip<A> {
    /// Offset of the payload of a header at `at`. The verifier forgets the bounds of a number that was stored together
    /// with others; no header is as long as this allows.
    #[inline(always)]
    pub fn payload_at(&self, at: u32) -> u32 {
        at + (self.header_len & 0xff)
    }

    /// Length of the payload, in bytes.
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        self.total_len - self.header_len
    }
}

/// An ICMP error that the gateway can make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// Nobody there.
    HostUnreachable,
    /// Not now, for want of what it takes, which is the reason (RFC 5508 REQ-8).
    Prohibited(DropReason),
    /// The hop limit ran out at the gateway.
    TimeExceeded,
    /// Larger than the way out takes, in bytes.
    TooBig(u16),
}

/// An address family.
pub trait Family: Copy + Debug + 'static {
    /// Its addresses.
    type Addr: Address;

    /// Its ICMP.
    const ICMP: u8;
    /// Whether its checksum covers a pseudo header with the addresses.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// Minimum length of a header.
    const HEADER_LEN: u32;
    /// Whether a header has a checksum of its own.
    const HEADER_HAS_CHECKSUM: bool;

    /// What an ICMP message of this type is to a flow.
    fn icmp_kind(kind: u8) -> Kind;

    /// Reads the header at `at`, of a packet of which only a part may be there: one that an error quotes.
    fn read<P: Packet>(packet: &P, at: u32) -> Outcome<Ip<Self::Addr>>;

    /// Reads the header at `at`.
    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: u32) -> Outcome<Ip<Self::Addr>> {
        let ip = Self::read(packet, at)?;
        if at + ip.total_len > packet.frame_len() {
            return Err(DropReason::Malformed);
        }
        Ok(ip)
    }

    /// Writes new addresses into the header at `at`; with `hop`, one hop less to live.
    fn rewrite<P: Packet>(
        packet: &mut P,
        at: u32,
        src: Self::Addr,
        dst: Self::Addr,
        delta: Delta,
        hop: bool,
    ) -> Option<()>;

    /// Makes of the packet an ICMP error about it, from `gateway` to its sender. Ethernet
    /// addresses are left to the caller.
    fn icmp_error<P: Packet>(packet: &mut P, ip: &Ip<Self::Addr>, gateway: Self::Addr, error: IcmpError) -> Option<()>;

    /// Makes of the TCP segment a reset in the name of its destination. Ethernet addresses are
    /// left to the caller.
    fn reset<P: Packet>(packet: &mut P, ip: &Ip<Self::Addr>) -> Option<()>;

    /// The endpoint's address.
    fn address_of(endpoint: &Endpoint) -> Self::Addr;
    /// The network's part of this family.
    fn subnet_of(network: &Network) -> &Subnet<Self::Addr>;
    /// The address packets leave an uplink with; the default for none.
    fn uplink_address(uplink: &Uplink) -> Self::Addr;
}

/// IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V4 {}

impl Family for V4 {
    type Addr = V4Addr;

    const ICMP: u8 = protocol::ICMP;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const HEADER_LEN: u32 = Ipv4::LEN;
    const HEADER_HAS_CHECKSUM: bool = true;

    #[inline(always)]
    fn icmp_kind(kind: u8) -> Kind {
        match kind {
            IcmpV4::ECHO_REQUEST | IcmpV4::TIMESTAMP => Kind::EchoRequest,
            IcmpV4::ECHO_REPLY | IcmpV4::TIMESTAMP_REPLY => Kind::EchoReply,
            IcmpV4::UNREACHABLE | IcmpV4::TIME_EXCEEDED | IcmpV4::PARAMETER_PROBLEM => Kind::Error,
            _ => Kind::Icmp,
        }
    }

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: u32) -> Outcome<Ip<V4Addr>> {
        let header: Ipv4 = packet.read(at).ok_or(DropReason::Malformed)?;
        let header_len = header.header_len();
        let total_len = u32::from(header.total_len.get());
        let offset = header.offset();
        // A BIG TCP packet has a total length of zero (net/ipv4/ip_output.c) and is refused: netbpf's devices never ask
        // for one. What ends beyond 64 KiB could not be put together (RFC 791 section 3.2).
        if !header.is_v4()
            || header_len < Ipv4::LEN
            || total_len < header_len
            || u32::from(offset) + total_len > u32::from(u16::MAX)
        {
            return Err(DropReason::Malformed);
        }
        let part = match (offset, header.has_more()) {
            (0, false) => Part::Whole,
            (0, true) => Part::First,
            _ => Part::Later,
        };
        Ok(Ip {
            src: header.src,
            dst: header.dst,
            proto: header.protocol,
            ttl: header.ttl,
            tos: header.tos,
            header_len,
            total_len,
            part,
            offset,
            id: Be32::new(u32::from(header.id.get())),
            is_intact: header.sum().fold() == 0xffff,
        })
    }

    #[inline(always)]
    fn rewrite<P: Packet>(packet: &mut P, at: u32, src: V4Addr, dst: V4Addr, delta: Delta, hop: bool) -> Option<()> {
        let mut header: Ipv4 = packet.read(at)?;
        let mut change = delta;
        if hop {
            let before = Sum::ZERO.add16(header.ttl_word());
            header.ttl = header.ttl.wrapping_sub(1);
            change = change.and(Sum::ZERO.add16(header.ttl_word()).delta_from(before));
        }
        header.src = src;
        header.dst = dst;
        header.checksum = change.apply(header.checksum);
        packet.write(at, header)
    }

    #[inline(always)]
    fn icmp_error<P: Packet>(packet: &mut P, ip: &Ip<V4Addr>, gateway: V4Addr, error: IcmpError) -> Option<()> {
        const ADDED: u32 = Ipv4::LEN + IcmpV4::LEN;
        const LONGEST_QUOTE: u32 = 60 + QUOTED_PAYLOAD;

        let quoted = ip.total_len.min(ip.header_len + QUOTED_PAYLOAD).min(LONGEST_QUOTE) & !3;
        packet.resize(Ethernet::LEN + quoted)?;
        packet.insert_header(ADDED)?;

        let (kind, code, mtu) = match error {
            IcmpError::HostUnreachable => (IcmpV4::UNREACHABLE, IcmpV4::HOST_UNREACHABLE, 0),
            IcmpError::Prohibited(_) => (IcmpV4::UNREACHABLE, IcmpV4::PROHIBITED, 0),
            IcmpError::TimeExceeded => (IcmpV4::TIME_EXCEEDED, 0, 0),
            IcmpError::TooBig(mtu) => (IcmpV4::UNREACHABLE, IcmpV4::FRAGMENTATION_NEEDED, mtu),
        };
        let mut icmp = IcmpV4 { kind, code, sequence: Be16::new(mtu), ..IcmpV4::default() };
        let mut sum = icmp.sum();
        for word in 0..LONGEST_QUOTE / 4 {
            if word * 4 >= quoted {
                break;
            }
            sum = sum.add32(packet.read(Ethernet::LEN + ADDED + word * 4)?);
        }
        icmp.checksum = sum.checksum();
        packet.write(Ethernet::LEN, Ipv4::new(protocol::ICMP, (ADDED + quoted) as u16, gateway, ip.src))?;
        packet.write(Ethernet::LEN + Ipv4::LEN, icmp)
    }

    #[inline(always)]
    fn reset<P: Packet>(packet: &mut P, ip: &Ip<V4Addr>) -> Option<()> {
        const LEN: u32 = Ipv4::LEN + Tcp::LEN;

        let segment: Tcp = packet.read(ip.payload_at(Ethernet::LEN))?;
        let headers = ip.header_len + u32::from(segment.offset >> 4) * 4;
        let mut reset = segment.reset(ip.total_len.saturating_sub(headers));
        let pseudo = pseudo_header(protocol::TCP, Tcp::LEN as u16).add(ip.src.sum()).add(ip.dst.sum());
        reset.checksum = reset.sum().add(pseudo).checksum();

        packet.resize(Ethernet::LEN + LEN)?;
        packet.write(Ethernet::LEN, Ipv4::new(protocol::TCP, LEN as u16, ip.dst, ip.src))?;
        packet.write(Ethernet::LEN + Ipv4::LEN, reset)
    }

    #[inline(always)]
    fn address_of(endpoint: &Endpoint) -> V4Addr {
        endpoint.v4
    }

    #[inline(always)]
    fn subnet_of(network: &Network) -> &Subnet<V4Addr> {
        &network.v4
    }

    #[inline(always)]
    fn uplink_address(uplink: &Uplink) -> V4Addr {
        uplink.v4
    }
}
