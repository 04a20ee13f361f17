//! Address families as a type parameter: one path, one instance per family.

mod v4;
mod v6;

use core::fmt::Debug;

use bytemuck::Pod;

use super::refusal::Refusal;
use super::{Env, Headers, Packet, Parsed, verdict::Outcome};
use crate::abi::{Config, DropReason, Endpoint, Network, Subnet, Uplink};
use crate::wire::checksum::Delta;
use crate::wire::{Address, Be16, Be32, Kind};

pub use v4::V4;
pub use v6::V6;

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
    /// Length of the header with options or extension headers, in bytes.
    pub header_len: u32,
    /// Length of header and payload as the header says, in bytes.
    pub total_len: u32,
    /// Which part of its packet this is.
    pub part: Part,
    /// Where in its packet's payload this begins, in bytes.
    pub offset: u16,
    /// Identification of the fragments of one packet; IPv4 uses the low half.
    pub id: Be32,
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

/// Length of a packet whose header says zero, from there on: BIG TCP, for segments that are more together than a header can say
/// (include/linux/ip.h, skb_ip_totlen; RFC 2675 with IPv6). Zero if it is none.
#[inline(always)]
fn big_len<P: Headers>(packet: &P, at: u32) -> u32 {
    if packet.gso_size() == 0 { 0 } else { packet.frame_len() - at }
}

/// Whether a fragment of this length ends beyond 64 KiB: it could not be put together (RFC 791 section 3.2).
#[inline(always)]
fn ends_beyond(part: Part, offset: u16, len: u32) -> bool {
    part != Part::Whole && u32::from(offset) + len > u32::from(u16::MAX)
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
    /// Its header, without options.
    type Header: Pod;

    /// Its EtherType.
    const ETHERTYPE: Be16;
    /// Its ICMP.
    const ICMP: u8;
    /// Whether its checksum covers a pseudo header with the addresses.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// Minimum length of a header.
    const HEADER_LEN: u32;
    /// Whether a header has a checksum of its own.
    const HEADER_HAS_CHECKSUM: bool;
    /// What every link takes, in bytes.
    const LEAST_MTU: u16;
    /// Longest packet that tells of an error, in bytes: every machine takes it whole.
    const LONGEST_ERROR: u32;
    /// Whether the last address of a subnet is that of all its machines.
    const HAS_BROADCAST: bool;

    /// What an ICMP message of this type is to a flow.
    fn icmp_kind(kind: u8) -> Kind;

    /// Type and code of an error.
    fn icmp_error(error: IcmpError) -> (u8, u8);

    /// Reads the header at `at`, of a packet of which only a part may be there: one that an error quotes.
    fn read<P: Headers>(packet: &mut P, at: u32, ip: &mut Ip<Self::Addr>) -> Outcome<()>;

    /// Reads the header at `at`.
    #[inline(always)]
    fn parse<P: Headers>(packet: &mut P, at: u32, ip: &mut Ip<Self::Addr>) -> Outcome<()> {
        Self::read(packet, at, ip)?;
        if at + ip.total_len > packet.frame_len() {
            return Err(DropReason::Malformed);
        }
        Ok(())
    }

    /// Length of the header that each segment of a GSO packet gets, in bytes.
    #[inline(always)]
    fn segment_header_len(ip: &Ip<Self::Addr>) -> u32 {
        ip.header_len
    }

    /// Whether the header at `at`, without options, is what its checksum says; true where it has none.
    fn is_intact<P: Headers>(packet: &P, at: u32) -> bool;

    /// Whether a header has what is not translated.
    fn has_options(ip: &Ip<Self::Addr>) -> bool;

    /// The header of a packet of our own.
    fn header(proto: u8, payload_len: u16, src: Self::Addr, dst: Self::Addr) -> Self::Header;

    /// Writes new addresses into the header at `at`; with `hop`, one hop less to live.
    fn rewrite<P: Headers>(
        packet: &mut P,
        at: u32,
        src: Self::Addr,
        dst: Self::Addr,
        delta: Delta,
        hop: bool,
    ) -> Option<()>;

    /// Answers what a container asks its link, see [`Kind::Link`]. A number as `refusal::code` has them.
    fn answer_link<P: Packet, E: Env<Self>>(_: &mut P, _: &E, _: &Parsed<Self>, _: &Endpoint) -> u64 {
        Refusal::Drop(DropReason::UnsupportedProtocol).code()
    }

    /// The address of this family that stands for one of the other, which a packet has until it crosses over, see
    /// `siit`.
    #[inline(always)]
    fn is_translated(_: Self::Addr) -> bool {
        false
    }

    /// Whether a packet can get the header of the other family.
    #[inline(always)]
    fn may_cross(_: &Parsed<Self>) -> Outcome<()> {
        Err(DropReason::Internal)
    }

    /// Gives a packet, which has been rewritten, the header of the other family. A number as `refusal::code` has them.
    #[inline(always)]
    fn cross<P: Packet>(_: &mut P, _: &Parsed<Self>) -> u64 {
        Refusal::Drop(DropReason::Internal).code()
    }

    /// The endpoint's address; the default for none.
    fn address_of(endpoint: &Endpoint) -> Self::Addr;
    /// Whether an endpoint can be reached by published ports.
    fn has_service(endpoint: &Endpoint) -> bool;
    /// Whether this is the address that published ports of an endpoint lead to.
    fn is_service(endpoint: &Endpoint, address: Self::Addr) -> bool;
    /// Leads a client to that address; one that must cross over to it does not keep its own.
    fn serve(endpoint: &Endpoint, config: &Config, client: &mut Self::Addr, service: &mut Self::Addr);
    /// Whether an endpoint may send from an address.
    fn is_own(endpoint: &Endpoint, address: Self::Addr) -> bool;
    /// The network's part of this family.
    fn subnet_of(network: &Network) -> &Subnet<Self::Addr>;
    /// The address packets leave an uplink with; the default for none.
    fn uplink_address(uplink: &Uplink) -> Self::Addr;
}
