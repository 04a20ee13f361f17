//! Address families as a type parameter: one path, one instance per family.

use core::fmt::Debug;

use super::{Packet, verdict::Outcome};
use crate::abi::{DropReason, Endpoint, Network, Subnet, Uplink};
use crate::wire::checksum::{Delta, Sum, pseudo_header};
use crate::wire::{Address, Be16, Ethernet, IcmpV4, Ipv4, QUOTED_PAYLOAD, Tcp, V4Addr, protocol};

/// What the paths need of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// Whether this is one of several fragments.
    pub is_fragment: bool,
    /// Whether the header, without options, is what its checksum says; true where it has none.
    pub is_intact: bool,
}

/// An ICMP error that the gateway can make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// Nobody there.
    HostUnreachable,
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
    /// Type of an echo request.
    const ECHO_REQUEST: u8;
    /// Type of an echo reply.
    const ECHO_REPLY: u8;
    /// Minimum length of a header.
    const HEADER_LEN: u32;

    /// Reads the header at `at`.
    fn parse<P: Packet>(packet: &P, at: u32) -> Outcome<Ip<Self::Addr>>;

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
    const ECHO_REQUEST: u8 = IcmpV4::ECHO_REQUEST;
    const ECHO_REPLY: u8 = IcmpV4::ECHO_REPLY;
    const HEADER_LEN: u32 = Ipv4::LEN;

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, at: u32) -> Outcome<Ip<V4Addr>> {
        let header: Ipv4 = packet.read(at).ok_or(DropReason::Malformed)?;
        let header_len = header.header_len();
        let total_len = u32::from(header.total_len.get());
        if !header.is_v4() || header_len < Ipv4::LEN || total_len < header_len || at + total_len > packet.frame_len() {
            // A BIG TCP packet has a total length of zero (net/ipv4/ip_output.c) and is refused:
            // netbpf's devices never ask for one.
            return Err(DropReason::Malformed);
        }
        Ok(Ip {
            src: header.src,
            dst: header.dst,
            proto: header.protocol,
            ttl: header.ttl,
            tos: header.tos,
            header_len,
            total_len,
            is_fragment: header.is_fragment(),
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

        let segment: Tcp = packet.read(Ethernet::LEN + ip.header_len)?;
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
