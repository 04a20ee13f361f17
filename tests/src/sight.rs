//! What a frame looks like to somebody who reads along: one line each.

use std::net::IpAddr;

use etherparse::{IpNumber, TcpSlice, UdpSlice};

use crate::headers::Headers;
use crate::packet::{icmp as icmp_of, pseudo_header};
use crate::version::Version;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Length of the header of an ICMP message.
const ICMP: usize = 8;

/// How much of a packet is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Whole,
    /// The packet that an ICMP error is about.
    Quoted,
}

/// Tells what a frame holds, with names for addresses; nothing when it is no IP, and nothing of what IPv6 has for ARP and
/// IGMP: solicitations and advertisements of neighbours and routers (RFC 4861), and of groups (RFC 3810).
pub fn describe(frame: &[u8], name: &dyn Fn(IpAddr) -> String) -> Option<String> {
    let headers = Headers::read(frame)?;
    let version = Version::of(headers.source);
    let kind = frame.get(headers.transport.start).copied().unwrap_or_default();
    let is_of_link = headers.protocol == IpNumber::IPV6_ICMP && matches!(kind, 130..=136 | 143);
    (frame[12..ETHERNET] == version.ether_type() && !is_of_link).then(|| packet(frame, name, Depth::Whole))?
}

/// Tells a packet that stands behind so many bytes as a frame has.
fn packet(frame: &[u8], name: &dyn Fn(IpAddr) -> String, depth: Depth) -> Option<String> {
    let ip = Headers::read(frame)?;
    let payload = frame.get(ip.transport.start..ip.transport.end.min(frame.len()))?;
    let (from, to) = (name(ip.source), name(ip.destination));
    // Eight bytes are all that a cut quotation needs to hold.
    let is_cut = ip.transport.end > frame.len();
    let mut line = if ip.offset > 0 {
        format!("fragment of protocol {} {from} > {to} at {}, {} bytes", ip.protocol.0, ip.offset, payload.len())
    } else {
        let ports = |at: usize| payload.get(at..at + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
        let ends = format!("{from}:{} > {to}:{}", ports(0), ports(2));
        match ip.protocol {
            IpNumber::TCP if is_cut => format!("tcp {ends} seq {}", word(payload, 4)),
            IpNumber::UDP if is_cut => format!("udp {ends}"),
            IpNumber::TCP => format!("tcp {ends} {}", tcp(payload, &ip)),
            IpNumber::UDP => format!("udp {ends} {}", udp(payload, &ip)),
            protocol if protocol == icmp_of(ip.source) => {
                format!("icmp {from} > {to} {}", icmp(frame, &ip, payload, name, depth))
            }
            other => format!("protocol {} {from} > {to}, {} bytes", other.0, payload.len()),
        }
    };
    if ip.more {
        line += " first of fragments";
    }
    if depth == Depth::Whole {
        line += &format!(" ttl {}", ip.ttl);
        let version = Version::of(ip.source);
        if ip.transport.start > ETHERNET + version.header_len() {
            line += if version == Version::V4 { " with options" } else { " with extension headers" };
        }
    }
    if !ip.is_sound {
        line += " BAD IP CHECKSUM";
    }
    Some(line)
}

fn word(payload: &[u8], at: usize) -> u32 {
    payload.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

fn tcp(payload: &[u8], ip: &Headers) -> String {
    let Ok(tcp) = TcpSlice::from_slice(payload) else { return format!("cut to {} bytes", payload.len()) };
    let flags =
        [(tcp.fin(), 'F'), (tcp.syn(), 'S'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), 'A'), (tcp.urg(), 'U')];
    let flags: String = flags.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect();
    let (seq, ack, length) = (tcp.sequence_number(), tcp.acknowledgment_number(), tcp.payload().len());
    let bad = if ip.more || is_right(payload, ip) { "" } else { " BAD CHECKSUM" };
    format!("[{flags}] seq {seq} ack {ack}, {length} bytes{bad}")
}

fn udp(payload: &[u8], ip: &Headers) -> String {
    let Ok(udp) = UdpSlice::from_slice_lax(payload) else { return format!("cut to {} bytes", payload.len()) };
    let state = match udp.checksum() {
        0 => " without checksum",
        _ if ip.more || is_right(udp.slice(), ip) => "",
        _ => " BAD CHECKSUM",
    };
    format!("{} bytes{state}", udp.payload().len())
}

fn icmp(frame: &[u8], ip: &Headers, payload: &[u8], name: &dyn Fn(IpAddr) -> String, depth: Depth) -> String {
    let [kind, code, _, _, a, b, c, d] = match payload.first_chunk::<ICMP>() {
        Some(header) => *header,
        None => return format!("cut to {} bytes", payload.len()),
    };
    let version = Version::of(ip.source);
    let echo = match (version, kind) {
        (Version::V4, 8) | (Version::V6, 128) => Some("request"),
        (Version::V4, 0) | (Version::V6, 129) => Some("reply"),
        _ => None,
    };
    // RFC 1071: all of it, the checksum included, sums up to nothing.
    let bad = if depth == Depth::Whole && !is_right(payload, ip) { " BAD CHECKSUM" } else { "" };
    if let Some(word) = echo {
        let (id, seq) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        return format!("{word} {id} {seq}, {} bytes{bad}", payload.len() - ICMP);
    }
    let mtu = match (version, kind, code) {
        (Version::V4, 3, 4) => format!(" mtu {}", u16::from_be_bytes([c, d])),
        (Version::V6, 2, 0) => format!(" mtu {}", u32::from_be_bytes([a, b, c, d])),
        _ => String::new(),
    };
    // What is before it in the frame stands for an Ethernet header.
    let end = ip.transport.end.min(frame.len());
    let about = packet(&frame[ip.transport.start + ICMP - ETHERNET..end], name, Depth::Quoted);
    format!("type {kind} code {code}{mtu}{bad} about <{}>", about.as_deref().unwrap_or("nothing"))
}

/// Whether the checksum of a whole message is right.
fn is_right(message: &[u8], ip: &Headers) -> bool {
    let sum = match ip.protocol {
        IpNumber::ICMP => Default::default(),
        protocol => pseudo_header(ip.source, ip.destination, protocol, message.len()),
    };
    sum.add_slice(message).ones_complement() == 0
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use super::*;
    use crate::craft::{self, Ip};
    use crate::packet::Ethernet;

    const LINK: Ethernet = Ethernet { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
    const V4: [SocketAddr; 2] = [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 5000),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)), 53),
    ];
    const V6: [SocketAddr; 2] = [
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)), 5000),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)), 53),
    ];

    fn seen([a, b]: [SocketAddr; 2], protocol: IpNumber, payload: &[u8]) -> String {
        let name = |address| if address == a.ip() { "a".into() } else { "b".into() };
        describe(&Ip::new(a.ip(), b.ip()).frame(LINK, protocol, payload), &name).expect("IP")
    }

    #[test]
    fn packets_are_told_in_one_line() {
        for [a, b] in [V4, V6] {
            let segment = craft::tcp(a, b, 0x12, 7, 9, b"abc");
            let line = "tcp a:5000 > b:53 [SA] seq 7 ack 9, 3 bytes ttl 64";
            assert_eq!(seen([a, b], IpNumber::TCP, &segment), line);
            let line = "udp a:5000 > b:53 3 bytes ttl 64";
            assert_eq!(seen([a, b], IpNumber::UDP, &craft::udp(a, b, b"abc")), line);
        }
    }

    #[test]
    fn a_damaged_checksum_is_told() {
        for [a, b] in [V4, V6] {
            let mut datagram = craft::udp(a, b, b"abc");
            datagram[8] ^= 1;
            assert!(seen([a, b], IpNumber::UDP, &datagram).contains("BAD CHECKSUM"));
        }
    }

    #[test]
    fn an_error_is_told_with_what_it_is_about_even_if_cut() {
        for ([a, b], kind, told) in [(V4, [3, 4], "type 3 code 4"), (V6, [2, 0], "type 2 code 0")] {
            let about = Ip::new(b.ip(), a.ip()).packet(IpNumber::UDP, &craft::udp(b, a, b"abc"));
            let quote = &about[..Version::of(a.ip()).header_len() + 8];
            let error = craft::icmp(a.ip(), b.ip(), kind, 1300_u32.to_be_bytes(), quote);
            let line = format!("icmp a > b {told} mtu 1300 about <udp b:53 > a:5000> ttl 64");
            assert_eq!(seen([a, b], icmp_of(a.ip()), &error), line);
        }
    }

    #[test]
    fn what_keeps_the_link_together_is_not_told() {
        let [a, b] = V6.map(|end| end.ip());
        let solicitation = craft::icmp(a, b, [135, 0], [0; 4], &[0; 16]);
        let frame = Ip::new(a, b).frame(LINK, IpNumber::IPV6_ICMP, &solicitation);
        assert_eq!(describe(&frame, &|address| address.to_string()), None);
    }

    #[test]
    fn extension_headers_and_fragments_are_told() {
        let [a, b] = V6;
        let datagram = craft::udp(a, b, b"abcdefgh");
        let name = |address: IpAddr| if address == a.ip() { "a".into() } else { "b".into() };
        let tell = |ip: Ip, payload: &[u8]| describe(&ip.frame(LINK, IpNumber::UDP, payload), &name).expect("IP");
        let whole = Ip::new(a.ip(), b.ip());
        let optioned = Ip { extensions: &[(60, &[1, 4, 0, 0, 0, 0])], ..whole };
        assert_eq!(tell(optioned, &datagram), "udp a:5000 > b:53 8 bytes ttl 64 with extension headers");
        let first = tell(Ip { more: true, ..whole }, &datagram);
        assert_eq!(first, "udp a:5000 > b:53 8 bytes first of fragments ttl 64 with extension headers");
        let last = tell(Ip { offset: 16, ..whole }, b"ijk");
        assert_eq!(last, "fragment of protocol 17 a > b at 16, 3 bytes ttl 64 with extension headers");
    }
}
