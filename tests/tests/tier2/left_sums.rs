//! Checksums that a container leaves to the device, at places of its own choice (PACKET_VNET_HDR).

use netbpf_common::path::{V4, V6};
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::{Headers, is_header_sound, is_transport_sound, leave_checksum_to_device, repair};
use netbpf_tests::link::Link;
use netbpf_tests::packet::Datagram;
use netbpf_tests::vnet::{LeftSum, VnetLink};
use netbpf_tests::wait::{silence, soon};

use crate::lab::{Attacker, Lab, Offloads, dropped};

const ETHERNET: u16 = 14;
/// The kernel takes no sum that begins before this (include/linux/virtio_net.h: behind the shortest IP header).
const FIRST_START: u16 = 20;
/// Offset in the header of UDP.
const UDP_CHECKSUM: u16 = 6;

/// A lab in which the checksums that are left to the uplink are filled in before the wire.
fn lab<F: TestFamily>(settings: &str) -> Lab {
    let lab = Lab::configured::<F>(settings);
    lab.offloads(Offloads::HostTxChecksumOff);
    lab
}

/// Whether a frame has these bytes anywhere.
fn has(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

fn a_checksum_that_is_left_to_the_device_at_its_own_place_is_right_on_the_wire<F: TestFamily>() {
    let lab = lab::<F>("");
    let attacker = Attacker::new(&lab);
    let link = VnetLink::open(&attacker.container.place, "eth0");
    let wire = lab.ext_link();
    let (from, to) = (attacker.container.at(20_000), lab.at_ext(90));
    let mut frame = attacker.to_gateway().udp(from, to, b"to be summed up");
    leave_checksum_to_device(&mut frame);
    let start = Headers::read(&frame).expect("a header").transport.start as u16;
    link.send(&frame, LeftSum { start, offset: UDP_CHECKSUM });
    let seen = wire.find(soon(), |frame| has(frame, b"to be summed up").then(|| frame.to_vec())).expect("it arrives");
    assert!(is_header_sound(&seen) && is_transport_sound(&seen), "{seen:02x?}");
    let datagram = Datagram::parse(&seen).expect("UDP");
    assert_eq!((datagram.from, datagram.to), (lab.at_host(20_000), to));
    assert_ne!(datagram.checksum, 0);
}

for_both!(a_checksum_that_is_left_to_the_device_at_its_own_place_is_right_on_the_wire);

/// Where IPv6 has a word before the checksum of a transport: the place, and two ways to say it.
fn places(checksum: u16) -> impl Iterator<Item = LeftSum> {
    let header = ETHERNET + 40;
    // From the source address on; the sum may begin anywhere before.
    let places = (ETHERNET + 8..header + checksum).step_by(2);
    places.flat_map(move |place| {
        let sums = [place - 8, place].map(|start| LeftSum { start, offset: place - start });
        sums.into_iter().filter(|sum| sum.start >= FIRST_START)
    })
}

#[test]
fn nothing_of_ipv6_leaves_whose_checksum_the_device_is_to_write_before_that_of_the_transport() {
    const TCP_CHECKSUM: u16 = 16;
    for mode in ["masquerade", "routed", "prefix"] {
        let prefix = if mode == "prefix" { "external_prefix_v6 = \"2001:db8:300::/64\"\n" } else { "" };
        let lab = lab::<V6>(&format!("mode_v6 = \"{mode}\"\n{prefix}"));
        let attacker = Attacker::new(&lab);
        let link = VnetLink::open(&attacker.container.place, "eth0");
        let wire = lab.ext_link();
        let (from, to) = (attacker.container.at(20_000), lab.at_ext(90));
        let udp = attacker.to_gateway().udp(from, to, b"under another name");
        let tcp = attacker.to_gateway().syn(from, to, 0x7e57_ab1e);
        let mut sent = 0;
        for (frame, checksum) in [(&udp, UDP_CHECKSUM), (&tcp, TCP_CHECKSUM)] {
            for sum in places(checksum) {
                link.send(frame, sum);
                sent += 1;
            }
        }
        for (start, offset) in [(28, 8), (34, 2), (50, 2)] {
            link.send(&udp, LeftSum { start, offset });
            sent += 1;
        }
        dropped(&lab, "malformed", sent);
        let leaked = wire.find(silence(), |frame| {
            let is_ours = has(frame, b"under another name") || has(frame, &0x7e57_ab1e_u32.to_be_bytes());
            is_ours.then(|| frame.to_vec())
        });
        assert_eq!(leaked, None, "{mode}");
    }
}

/// A frame with a sound header and such a payload that does not come from the host.
fn in_anothers_name(wire: &Link, lab: &Lab, payload: &[u8]) -> Option<Vec<u8>> {
    wire.find(silence(), |frame| {
        let source = Headers::read(frame)?.source;
        (has(frame, payload) && is_header_sound(frame) && source != lab.host_ip).then(|| frame.to_vec())
    })
}

#[test]
fn no_sound_header_of_ipv4_leaves_with_an_address_that_the_device_has_written() {
    const SOURCE: u16 = ETHERNET + 12;
    let lab = lab::<V4>("");
    let attacker = Attacker::new(&lab);
    let link = VnetLink::open(&attacker.container.place, "eth0");
    let wire = lab.ext_link();
    let frame = attacker.to_gateway().udp(attacker.container.at(20_000), lab.at_ext(90), b"under another name");
    // Its header is as damaged as it has to be to become another's: whole for that source, which is not its own yet.
    let mut damaged = frame.clone();
    damaged[SOURCE.into()..][..4].copy_from_slice(&[10, 200, 3, 4]);
    repair(&mut damaged);
    damaged[SOURCE.into()..][..4].copy_from_slice(&frame[SOURCE.into()..][..4]);
    let sums = [SOURCE, SOURCE + 2]
        .into_iter()
        .flat_map(|place| [FIRST_START, place - 2, place].map(|start| LeftSum { start, offset: place - start }));
    let mut refused = 0;
    for sum in sums {
        link.send(&damaged, sum);
        refused += 1;
        // Whole, and damaged on its way out: nobody believes it.
        link.send(&frame, sum);
    }
    dropped(&lab, "malformed", refused);
    assert_eq!(in_anothers_name(&wire, &lab, b"under another name"), None);
}
