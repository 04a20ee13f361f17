//! Single frames that are not what hosts send every day.

use etherparse::IpNumber;
use netbpf_common::wire::tcp_flags::{ACK, RST, SYN};
use netbpf_tests::craft::{self, Extension, Ip};
use netbpf_tests::packet::extension::{DESTINATION, HOP_BY_HOP, ROUTING};
use netbpf_tests::packet::icmp;
use netbpf_tests::version::Version;

use super::damage;
use super::site::{
    C1, C2, EVERYBODY, EXT, GATEWAY, GROUP, HOST, LINK_LOCAL, LOOPBACK, RESERVED, STRANGER, Spot, UNSPECIFIED, at,
};
use super::stage::{Machine, QUIET_EXT, QUIET_INSIDE, Stage, pattern};
use super::watch::{Watch, echo, told};

/// A frame: who sends it, and who might get it.
pub(super) struct Exchange {
    pub(super) name: String,
    pub(super) from: Machine,
    pub(super) there: Machine,
    pub(super) is_to_neighbour: bool,
    pub(super) packet: Vec<u8>,
}

/// Record route (RFC 791) with room for one address, and the end.
const RECORD_ROUTE: &[u8] = &[7, 7, 4, 0, 0, 0, 0, 0];
/// Loose source route by way of ext.
const SOURCE_ROUTE: &[u8] = &[131, 7, 4, 198, 18, 0, 2, 0];

