//! IPv6 as the paths need it.

use core::hint::black_box;

use super::{Family, IcmpError, Ip, Part, big_len, ends_beyond};
use crate::abi::{Config, DropReason, Endpoint, Network, Subnet, Uplink};
use crate::path::{Env, HEADERS_END, Headers, Packet, Parsed, neighbour, siit, verdict::Outcome};
use crate::wire::checksum::{Delta, Sum};
use crate::wire::{Be16, Ethernet, Extension, ExtensionHeader, IcmpV6, Ipv6, Kind, Tcp, V4Addr, V6Addr, protocol};

/// IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V6 {}

/// Most extension headers of a packet. RFC 8200 section 4.1 recommends four kinds, one of which may be there twice.
const EXTENSIONS: u32 = 5;

/// Longest header with its extension headers, in bytes: a multiple of eight that one byte holds.
const LONGEST_HEADER: u32 = 248;

impl Family for V6 {
    type Addr = V6Addr;
    type Header = Ipv6;

    const ETHERTYPE: Be16 = Ethernet::IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    const HEADER_LEN: u32 = Ipv6::LEN;
    const HEADER_HAS_CHECKSUM: bool = false;
    const LEAST_MTU: u16 = Ipv6::LEAST_MTU;
    const LONGEST_ERROR: u32 = Ipv6::LEAST_MTU as u32;
    const HAS_BROADCAST: bool = false;

    #[inline(always)]
    fn icmp_kind(kind: u8) -> Kind {
        match kind {
            IcmpV6::ECHO_REQUEST => Kind::EchoRequest,
            IcmpV6::ECHO_REPLY => Kind::EchoReply,
            // Errors, whether known or not (RFC 4443 section 2.1).
            ..IcmpV6::ECHO_REQUEST => Kind::Error,
            IcmpV6::LISTENER_QUERY..=IcmpV6::REDIRECT | IcmpV6::LISTENER_REPORT => Kind::Link,
            _ => Kind::Icmp,
        }
    }

    #[inline(always)]
    fn icmp_error(error: IcmpError) -> (u8, u8) {
        match error {
            IcmpError::HostUnreachable => (IcmpV6::UNREACHABLE, IcmpV6::ADDRESS_UNREACHABLE),
            IcmpError::Prohibited(_) => (IcmpV6::UNREACHABLE, IcmpV6::PROHIBITED),
            IcmpError::TimeExceeded => (IcmpV6::TIME_EXCEEDED, 0),
            IcmpError::TooBig(_) => (IcmpV6::TOO_BIG, 0),
        }
    }

    #[inline(always)]
    fn read<P: Headers>(packet: &mut P, at: u32, ip: &mut Ip<V6Addr>) -> Outcome<()> {
        let header: Ipv6 = packet.read(at).ok_or(DropReason::Malformed)?;
        if !header.is_v6() {
            return Err(DropReason::Malformed);
        }
        *ip = Ip {
            src: header.src,
            dst: header.dst,
            proto: header.next_header,
            ttl: header.hop_limit,
            tos: header.traffic_class(),
            header_len: Ipv6::LEN,
            total_len: match u32::from(header.payload_len.get()) {
                0 => big_len(packet, at).max(Ipv6::LEN),
                len => Ipv6::LEN + len,
            },
            part: Part::Whole,
            ..Ip::default()
        };
        if Extension::is(header.next_header) {
            let at = packet.reach(at, LONGEST_HEADER + Tcp::LEN);
            if let Some(reason) = DropReason::from_u32(extensions(packet, at, ip)) {
                return Err(reason);
            }
        }
        if ip.total_len < ip.header_len || ends_beyond(ip.part, ip.offset, ip.payload_len()) {
            return Err(DropReason::Malformed);
        }
        Ok(())
    }

    /// Longer than its header can say is a packet only by an option in a header of its own (RFC 2675 section 2), which the kernel
    /// takes away when it makes segments (net/ipv6/ip6_offload.c).
    #[inline(always)]
    fn segment_header_len(ip: &Ip<V6Addr>) -> u32 {
        const WITH_OPTION: u32 = Ipv6::LEN + ExtensionHeader::LEN;
        let is_jumbo = ip.header_len == WITH_OPTION && ip.payload_len() > u32::from(u16::MAX);
        if is_jumbo { Ipv6::LEN } else { ip.header_len }
    }

    #[inline(always)]
    fn is_intact<P: Headers>(_: &P, _: u32) -> bool {
        true
    }

    #[inline(always)]
    fn has_options(_: &Ip<V6Addr>) -> bool {
        false
    }

    #[inline(always)]
    fn header(proto: u8, payload_len: u16, src: V6Addr, dst: V6Addr) -> Ipv6 {
        Ipv6::new(proto, payload_len, src, dst)
    }

