//! Single frames that are not what hosts send every day.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{IcmpEchoHeader, Icmpv4Type, IpNumber};
use netbpf_common::wire::tcp_flags::{ACK, RST, SYN};
use netbpf_tests::craft::{self, Ip};

use super::stage::{C1, C2, EXT, GATEWAY, HOST, Machine, QUIET_EXT, QUIET_INSIDE, Stage, at, pattern};
use super::watch::{Watch, told};

/// A frame: who sends it, and who might get it.
pub(super) struct Exchange {
    pub(super) name: String,
    from: Machine,
    there: Machine,
    is_to_neighbour: bool,
    packet: Vec<u8>,
}

/// Record route (RFC 791) with room for one address, and the end.
const RECORD_ROUTE: &[u8] = &[7, 7, 4, 0, 0, 0, 0, 0];
/// Loose source route by way of ext.
const SOURCE_ROUTE: &[u8] = &[131, 7, 4, 198, 18, 0, 2, 0];

/// Ways by which a datagram goes.
const WAYS: [(&str, Machine, Machine, SocketAddrV4, SocketAddrV4); 3] = [
    ("published", Machine::Ext, Machine::C1, at(EXT, QUIET_EXT + 3995), at(HOST, 5390)),
    ("masqueraded", Machine::C1, Machine::Ext, at(C1, QUIET_INSIDE + 3995), at(EXT, QUIET_EXT)),
    ("between containers", Machine::C1, Machine::C2, at(C1, QUIET_INSIDE + 3995), at(C2, QUIET_INSIDE)),
];

/// All of them.
pub(super) fn generate() -> Vec<Exchange> {
    let mut all = Vec::new();
    for (way, from, there, src, dst) in WAYS {
        let mut add = |name: &str, ip: Ip, protocol: IpNumber, payload: Vec<u8>| {
            let name = format!("frame, {way}: {name}");
            let packet = ip.packet(protocol, &payload);
            all.push(Exchange { name, from, there, is_to_neighbour: there == Machine::C2, packet });
        };
        let ip = Ip::new(*src.ip(), *dst.ip());
        let udp = craft::udp(src, dst, &pattern(10));
        for ttl in [0, 1, 2, 255] {
            add(&format!("udp with ttl {ttl}"), Ip { ttl, ..ip }, IpNumber::UDP, udp.clone());
        }
        add("udp with don't fragment", Ip { whole: true, ..ip }, IpNumber::UDP, udp.clone());
        add("udp without checksum", ip, IpNumber::UDP, [&udp[..6], &[0, 0], &udp[8..]].concat());
        let damaged: Vec<u8> = [&udp[..8], &[udp[8] ^ 1], &udp[9..]].concat();
        add("udp with a wrong checksum", ip, IpNumber::UDP, damaged);
        // Sums up to nothing, which goes as 0xffff (RFC 768).
        let first = craft::udp(src, dst, &[0, 0]);
        let zero = craft::udp(src, dst, &first[6..8]);
        add("udp whose checksum is computed to be 0", ip, IpNumber::UDP, zero);
        add("udp cut in its header", ip, IpNumber::UDP, udp[..6].to_vec());
        add("udp with record route", Ip { options: RECORD_ROUTE, ..ip }, IpNumber::UDP, udp.clone());
        add("udp with a source route", Ip { options: SOURCE_ROUTE, ..ip }, IpNumber::UDP, udp.clone());
        add("sctp", ip, IpNumber(132), pattern(32));
        // Not the same both ways: they have no ports, and are told apart by addresses alone.
        let numbers = if from == Machine::Ext { [3, 8, 46, 51, 252] } else { [2, 4, 47, 50, 253] };
        for number in numbers {
            add(&format!("protocol {number}"), ip, IpNumber(number), pattern(32));
        }
        let timestamp = Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0, 9, 0, 1] };
        add("an ICMP timestamp request", ip, IpNumber::ICMP, craft::icmp(timestamp, &[0; 12]));
        let request = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 8, seq: 1 });
        add("an echo request", ip, IpNumber::ICMP, craft::icmp(request, &pattern(10)));
        let reply = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 9, seq: 1 });
        add("an echo reply that nobody asked for", ip, IpNumber::ICMP, craft::icmp(reply, &pattern(10)));
        for (name, flags) in [("SYN", SYN), ("ACK", ACK), ("RST", RST)] {
            let to = if dst == at(HOST, 5390) { at(HOST, 8090) } else { dst };
            let mut segment = craft::tcp(src, to, flags, 1, 1, &[]);
            segment[16] ^= 1;
            add(&format!("a {name} with a wrong checksum"), ip, IpNumber::TCP, segment);
        }
    }
    all.extend(damaged());
    all.extend(strangers());
    all
}

/// A name, a packet, from where which of its bytes are written over, and whether the header's checksum is computed after.
type Damage = (&'static str, Vec<u8>, usize, &'static [u8], bool);

