//! Headers that do not fit together.

use etherparse::IpNumber;
use netbpf_common::wire::tcp_flags::SYN;
use netbpf_tests::craft::{self, Ip};
use netbpf_tests::version::Version;

use super::oddities::{Exchange, WAYS, web};
use super::stage::{Machine, pattern};

/// A name, a packet, from where which of its bytes are written over, and whether the header's checksum is computed after.
type Damage = (&'static str, Vec<u8>, usize, &'static [u8], bool);

/// All of them.
pub(super) fn generate(version: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    for (way, from, there, src, dst) in WAYS {
        let web = web(dst).of(version);
        let (src, dst) = (src.of(version), dst.of(version));
        let ip = Ip::new(src.ip(), dst.ip());
        // Without checksum in IPv4, so that lengths alone are wrong.
        let udp = |payload| {
            let mut datagram = craft::udp(src, dst, &pattern(payload));
            if version == Version::V4 {
                datagram[6..8].fill(0);
            }
            ip.packet(IpNumber::UDP, &datagram)
        };
        let padded = || [udp(10), vec![0; 20]].concat();
        let syn = ip.packet(IpNumber::TCP, &craft::tcp(src, web, SYN, 1, 0, &pattern(10)));
        let v4: [Damage; 13] = [
            ("IP version 5", udp(10), 0, &[0x55], true),
            ("an IP header of four words", udp(10), 0, &[0x44], true),
            ("an IP header beyond the packet", udp(4), 0, &[0x4f], true),
            ("an IP length beyond the packet", udp(10), 2, &[0, 60], true),
            ("an IP length within the UDP header", udp(10), 2, &[0, 24], true),
            ("a rest behind the packet", padded(), 2, &[0, 38], true),
            ("a wrong IP checksum", udp(10), 10, &[0x12, 0x34], false),
            ("a reserved fragment bit", udp(10), 6, &[0x80], true),
            ("a UDP length of 4", udp(10), 24, &[0, 4], false),
            ("a UDP length beyond the packet", udp(10), 24, &[0, 200], false),
            ("a UDP length within the packet", udp(10), 24, &[0, 12], false),
            ("a TCP header of four words", syn.clone(), 32, &[0x40], false),
            ("a TCP header beyond the packet", syn.clone(), 32, &[0xf0], false),
        ];
        let v6: [Damage; 11] = [
            ("IP version 5", udp(10), 0, &[0x50], false),
            ("an IP length beyond the packet", udp(10), 4, &[0, 60], false),
            ("an IP length within the UDP header", udp(10), 4, &[0, 4], false),
            ("an IP length of 0", udp(10), 4, &[0, 0], false),
            ("a rest behind the packet", padded(), 4, &[0, 18], false),
            ("a UDP length of 4", udp(10), 44, &[0, 4], false),
            ("a UDP length beyond the packet", udp(10), 44, &[0, 200], false),
            ("a UDP length within the packet", udp(10), 44, &[0, 12], false),
            ("a TCP header of four words", syn.clone(), 52, &[0x40], false),
            ("a TCP header beyond the packet", syn.clone(), 52, &[0xf0], false),
            // The UDP header is taken for one of 8 + 8 * 53 bytes.
            ("an extension header beyond the packet", udp(10), 6, &[60], false),
        ];
        let cases = match version {
            Version::V4 => v4.to_vec(),
            Version::V6 => v6.to_vec(),
        };
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