    #[inline(always)]
    fn rewrite<P: Headers>(packet: &mut P, at: u32, src: V6Addr, dst: V6Addr, _: Delta, hop: bool) -> Option<()> {
        let mut header: Ipv6 = packet.read(at)?;
        if hop {
            let before = Sum::ZERO.add16(header.hop_word());
            header.hop_limit = header.hop_limit.wrapping_sub(1);
            packet.update_sum(Sum::ZERO.add16(header.hop_word()).delta_from(before));
        }
        (header.src, header.dst) = (src, dst);
        packet.write(at, header)
    }

    #[inline(always)]
    fn answer_link<P: Packet, E: Env<Self>>(packet: &mut P, env: &E, parsed: &Parsed<Self>, asker: &Endpoint) -> u64 {
        neighbour::answer_solicitation(packet, env, parsed, asker)
    }

    #[inline(always)]
    fn address_of(endpoint: &Endpoint) -> V6Addr {
        endpoint.v6
    }

    #[inline(always)]
    fn has_service(endpoint: &Endpoint) -> bool {
        endpoint.v6 != V6Addr::default() || endpoint.v4 != V4Addr::default()
    }

    #[inline(always)]
    fn is_service(endpoint: &Endpoint, address: V6Addr) -> bool {
        let crosses = endpoint.v6 == V6Addr::default();
        if crosses { address.as_v4() == Some(endpoint.v4) } else { endpoint.v6 == address }
    }

    #[inline(always)]
    fn serve(endpoint: &Endpoint, config: &Config, client: &mut V6Addr, service: &mut V6Addr) {
        if endpoint.v6 == V6Addr::default() {
            *client = V6Addr::of_v4(config.translator());
            *service = V6Addr::of_v4(endpoint.v4);
        } else {
            *service = endpoint.v6;
        }
    }

    #[inline(always)]
    fn is_translated(address: V6Addr) -> bool {
        address.as_v4().is_some()
    }

    #[inline(always)]
    fn may_cross(parsed: &Parsed<Self>) -> Outcome<()> {
        siit::may_narrow(parsed)
    }

    #[inline(always)]
    fn cross<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> u64 {
        siit::narrow(packet, parsed)
    }

    #[inline(always)]
    fn is_own(endpoint: &Endpoint, address: V6Addr) -> bool {
        endpoint.v6 != V6Addr::default() && (endpoint.v6 == address || V6Addr::link_local(endpoint.mac) == address)
    }

    #[inline(always)]
    fn subnet_of(network: &Network) -> &Subnet<V6Addr> {
        &network.v6
    }

    #[inline(always)]
    fn uplink_address(uplink: &Uplink) -> V6Addr {
        uplink.v6
    }
}

/// Walks the extension headers of the packet at `at`. A number that is no reason to drop it: they could be read.
#[inline(never)]
fn extensions<P: Headers>(packet: &P, at: u32, ip: &mut Ip<V6Addr>) -> u32 {
    match walk(packet, at, ip) {
        Ok(()) => u32::MAX,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn walk<P: Headers>(packet: &P, at: u32, ip: &mut Ip<V6Addr>) -> Outcome<()> {
    let (mut next, mut len) = (ip.proto, Ipv6::LEN as u8);
    let mut has_fragment = false;
    // The compiler knows its bounds and would leave the mask below out.
    let at = black_box(at);
    for _ in 0..EXTENSIONS {
        // The verifier is to forget what it knows of these: it would walk on once for all that they can be.
        (next, len) = (black_box(next), black_box(len));
        if !Extension::is(next) {
            break;
        }
        let place = (at + u32::from(len)) & HEADERS_END;
        let header: ExtensionHeader = packet.read(place).ok_or(DropReason::Malformed)?;
        if has_fragment {
            // Only the first fragment would have it, so that the others could not be told.
            return Err(DropReason::ExtensionHeaders);
        }
        let mut more = (u32::from(header.words) + 1) * ExtensionHeader::LEN;
        if next == Extension::FRAGMENT {
            more = ExtensionHeader::LEN;
            has_fragment = true;
            (ip.offset, ip.id) = (header.fragment_offset(), header.id);
            // Both zero: an atomic fragment, which is whole (RFC 6946).
            ip.part = match (ip.offset, header.has_more()) {
                (0, false) => Part::Whole,
                (0, true) => Part::First,
                _ => Part::Later,
            };
        }
        if next == Extension::ROUTING && header.segments_left() != 0 {
            return Err(DropReason::IpOption);
        }
        next = header.next_header;
        let end = u32::from(len) + more;
        if end > LONGEST_HEADER {
            return Err(DropReason::ExtensionHeaders);
        }
        len = end as u8;
        if ip.part == Part::Later {
            break;
        }
    }
    if Extension::is(next) {
        return Err(DropReason::ExtensionHeaders);
    }
    (ip.proto, ip.header_len) = (next, u32::from(len));
    Ok(())
}
