//! What the headers of a frame say, read by another library (etherparse), and whether their checksums are right.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6Header, Ipv6RawExtHeaderSlice};

use crate::packet::{icmp, pseudo_header};
use crate::world::ETHERNET;

/// Offset in the frame.
const V4_CHECKSUM: usize = ETHERNET + 10;
/// Offsets in the transport header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;

/// The IP headers of a frame.
#[derive(Clone, Debug)]
pub struct Headers {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What the last of them says that follows.
    pub protocol: IpNumber,
    /// Hops that are left.
    pub ttl: u8,
    /// Where the payload lies, as they say: its end may lie beyond the frame's.
    pub transport: Range<usize>,
    /// Whether the packet is a part of one.
    pub is_fragment: bool,
    /// Where in the payload of the whole packet this part begins, in bytes.
    pub offset: usize,
    /// Whether more parts follow.
    pub more: bool,
    /// Whether the checksum of the IP header is right, if it has one.
    pub is_sound: bool,
}

impl Headers {
    /// Reads a frame; nothing if it holds no IP.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let rest = frame.get(ETHERNET..)?;
        match rest.first()? >> 4 {
            4 => Self::read_v4(Ipv4HeaderSlice::from_slice(rest).ok()?),
            6 => Self::read_v6(Ipv6Header::from_slice(rest).ok()?),
            _ => None,
        }
    }

    fn read_v4(ip: Ipv4HeaderSlice<'_>) -> Option<Self> {
        let start = ETHERNET + ip.slice().len();
        Some(Self {
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: ip.protocol(),
            ttl: ip.ttl(),
            transport: start..(ETHERNET + usize::from(ip.total_len())).max(start),
            is_fragment: ip.is_fragmenting_payload(),
            offset: usize::from(ip.fragments_offset().byte_offset()),
            more: ip.more_fragments(),
            is_sound: Sum16BitWords::new().add_slice(ip.slice()).ones_complement() == 0,
        })
    }

    fn read_v6((ip, mut rest): (Ipv6Header, &[u8])) -> Option<Self> {
        let start = ETHERNET + Ipv6Header::LEN;
        let end = start + usize::from(ip.payload_length);
        let mut headers = Self {
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: ip.next_header,
            ttl: ip.hop_limit,
            transport: start..end,
            is_fragment: false,
            offset: 0,
            more: false,
            is_sound: true,
        };
        // Behind the header of a later fragment lies the middle of something.
        while headers.offset == 0 {
            let len = match headers.protocol {
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    // RFC 8200 section 4.5: etherparse 0.19 looks for offset and flag at other places.
                    let [next, _, high, low, ..] = *rest.first_chunk::<8>()?;
                    let word = u16::from_be_bytes([high, low]);
                    headers.protocol = IpNumber(next);
                    headers.is_fragment = word & !6 != 0;
                    headers.offset = usize::from(word & !7);
                    headers.more = word & 1 != 0;
                    8
                }
                IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_ROUTE_HEADER | IpNumber::IPV6_DESTINATION_OPTIONS => {
                    let extension = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                    headers.protocol = extension.next_header();
                    extension.slice().len()
                }
                _ => break,
            };
            rest = &rest[len..];
            headers.transport.start += len;
        }
        headers.transport.end = end.max(headers.transport.start);
        Some(headers)
    }

    /// What a checksum begins with that covers so many bytes, and where it lies; nothing of what has none here.
    fn checksum(&self, len: usize) -> Option<(usize, Sum16BitWords)> {
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, len);
        match self.protocol {
            IpNumber::TCP => Some((TCP_CHECKSUM, pseudo)),
            IpNumber::UDP => Some((UDP_CHECKSUM, pseudo)),
            IpNumber::IPV6_ICMP if self.source.is_ipv6() => Some((ICMP_CHECKSUM, pseudo)),
            protocol if protocol == icmp(self.source) => Some((ICMP_CHECKSUM, Sum16BitWords::new())),
            _ => None,
        }
    }

    /// Where the checksum of TCP or UDP lies.
    fn device_checksum(&self) -> Range<usize> {
        let at = self.transport.start + if self.protocol == IpNumber::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        at..at + 2
    }
}

/// Whether the receiver of a frame would believe its IP header: it is whole and its checksum, if it has one, is right.
pub fn is_header_sound(frame: &[u8]) -> bool {
    Headers::read(frame).is_some_and(|headers| headers.transport.end <= frame.len() && headers.is_sound)
}

/// Whether the receiver of a frame would believe the checksum of its TCP, UDP or ICMP, as far as that has one: in UDP zero is
/// none (RFC 768; RFC 6935 where tunnels run over IPv6).
pub fn is_transport_sound(frame: &[u8]) -> bool {
    let Some(headers) = Headers::read(frame) else { return false };
    let Some(l4) = frame.get(headers.transport.clone()) else { return false };
    if headers.is_fragment || headers.protocol == IpNumber::UDP && l4.get(6..8) == Some(&[0, 0]) {
        return true;
    }
    headers.checksum(l4.len()).is_none_or(|(_, sum)| sum.add_slice(l4).ones_complement() == 0)
}

/// Leaves the checksum of a TCP or UDP frame to the device: only the sum of the pseudo header stays
/// there (CHECKSUM_PARTIAL).
///
/// # Panics
/// When it is no such frame.
pub fn leave_checksum_to_device(frame: &mut [u8]) {
    let headers = Headers::read(frame).expect("a header");
    let sum = pseudo_header(headers.source, headers.destination, headers.protocol, headers.transport.len());
    frame[headers.device_checksum()].copy_from_slice(&(!sum.ones_complement()).to_ne_bytes());
}

/// Finishes such a checksum as a device does: blindly, over all from the transport header on.
///
/// # Panics
/// When it is no frame with TCP or UDP.
pub fn finish_checksum(frame: &mut [u8]) {
    let headers = Headers::read(frame).expect("a header");
    let sum = Sum16BitWords::new().add_slice(&frame[headers.transport.clone()]);
    frame[headers.device_checksum()].copy_from_slice(&complement(sum, headers.protocol).to_ne_bytes());
}

/// Finishes the checksum that `sent` left to the device in what has become of it: by so many bytes behind its old place.
///
/// # Panics
/// When it was no frame with TCP or UDP.
pub fn finish_moved_checksum(sent: &[u8], frame: &mut [u8], moved: usize) {
    let headers = Headers::read(sent).expect("a header");
    let sum = Sum16BitWords::new().add_slice(&frame[headers.transport.start + moved..]);
    let Range { start, end } = headers.device_checksum();
    frame[start + moved..end + moved].copy_from_slice(&complement(sum, headers.protocol).to_ne_bytes());
}

/// Makes the checksums of a frame right again, as far as it holds IP.
pub fn repair(frame: &mut [u8]) {
    let Some(headers) = Headers::read(frame) else { return };
    if let Ok(ip) = Ipv4HeaderSlice::from_slice(&frame[ETHERNET..]) {
        let checksum = ip.to_header().calc_header_checksum();
        frame[V4_CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
    }
    let Some((at, sum)) = headers.checksum(headers.transport.len()) else { return };
    let Some(l4) = frame.get_mut(headers.transport).filter(|l4| l4.len() >= at + 2) else { return };
    l4[at..at + 2].fill(0);
    let sum = complement(sum.add_slice(l4), headers.protocol);
    l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

fn complement(sum: Sum16BitWords, protocol: IpNumber) -> u16 {
    if protocol == IpNumber::UDP { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() }
}
