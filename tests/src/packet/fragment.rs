//! Packets in pieces.

use std::net::IpAddr;

use etherparse::{IpFragOffset, IpHeaders, IpNumber};

use super::{ETHERNET, Ethernet, TTL, header};

impl Ethernet {
    /// A middle fragment of a UDP datagram.
    pub fn fragment(self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
        const OFFSET: usize = 1480;
        let mut header = header(from.into(), to.into(), TTL, IpNumber::UDP);
        match &mut header {
            IpHeaders::Ipv4(header, _) => {
                (header.dont_fragment, header.more_fragments, header.fragment_offset) =
                    (false, true, v4_offset(OFFSET));
                self.other(IpHeaders::Ipv4(header.clone(), Default::default()), IpNumber::UDP, payload)
            }
            IpHeaders::Ipv6(..) => {
                let fragment = fragment_header(IpNumber::UDP, OFFSET, true, 0);
                self.other(header, IpNumber::IPV6_FRAGMENTATION_HEADER, &[&fragment[..], payload].concat())
            }
        }
    }
}

/// The fragment header of an IPv6 packet (RFC 8200 section 4.5): etherparse 0.19 has offset and flag at other places.
pub fn fragment_header(next: IpNumber, offset: usize, more: bool, id: u32) -> [u8; 8] {
    let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
    let [a, b, c, d] = id.to_be_bytes();
    [next.0, 0, high, low, a, b, c, d]
}

fn v4_offset(bytes: usize) -> IpFragOffset {
    IpFragOffset::try_new((bytes / 8) as u16).expect("an offset has 13 bits")
}

/// A frame with a packet in fragments of `size` bytes of payload, a multiple of eight, in their order.
///
/// # Panics
/// When it holds no IP packet without extensions.
pub fn fragmented(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (headers, payload) = IpHeaders::from_slice(&frame[ETHERNET..]).expect("an IP packet");
    let parts: Vec<_> = payload.payload.chunks(size).collect();
    let fragment = |(number, part): (usize, &&[u8])| {
        let (offset, more) = (number * size, number + 1 < parts.len());
        let mut headers = headers.clone();
        let mut part = part.to_vec();
        match &mut headers {
            IpHeaders::Ipv4(header, _) => {
                (header.identification, header.dont_fragment) = (id, false);
                (header.more_fragments, header.fragment_offset) = (more, v4_offset(offset));
            }
            IpHeaders::Ipv6(header, _) => {
                let next = std::mem::replace(&mut header.next_header, IpNumber::IPV6_FRAGMENTATION_HEADER);
                part.splice(..0, fragment_header(next, offset, more, id.into()));
            }
        }
        with_payload(frame, headers, &part)
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// A frame with another IP packet.
///
/// # Panics
/// When the payload does not fit.
pub fn with_payload(frame: &[u8], mut headers: IpHeaders, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..ETHERNET].to_vec();
    match &mut headers {
        IpHeaders::Ipv4(header, _) => {
            header.set_payload_len(payload.len()).expect("the payload fits");
            header.header_checksum = header.calc_header_checksum();
            bytes.extend(header.to_bytes());
        }
        IpHeaders::Ipv6(header, _) => {
            header.set_payload_length(payload.len()).expect("the payload fits");
            bytes.extend(header.to_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}
