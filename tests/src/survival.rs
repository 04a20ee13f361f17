//! What holds of every frame that meets a path, whatever it says.

use etherparse::SlicedPacket;
use netbpf_common::abi::Event;
use netbpf_common::path::Verdict;

use crate::fixture::Hook;
use crate::frame::Frame;
use crate::gateway::is_known_outside;
use crate::headers::{Headers, finish_checksum, finish_moved_checksum, is_header_sound, is_transport_sound};
use crate::journey::{Arrival, collect, container_of, flows, travel};
use crate::memory::Memory;
use crate::packet::icmp;
use crate::world::{ETHERNET, GATEWAY_MAC};

/// Sends any frame; what came of it. What goes on must be a packet whose checksums are no worse than they were, and
/// what is passed on must be as it was.
///
/// # Panics
/// When that is not so, or a flow is not whole.
pub fn survives(memory: &Memory, hook: Hook, mut frame: Frame) -> Arrival {
    let answers = || [Event::ResetMade, Event::IcmpMade, Event::NeighbourAnswered].map(|event| memory.events(event));
    let before = answers();
    let mut bytes = frame.bytes.clone();
    let verdict = travel(memory, hook, &mut frame);
    let after = answers();
    match verdict {
        Verdict::Drop(_) => {}
        Verdict::Pass => {
            assert_eq!(frame.bytes, bytes, "what is passed on is untouched");
            for (_, copy) in &frame.copies {
                assert_eq!(is_header_sound(copy), is_header_sound(&bytes), "{copy:x?}");
                assert_eq!(is_transport_sound(copy), is_transport_sound(&bytes), "{copy:x?}");
            }
        }
        Verdict::Done => {
            for (_, copy) in frame.copies.drain(..) {
                assert_eq!(copy, bytes, "what many get is untouched");
            }
        }
        _ if after[2] != before[2] => {
            assert!(SlicedPacket::from_ethernet(&frame.bytes).is_ok(), "{:x?}", frame.bytes);
            // ARP has no checksum.
            let is_ip = Headers::read(&frame.bytes).is_some();
            assert!(!is_ip || is_transport_sound(&frame.bytes), "{:x?}", frame.bytes);
        }
        _ if after != before => {
            if frame.partial_checksum && hook == Hook::Uplink {
                // A reset has it in its place, an error quotes it.
                let is_reset = after[0] != before[0];
                let moved = if is_reset {
                    0
                } else {
                    Headers::read(&frame.bytes).map_or(0, |it| it.transport.start - ETHERNET + 8)
                };
                finish_moved_checksum(&bytes, &mut frame.bytes, moved);
            }
            assert!(SlicedPacket::from_ethernet(&frame.bytes).is_ok(), "{:x?}", frame.bytes);
            assert!(is_header_sound(&frame.bytes) && is_transport_sound(&frame.bytes), "{:x?}", frame.bytes);
        }
        _ => {
            if frame.partial_checksum {
                finish_checksum(&mut bytes);
                finish_checksum(&mut frame.bytes);
            }
            goes_on(memory, verdict, &bytes, &frame.bytes);
        }
    }
    flows(memory);
    Arrival::new(verdict, frame)
}

/// A packet that goes on: `sent` has become `arrived`.
fn goes_on(memory: &Memory, verdict: Verdict, sent: &[u8], arrived: &[u8]) {
    let Headers { source, destination, protocol, transport, .. } = Headers::read(arrived).expect("an IP packet");
    assert!(transport.end <= arrived.len());
    let before = Headers::read(sent).expect("an IP packet before");
    let crosses = before.source.is_ipv4() != source.is_ipv4();
    if crosses && protocol == icmp(source) {
        // It is made anew, with as much of what it quotes as there has to be.
        assert!(is_header_sound(arrived) && is_transport_sound(arrived), "{arrived:x?}");
    } else {
        let longer = |frame: &[u8], headers: &Headers| frame.len() + if headers.source.is_ipv4() { 20 } else { 0 };
        let after = Headers::read(arrived).expect("read before");
        assert_eq!(longer(arrived, &after), longer(sent, &before));
        assert_eq!(is_header_sound(arrived), is_header_sound(sent), "{arrived:x?}");
        assert_eq!(is_transport_sound(arrived), is_transport_sound(sent), "{arrived:x?}");
    }
    match verdict {
        Verdict::Neighbour { .. } => {
            assert!(is_known_outside(memory, source), "{source} on the wire");
        }
        Verdict::Peer { ifindex } | Verdict::Device { ifindex } => {
            let container = container_of(ifindex);
            assert_eq!(
                (&arrived[..6], destination),
                (&container.mac[..], container.ip_like(destination)),
                "delivered to another"
            );
        }
        Verdict::Ingress { .. } => assert_eq!(&arrived[..6], GATEWAY_MAC),
        Verdict::Pass | Verdict::Drop(_) | Verdict::Done => {}
        Verdict::HandOver => panic!("no part of a path hands over to none"),
    }
}

/// Lets more time pass than any flow may be silent.
///
/// # Panics
/// When the collector then leaves a flow.
#[track_caller]
pub fn forgets(memory: &Memory) {
    memory.sleep(1_000_000);
    collect(memory);
    assert_eq!(flows(memory), [], "what nobody uses is forgotten");
}
