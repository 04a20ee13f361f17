//! What holds of every frame that meets a path, whatever it says.

use std::net::Ipv4Addr;

use etherparse::SlicedPacket;
use netbpf_common::abi::Event;
use netbpf_common::path::Verdict;
use netbpf_common::wire::V4Addr;

use crate::fixture::Hook;
use crate::frame::Frame;
use crate::journey::{
    Arrival, collect, container_of, finish_checksum, flows, is_header_sound, is_transport_sound, travel,
};
use crate::memory::Memory;
use crate::world::GATEWAY_MAC;

const ETHERNET: usize = 14;
/// Offsets of the addresses in the frame.
const SOURCE: usize = 26;
const DESTINATION: usize = 30;

/// Sends any frame; what came of it. What goes on must be a packet whose checksums are no worse than they were, and
/// what is passed on must be as it was.
///
/// # Panics
/// When that is not so, or a flow is not whole.
pub fn survives(memory: &Memory, hook: Hook, mut frame: Frame) -> Arrival {
    let answers = || [Event::ResetMade, Event::IcmpMade, Event::ArpAnswered].map(|event| memory.events(event));
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
        }
        _ if after != before => {
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
    assert_eq!(arrived.len(), sent.len());
    let total = usize::from(u16::from_be_bytes([arrived[16], arrived[17]]));
    assert!((20..=arrived.len() - ETHERNET).contains(&total));
    assert_eq!(is_header_sound(arrived), is_header_sound(sent), "{arrived:x?}");
    assert_eq!(is_transport_sound(arrived), is_transport_sound(sent), "{arrived:x?}");
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&arrived[at..at + 4]).expect("four bytes"));
    match verdict {
        Verdict::Neighbour { .. } => {
            let source = address(SOURCE);
            let is_host = memory.locals.contains_key(&V4Addr::from(source)) && !source.is_loopback();
            assert!(is_host, "{source} on the wire");
        }
        Verdict::Peer { ifindex } | Verdict::Device { ifindex } => {
            let container = container_of(ifindex);
            assert_eq!(
                (&arrived[..6], address(DESTINATION)),
                (&container.mac[..], container.ip),
                "delivered to another"
            );
        }
        Verdict::Ingress { .. } => assert_eq!(&arrived[..6], GATEWAY_MAC),
        Verdict::Pass | Verdict::Drop(_) | Verdict::Done => {}
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