/// Headers that do not fit together.
fn damaged() -> Vec<Exchange> {
    let mut all = Vec::new();
    for (way, from, there, src, dst) in WAYS {
        let ip = Ip::new(*src.ip(), *dst.ip());
        let web = if dst == at(HOST, 5390) { at(HOST, 8090) } else { dst };
        // Without checksum, so that lengths alone are wrong.
        let udp = |payload| {
            let datagram = craft::udp(src, dst, &pattern(payload));
            ip.packet(IpNumber::UDP, &[&datagram[..6], &[0, 0], &datagram[8..]].concat())
        };
        let padded = [udp(10), vec![0; 20]].concat();
        let syn = ip.packet(IpNumber::TCP, &craft::tcp(src, web, SYN, 1, 0, &pattern(10)));
        let cases: [Damage; 13] = [
            ("IP version 5", udp(10), 0, &[0x55], true),
            ("an IP header of four words", udp(10), 0, &[0x44], true),
            ("an IP header beyond the packet", udp(4), 0, &[0x4f], true),
            ("an IP length beyond the packet", udp(10), 2, &[0, 60], true),
            ("an IP length within the UDP header", udp(10), 2, &[0, 24], true),
            ("a rest behind the packet", padded, 2, &[0, 38], true),
            ("a wrong IP checksum", udp(10), 10, &[0x12, 0x34], false),
            ("a reserved fragment bit", udp(10), 6, &[0x80], true),
            ("a UDP length of 4", udp(10), 24, &[0, 4], false),
            ("a UDP length beyond the packet", udp(10), 24, &[0, 200], false),
            ("a UDP length within the packet", udp(10), 24, &[0, 12], false),
            ("a TCP header of four words", syn.clone(), 32, &[0x40], false),
            ("a TCP header beyond the packet", syn, 32, &[0xf0], false),
        ];
        for (name, mut packet, start, bytes, sum) in cases {
            packet[start..start + bytes.len()].copy_from_slice(bytes);
            if sum {
                correct(&mut packet);
            }
            let name = format!("frame, {way}: {name}");
            all.push(Exchange { name, from, there, is_to_neighbour: there == Machine::C2, packet });
        }
    }
    all
}

/// Computes the checksum of an IPv4 header of five words, whatever it says of its length.
fn correct(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!folded as u16).to_be_bytes());
}

/// The first port of those that are not said; quiet inside, and nobody's outside.
const ANY: u16 = QUIET_INSIDE + 3900;

/// Frames that go where they should not, or claim what they are not.
fn strangers() -> Vec<Exchange> {
    let mut all = Vec::new();
    let mut add = |name: &str, from: Machine, there: Machine, src: SocketAddrV4, dst: SocketAddrV4| {
        // None meets the flow of another.
        let own = if src.port() == ANY { src.port() + all.len() as u16 } else { src.port() };
        let src = SocketAddrV4::new(*src.ip(), own);
        let ip = Ip::new(*src.ip(), *dst.ip());
        let name = format!("frame, {name}");
        let packet = ip.packet(IpNumber::UDP, &craft::udp(src, dst, &pattern(10)));
        all.push(Exchange { name, from, there, is_to_neighbour: false, packet });
    };
    use Machine::{C1 as One, Ext};
    let (outside, inside) = (at(EXT, ANY), at(C1, ANY));
    let there = at(EXT, QUIET_EXT);
    add("from outside to c1's own address", Ext, One, outside, at(C1, QUIET_INSIDE));
    add("from outside as c1 to a published port", Ext, One, at(C1, ANY), at(HOST, 5390));
    add("from outside as c2 to a published port", Ext, One, at(C2, ANY), at(HOST, 5390));
    add("from outside as the gateway to a published port", Ext, One, at(GATEWAY, ANY), at(HOST, 5390));
    add("from outside as the host to a published port", Ext, One, at(HOST, ANY), at(HOST, 5390));
    add("from outside as 127.0.0.1 to a published port", Ext, One, at(Ipv4Addr::LOCALHOST, ANY), at(HOST, 5390));
    add("from outside as nobody to a published port", Ext, One, at(Ipv4Addr::UNSPECIFIED, ANY), at(HOST, 5390));
    add("from outside as everybody to a published port", Ext, One, at(Ipv4Addr::BROADCAST, ANY), at(HOST, 5390));
    add("from outside from port 0 to a published port", Ext, One, at(EXT, 0), at(HOST, 5390));
    add("from outside to the gateway's address and a published port", Ext, One, outside, at(GATEWAY, 5390));
    add("from outside to everybody at a published port", Ext, One, outside, at(Ipv4Addr::BROADCAST, 5390));
    add("from outside to a NAT port without flow", Ext, One, outside, at(HOST, 26_400));
    add("from c1 as c2 to ext", One, Ext, at(C2, ANY), there);
    add("from c1 as the host to ext", One, Ext, at(HOST, ANY), there);
    add("from c1 as a stranger to ext", One, Ext, at(Ipv4Addr::new(9, 9, 9, 9), ANY), there);
    add("from c1 to everybody", One, Ext, inside, at(Ipv4Addr::BROADCAST, QUIET_EXT));
    add("from c1 to a multicast group", One, Ext, inside, at(Ipv4Addr::new(224, 0, 0, 251), QUIET_EXT));
    add("from c1 to 127.0.0.1", One, Ext, inside, at(Ipv4Addr::LOCALHOST, 5390));
    add("from c1 to nowhere", One, Ext, inside, at(Ipv4Addr::new(240, 0, 0, 1), QUIET_EXT));
    add("from c1 from port 0 to ext", One, Ext, at(C1, 0), there);
    add("from c1 from a low port to ext", One, Ext, at(C1, 500), there);
    add("from c1 to port 0 of ext", One, Ext, inside, at(EXT, 0));
    all
}

/// Sends it and notes what arrives.
pub(super) fn run(stage: &mut Stage<'_>, watch: &Watch, exchange: &Exchange) {
    let Exchange { name, from, there, is_to_neighbour, packet } = exchange;
    let ethernet = if *is_to_neighbour { watch.to_neighbour() } else { watch.ethernet(*from) };
    let arrived = watch.probe(*from, *there, &craft::framed(ethernet, packet));
    stage.record.note(name, "arrives", told(&arrived.there));
    stage.record.note(name, "comes back", told(&arrived.back));
}
