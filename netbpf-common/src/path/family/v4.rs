//! IPv4 as the paths need it.

use super::{Family, IcmpError, Ip, Part, big_len, ends_beyond};
use crate::abi::{Config, DropReason, Endpoint, Network, Subnet, Uplink};
use crate::path::{Headers, verdict::Outcome};
use crate::wire::checksum::{Delta, Sum};
use crate::wire::{Be16, Be32, Ethernet, IcmpV4, Ipv4, Kind, V4Addr, protocol};

/// IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V4 {}

impl Family for V4 {
    type Addr = V4Addr;
    type Header = Ipv4;

    const ETHERTYPE: Be16 = Ethernet::IPV4;
    const ICMP: u8 = protocol::ICMP;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const HEADER_LEN: u32 = Ipv4::LEN;
    const HEADER_HAS_CHECKSUM: bool = true;
    const LEAST_MTU: u16 = Ipv4::LEAST_MTU;
    const LONGEST_ERROR: u32 = 576;
    const HAS_BROADCAST: bool = true;

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
    fn icmp_error(error: IcmpError) -> (u8, u8) {
        match error {
            IcmpError::HostUnreachable => (IcmpV4::UNREACHABLE, IcmpV4::HOST_UNREACHABLE),
            IcmpError::Prohibited(_) => (IcmpV4::UNREACHABLE, IcmpV4::PROHIBITED),
            IcmpError::TimeExceeded => (IcmpV4::TIME_EXCEEDED, 0),
            IcmpError::TooBig(_) => (IcmpV4::UNREACHABLE, IcmpV4::FRAGMENTATION_NEEDED),
        }
    }

    #[inline(always)]
    fn read<P: Headers>(packet: &mut P, at: u32, ip: &mut Ip<V4Addr>) -> Outcome<()> {
        let header: Ipv4 = packet.read(at).ok_or(DropReason::Malformed)?;
        let header_len = header.header_len();
        let total_len = match u32::from(header.total_len.get()) {
            0 => big_len(packet, at),
            len => len,
        };
        let offset = header.offset();
        let part = match (offset, header.has_more()) {
            (0, false) => Part::Whole,
            (0, true) => Part::First,
            _ => Part::Later,
        };
        if !header.is_v4() || header_len < Ipv4::LEN || total_len < header_len || ends_beyond(part, offset, total_len) {
            return Err(DropReason::Malformed);
        }
        *ip = Ip {
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
        };
        Ok(())
    }

    #[inline(always)]
    fn is_intact<P: Headers>(packet: &P, at: u32) -> bool {
        packet.read::<Ipv4>(at).is_some_and(|header| header.sum().fold() == 0xffff)
    }

    #[inline(always)]
    fn has_options(ip: &Ip<V4Addr>) -> bool {
        ip.header_len > Ipv4::LEN
    }

    #[inline(always)]
    fn header(proto: u8, payload_len: u16, src: V4Addr, dst: V4Addr) -> Ipv4 {
        Ipv4::new(proto, Ipv4::LEN as u16 + payload_len, src, dst)
    }

    #[inline(always)]
    fn rewrite<P: Headers>(packet: &mut P, at: u32, src: V4Addr, dst: V4Addr, delta: Delta, hop: bool) -> Option<()> {
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
    fn address_of(endpoint: &Endpoint) -> V4Addr {
        endpoint.v4
    }

    #[inline(always)]
    fn has_service(endpoint: &Endpoint) -> bool {
        endpoint.v4 != V4Addr::default()
    }

    #[inline(always)]
    fn is_service(endpoint: &Endpoint, address: V4Addr) -> bool {
        endpoint.v4 == address
    }

    #[inline(always)]
    fn serve(endpoint: &Endpoint, _: &Config, _: &mut V4Addr, service: &mut V4Addr) {
        *service = endpoint.v4;
    }

    #[inline(always)]
    fn is_own(endpoint: &Endpoint, address: V4Addr) -> bool {
        endpoint.v4 == address && address != V4Addr::default()
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
