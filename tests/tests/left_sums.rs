//! Tier 0: packets of containers whose checksum the device is to write at a place of the sender's choice.

use netbpf_common::abi::{DropReason, GatewayMode};
use netbpf_common::path::Verdict;
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::gateway::world;
use netbpf_tests::headers::Headers;
use netbpf_tests::journey::{Speech, TTL, frame_on, link_on, travel};
use netbpf_tests::memory::Memory;
use netbpf_tests::talk::{at, egress, peer};
use netbpf_tests::world::{C1, C2, UPLINK, neighbour};

for_both!(
    what_goes_to_the_world_has_its_checksum_in_the_transport_where_no_header_shows_damage,
    what_stays_here_goes_on_wherever_its_checksum_is_written,
);

/// What may be said, and where its checksum lies in the header of the transport.
const SPEECHES: [(Speech, u32); 3] = [(Speech::SYN, 16), (Speech::Udp, 6), (Speech::Ping, 2)];

fn goes(memory: &Memory, hook: Hook, bytes: Vec<u8>, summed_at: u32) -> Verdict {
    let mut frame = frame_on(hook, bytes);
    frame.summed_at = Some(summed_at);
    travel(memory, hook, &mut frame)
}

fn what_goes_to_the_world_has_its_checksum_in_the_transport_where_no_header_shows_damage<F: TestFamily>() {
    let leaves = Verdict::Neighbour { ifindex: UPLINK, next_hop: neighbour(F::OUTSIDE) };
    for mode in [GatewayMode::Masquerade, GatewayMode::Routed, GatewayMode::Prefix] {
        for (speech, checksum) in SPEECHES {
            let to = if speech == Speech::Ping { F::PINGED } else { F::SERVER };
            let bytes = speech.frame(link_on(egress(C1)), at(C1.ip::<F>(), 20_000), to, TTL, b"odd");
            let place = Headers::read(&bytes).expect("IP").transport.start as u32 + checksum;
            for summed_at in 20..place + 4 {
                let verdict = goes(&world(mode), egress(C1), bytes.clone(), summed_at);
                // An IPv4 header is seen to be damaged by who gets it.
                let expected = if summed_at >= place || F::HOST.is_ipv4() { leaves } else { MALFORMED };
                assert_eq!(verdict, expected, "{mode:?}: {speech:?} summed up at {summed_at}");
            }
        }
    }
}

const MALFORMED: Verdict = Verdict::Drop(DropReason::Malformed);

fn what_stays_here_goes_on_wherever_its_checksum_is_written<F: TestFamily>() {
    // No device writes on the way: the receiver sees who it is from.
    let bytes = Speech::Udp.frame(link_on(egress(C1)), at(C1.ip::<F>(), 20_000), at(C2.ip::<F>(), 53), TTL, b"odd");
    for summed_at in [20, 30, 50] {
        let verdict = goes(&world(GatewayMode::Masquerade), egress(C1), bytes.clone(), summed_at);
        assert_eq!(verdict, peer(C2), "summed up at {summed_at}");
    }
}
