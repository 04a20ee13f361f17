//! What a frame looks like to somebody who reads along: one line each.

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Slice, IpNumber, Ipv4HeaderSlice, TcpSlice, UdpSlice};

/// How much of a packet is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Whole,
    /// The packet that an ICMP error is about.
    Quoted,
}

/// Tells what a frame holds, with names for addresses; nothing when it is no IPv4.
pub fn describe(frame: &[u8], name: &dyn Fn(Ipv4Addr) -> String) -> Option<String> {
    (frame.get(12..14)? == [0x08, 0x00]).then(|| packet(&frame[14..], name, Depth::Whole))?
}

fn packet(bytes: &[u8], name: &dyn Fn(Ipv4Addr) -> String, depth: Depth) -> Option<String> {
    let ip = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let end = usize::from(ip.total_len()).min(bytes.len());
    let payload = bytes.get(ip.slice().len()..end)?;
    let (from, to) = (name(ip.source_addr()), name(ip.destination_addr()));
    let offset = ip.fragments_offset().value() * 8;
    // Eight bytes are all that a cut quotation needs to hold.
    let is_cut = usize::from(ip.total_len()) > bytes.len();
    let mut line = if offset > 0 {
        format!("fragment of protocol {} {from} > {to} at {offset}, {} bytes", ip.protocol().0, payload.len())
    } else {
        let ports = |at: usize| payload.get(at..at + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
        let ends = format!("{from}:{} > {to}:{}", ports(0), ports(2));
        match ip.protocol() {
            IpNumber::TCP if is_cut => format!("tcp {ends} seq {}", word(payload, 4)),
            IpNumber::UDP if is_cut => format!("udp {ends}"),
            IpNumber::TCP => format!("tcp {ends} {}", tcp(payload, &ip)),
            IpNumber::UDP => format!("udp {ends} {}", udp(payload, &ip)),
            IpNumber::ICMP => format!("icmp {from} > {to} {}", icmp(payload, name, depth)),
            other => format!("protocol {} {from} > {to}, {} bytes", other.0, payload.len()),
        }
    };
    if ip.more_fragments() {
        line += " first of fragments";
    }
    if depth == Depth::Whole {
        line += &format!(" ttl {}", ip.ttl());
        if !ip.options().is_empty() {
            line += " with options";
        }
    }
    if ip.to_header().calc_header_checksum() != ip.header_checksum() {
        line += " BAD IP CHECKSUM";
    }
    Some(line)
}

fn word(payload: &[u8], at: usize) -> u32 {
    payload.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

fn tcp(payload: &[u8], ip: &Ipv4HeaderSlice<'_>) -> String {
    let Ok(tcp) = TcpSlice::from_slice(payload) else { return format!("cut to {} bytes", payload.len()) };
    let flags =
        [(tcp.fin(), 'F'), (tcp.syn(), 'S'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), 'A'), (tcp.urg(), 'U')];
    let flags: String = flags.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect();
    let (seq, ack, length) = (tcp.sequence_number(), tcp.acknowledgment_number(), tcp.payload().len());
    let sum = tcp.calc_checksum_ipv4(ip.source(), ip.destination());
    let bad = if ip.more_fragments() || sum == Ok(tcp.checksum()) { "" } else { " BAD CHECKSUM" };
    format!("[{flags}] seq {seq} ack {ack}, {length} bytes{bad}")
}

fn udp(payload: &[u8], ip: &Ipv4HeaderSlice<'_>) -> String {
    let Ok(udp) = UdpSlice::from_slice_lax(payload) else { return format!("cut to {} bytes", payload.len()) };
    let sum = udp.to_header().calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload());
    let state = match udp.checksum() {
        0 => " without checksum",
        _ if ip.more_fragments() || sum == Ok(udp.checksum()) => "",
        _ => " BAD CHECKSUM",
    };
    format!("{} bytes{state}", udp.payload().len())
}

fn icmp(payload: &[u8], name: &dyn Fn(Ipv4Addr) -> String, depth: Depth) -> String {
    let Ok(icmp) = Icmpv4Slice::from_slice(payload) else { return format!("cut to {} bytes", payload.len()) };
    let (kind, code, rest) = (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
    if matches!(kind, 0 | 8) {
        let (id, seq) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
        let word = if kind == 0 { "reply" } else { "request" };
        return format!("{word} {id} {seq}, {} bytes", payload.len() - 8);
    }
    let mtu =
        if (kind, code) == (3, 4) { format!(" mtu {}", u16::from_be_bytes([rest[2], rest[3]])) } else { String::new() };
    // RFC 1071: all of it, the checksum included, sums up to nothing.
    let bad = if depth == Depth::Whole && sum(payload) != 0xffff { " BAD CHECKSUM" } else { "" };
    let about = packet(payload.get(8..).unwrap_or_default(), name, Depth::Quoted);
    format!("type {kind} code {code}{mtu}{bad} about <{}>", about.as_deref().unwrap_or("nothing"))
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use etherparse::Icmpv4Type;
    use etherparse::icmpv4::DestUnreachableHeader;

    use super::*;
    use crate::craft::{self, Ip};
    use crate::packet::Ethernet;

    const LINK: Ethernet = Ethernet { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 5000);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 53);

    fn seen(protocol: IpNumber, payload: &[u8]) -> String {
        let name = |address: Ipv4Addr| if address == *A.ip() { "a".into() } else { "b".into() };
        describe(&Ip::new(*A.ip(), *B.ip()).frame(LINK, protocol, payload), &name).expect("IPv4")
    }

    #[test]
    fn packets_are_told_in_one_line() {
        let segment = craft::tcp(A, B, 0x12, 7, 9, b"abc");
        assert_eq!(seen(IpNumber::TCP, &segment), "tcp a:5000 > b:53 [SA] seq 7 ack 9, 3 bytes ttl 64");
        assert_eq!(seen(IpNumber::UDP, &craft::udp(A, B, b"abc")), "udp a:5000 > b:53 3 bytes ttl 64");
    }

    #[test]
    fn a_damaged_checksum_is_told() {
        let mut datagram = craft::udp(A, B, b"abc");
        datagram[8] ^= 1;
        assert!(seen(IpNumber::UDP, &datagram).contains("BAD CHECKSUM"));
    }

    #[test]
    fn an_error_is_told_with_what_it_is_about_even_if_cut() {
        let about = Ip::new(*B.ip(), *A.ip()).packet(IpNumber::UDP, &craft::udp(B, A, b"abc"));
        let kind =
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 });
        let line = seen(IpNumber::ICMP, &craft::icmp(kind, &about[..28]));
        assert_eq!(line, "icmp a > b type 3 code 4 mtu 1300 about <udp b:53 > a:5000> ttl 64");
    }
}