/// PadN (RFC 8200 section 4.2), which means nothing.
const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];
/// Type 0 (RFC 5095) with no stop to come, and with one, which is nowhere.
const VISITED: &[u8] = &[0, 0, 0, 0, 0, 0];
const TO_VISIT: &[u8] = &[0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
/// Of a whole packet (RFC 6946): reserved bits, offset and flag, identification.
const ATOMIC: &[u8] = &[0, 0, 0, 0, 0, 77];
const FRAGMENT: u8 = 44;

/// What may stand before a datagram.
const EXTENDED: [(&str, &[Extension]); 8] = [
    ("hop-by-hop options", &[(HOP_BY_HOP, PADDING)]),
    ("destination options", &[(DESTINATION, PADDING)]),
    ("a routing header without stops", &[(ROUTING, VISITED)]),
    ("a routing header with a stop", &[(ROUTING, TO_VISIT)]),
    ("an atomic fragment", &[(FRAGMENT, ATOMIC)]),
    ("three extension headers", &[(HOP_BY_HOP, PADDING), (DESTINATION, PADDING), (FRAGMENT, ATOMIC)]),
    ("options behind a fragment header", &[(FRAGMENT, ATOMIC), (DESTINATION, PADDING)]),
    ("an option that must be known", &[(DESTINATION, &[0x9e, 4, 0, 0, 0, 0])]),
];

/// Ways by which a datagram goes.
pub(super) const WAYS: [(&str, Machine, Machine, Spot, Spot); 3] = [
    ("published", Machine::Ext, Machine::C1, at(EXT, QUIET_EXT + 3995), at(HOST, 5390)),
    ("masqueraded", Machine::C1, Machine::Ext, at(C1, QUIET_INSIDE + 3995), at(EXT, QUIET_EXT)),
    ("between containers", Machine::C1, Machine::C2, at(C1, QUIET_INSIDE + 3995), at(C2, QUIET_INSIDE)),
];

/// All of them.
pub(super) fn generate(version: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    for (way, from, there, src, dst) in WAYS {
        let mut add = |name: &str, ip: Ip, protocol: IpNumber, payload: Vec<u8>| {
            let name = format!("frame, {way}: {name}");
            let packet = ip.packet(protocol, &payload);
            all.push(Exchange { name, from, there, is_to_neighbour: there == Machine::C2, packet });
        };
        let web = web(dst).of(version);
        let (src, dst) = (src.of(version), dst.of(version));
        let ip = Ip::new(src.ip(), dst.ip());
        let udp = craft::udp(src, dst, &pattern(10));
        for ttl in [0, 1, 2, 255] {
            add(&format!("udp with ttl {ttl}"), Ip { ttl, ..ip }, IpNumber::UDP, udp.clone());
        }
        add("udp without checksum", ip, IpNumber::UDP, [&udp[..6], &[0, 0], &udp[8..]].concat());
        let damaged: Vec<u8> = [&udp[..8], &[udp[8] ^ 1], &udp[9..]].concat();
        add("udp with a wrong checksum", ip, IpNumber::UDP, damaged);
        // Sums up to nothing, which goes as 0xffff (RFC 768).
        let first = craft::udp(src, dst, &[0, 0]);
        let zero = craft::udp(src, dst, &first[6..8]);
        add("udp whose checksum is computed to be 0", ip, IpNumber::UDP, zero);
        add("udp cut in its header", ip, IpNumber::UDP, udp[..6].to_vec());
        match version {
            Version::V4 => {
                add("udp with don't fragment", Ip { whole: true, ..ip }, IpNumber::UDP, udp.clone());
                add("udp with record route", Ip { options: RECORD_ROUTE, ..ip }, IpNumber::UDP, udp.clone());
                add("udp with a source route", Ip { options: SOURCE_ROUTE, ..ip }, IpNumber::UDP, udp.clone());
                let timestamp = craft::icmp(src.ip(), dst.ip(), [13, 0], [0, 9, 0, 1], &[0; 12]);
                add("an ICMP timestamp request", ip, IpNumber::ICMP, timestamp);
            }
            Version::V6 => {
                for (name, extensions) in EXTENDED {
                    add(&format!("udp with {name}"), Ip { extensions, ..ip }, IpNumber::UDP, udp.clone());
                }
                add("no next header", ip, IpNumber::IPV6_NO_NEXT_HEADER, pattern(8));
            }
        }
        add("sctp", ip, IpNumber(132), pattern(32));
        // Not the same both ways: they have no ports, and are told apart by addresses alone.
        let numbers = match (version, from) {
            (Version::V4, Machine::Ext) => [3, 8, 46, 51, 252],
            (Version::V4, _) => [2, 4, 47, 50, 253],
            // 51 is an extension header there.
            (Version::V6, Machine::Ext) => [3, 8, 46, 41, 252],
            (Version::V6, _) => [2, 4, 47, 50, 253],
        };
        for number in numbers {
            add(&format!("protocol {number}"), ip, IpNumber(number), pattern(32));
        }
        let request = echo(src.ip(), dst.ip(), true, 8);
        add("an echo request", ip, icmp(src.ip()), request);
        let reply = echo(src.ip(), dst.ip(), false, 9);
        add("an echo reply that nobody asked for", ip, icmp(src.ip()), reply);
        for (name, flags) in [("SYN", SYN), ("ACK", ACK), ("RST", RST)] {
            let mut segment = craft::tcp(src, web, flags, 1, 1, &[]);
            segment[16] ^= 1;
            add(&format!("a {name} with a wrong checksum"), ip, IpNumber::TCP, segment);
        }
    }
    all.extend(damage::generate(version));
    all.extend(strangers(version));
    all
}

/// Where TCP is spoken on the same way.
pub(super) fn web(dst: Spot) -> Spot {
    if dst == at(HOST, 5390) { at(HOST, 8090) } else { dst }
}

/// The first port of those that are not said; quiet inside, and nobody's outside.
const ANY: u16 = QUIET_INSIDE + 3900;

/// Frames that go where they should not, or claim what they are not.
fn strangers(version: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    let mut add = |name: &str, from: Machine, there: Machine, src: Spot, dst: Spot| {
        // None meets the flow of another.
        let own = if src.port == ANY { src.port + all.len() as u16 } else { src.port };
        let (src, dst) = (at(src.site, own).of(version), dst.of(version));
        let ip = Ip::new(src.ip(), dst.ip());
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
    add("from outside as loopback to a published port", Ext, One, at(LOOPBACK, ANY), at(HOST, 5390));
    add("from outside as nobody to a published port", Ext, One, at(UNSPECIFIED, ANY), at(HOST, 5390));
    add("from outside as everybody to a published port", Ext, One, at(EVERYBODY, ANY), at(HOST, 5390));
    add("from outside from port 0 to a published port", Ext, One, at(EXT, 0), at(HOST, 5390));
    add("from outside to the gateway's address and a published port", Ext, One, outside, at(GATEWAY, 5390));
    add("from outside to everybody at a published port", Ext, One, outside, at(EVERYBODY, 5390));
    add("from outside to a NAT port without flow", Ext, One, outside, at(HOST, 26_400));
    add("from c1 as c2 to ext", One, Ext, at(C2, ANY), there);
    add("from c1 as the host to ext", One, Ext, at(HOST, ANY), there);
    add("from c1 as a stranger to ext", One, Ext, at(STRANGER, ANY), there);
    add("from c1 to everybody", One, Ext, inside, at(EVERYBODY, QUIET_EXT));
    add("from c1 to a multicast group", One, Ext, inside, at(GROUP, QUIET_EXT));
    add("from c1 to loopback", One, Ext, inside, at(LOOPBACK, 5390));
    add("from c1 to nowhere", One, Ext, inside, at(RESERVED, QUIET_EXT));
    add("from c1 from port 0 to ext", One, Ext, at(C1, 0), there);
    add("from c1 from a low port to ext", One, Ext, at(C1, 500), there);
    add("from c1 to port 0 of ext", One, Ext, inside, at(EXT, 0));
    add("from outside as somebody of the link to a published port", Ext, One, at(LINK_LOCAL, ANY), at(HOST, 5390));
    add("from c1 as somebody of the link to ext", One, Ext, at(LINK_LOCAL, ANY), there);
    add("from c1 to somebody of the link", One, Ext, inside, at(LINK_LOCAL, QUIET_EXT));
    all
}

/// Sends it and notes what arrives.
pub(super) fn run(stage: &mut Stage<'_>, watch: &Watch, exchange: &Exchange) {
    let Exchange { name, from, there, is_to_neighbour, packet } = exchange;
    let ethernet = if *is_to_neighbour { watch.to_neighbour() } else { watch.ethernet(*from) };
    let arrived = watch.probe(*from, *there, &craft::framed(ethernet, watch.version, packet));
    stage.record.note(name, "arrives", told(&arrived.there));
    stage.record.note(name, "comes back", told(&arrived.back));
}
