//! Nanoseconds per packet of each path, measured by the kernel (BPF_PROG_TEST_RUN): `cargo xtask bench`.
//!
//! A run of the kernel's repeats a program on one packet, which the program changes. So the hits
//! that translate are measured on pairs of flows that turn each other's packets back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use netbpf_common::abi::{Config, Flow, FlowKey, Scope, Stamp, TargetKind, Word, generation, program};
use netbpf_common::path::V4;
use netbpf_common::wire::checksum::Sum;
use netbpf_common::wire::{Be16, V4Addr, tcp_flags};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::kernel::Kernel;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world::{self, C1, C2, GATEWAY_MAC, GENERATION, MTU, OUTSIDE_MAC, UPLINK, UPLINK_MAC};

/// The family that is measured.
type F = V4;

/// Runs of one packet: fewer than the hops it has to live.
const REPEAT: u32 = 200;
const TTL: u8 = 255;
const ROUNDS: usize = 301;
/// Flows made to measure a miss.
const MISSES: u16 = 2000;
const UDP: u8 = 17;
const PAYLOAD: &[u8] = &[0; 18];

const TC_ACT_SHOT: i32 = 2;

fn main() -> Result<()> {
    let kernel = Kernel::new(131_072, 16_384)?;
    println!("{:<44} {:>9} {:>9} {:>9}", "ns per packet (60 bytes, UDP)", "median", "min", "p90");

    let at = |address, port| SocketAddr::new(address, port);
    let routed = Ethernet { from: C1.mac, to: GATEWAY_MAC };
    let arriving = Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC };
    let from_host = Ethernet { from: GATEWAY_MAC, to: GATEWAY_MAC };
    let egress = Hook::Egress(C1.device());

    // What running anything costs: a tagged frame is passed on at the first look.
    let tagged = arriving.tagged_udp(7, at(F::OUTSIDE, 1), at(F::HOST, 2), PAYLOAD);
    let nothing = repeated(&kernel, "uplink, tagged frame: the harness", Hook::Uplink, &tagged)?;
    let foreign = arriving.segment(at(F::OUTSIDE, 40_000), at(F::HOST, 22), tcp_flags::ACK, TTL, b"");
    repeated(&kernel, "uplink, traffic of the host: passed", Hook::Uplink, &foreign)?;

    let neighbours =
        Ethernet { from: C1.mac, to: C2.mac }.datagram(at(C1.ip::<F>(), 20_000), at(C2.ip::<F>(), 7), TTL, PAYLOAD);
    kernel.run(egress, &neighbours, 1)?;
    repeated(&kernel, "egress hit, container to container", egress, &neighbours)?;

    let segment = Ethernet { from: C1.mac, to: C2.mac }.segment(
        at(C1.ip::<F>(), 20_000),
        at(C2.ip::<F>(), 7),
        tcp_flags::ACK,
        TTL,
        PAYLOAD,
    );
    kernel.run(egress, &segment, 1)?;
    repeated(&kernel, "egress hit, container to container, TCP", egress, &segment)?;

    // The crafted flows below have no route that could be looked up again: let none grow old.
    let config = kernel.datapath.maps.config.get(0)?.context("the settings are there")?;
    kernel.datapath.maps.config.set(0, Config { hz: u32::MAX, ..config })?;

    let endpoint = Way { kind: TargetKind::Endpoint, target: C1.slot, source: 0 };
    let outside = Way { kind: TargetKind::World, target: UPLINK, source: GENERATION };
    pair(&kernel, Scope::Container, at(C1.ip::<F>(), 20_000), F::FAR, [53, 54], &outside)?;
    let out = routed.datagram(at(C1.ip::<F>(), 20_000), at(F::FAR, 53), TTL, PAYLOAD);
    repeated(&kernel, "egress hit, masquerade", egress, &out)?;

    pair(&kernel, Scope::Uplink, at(F::OUTSIDE, 40_000), F::HOST, [20_000, 20_001], &endpoint)?;
    let inwards = arriving.datagram(at(F::OUTSIDE, 40_000), at(F::HOST, 20_000), TTL, PAYLOAD);
    repeated(&kernel, "uplink hit, published port", Hook::Uplink, &inwards)?;

    pair(&kernel, Scope::Host, at(F::GATEWAY, 45_000), C1.ip::<F>(), [80, 81], &endpoint)?;
    let from = from_host.datagram(at(F::GATEWAY, 45_000), at(C1.ip::<F>(), 80), TTL, PAYLOAD);
    repeated(&kernel, "host hit, published port", Hook::Host, &from)?;

    println!();
    println!("{:<44} {:>9} {:>9} {:>9}", "ns per new flow (one run each)", "median", "min", "p90");
    kernel.datapath.maps.config.set(0, config)?;
    single(&kernel, "the harness", Hook::Uplink, |_| tagged.clone())?;
    single(&kernel, "egress miss, container to container", egress, |port| {
        Ethernet { from: C1.mac, to: C2.mac }.datagram(at(C1.ip::<F>(), port), at(C2.ip::<F>(), 9), TTL, PAYLOAD)
    })?;
    single(&kernel, "egress miss, masquerade", egress, |port| {
        routed.datagram(at(C1.ip::<F>(), port), at(F::FAR, 123), TTL, PAYLOAD)
    })?;
    single(&kernel, "uplink miss, published port", Hook::Uplink, |port| {
        arriving.datagram(at(F::OUTSIDE, port), at(F::HOST, 5353), TTL, PAYLOAD)
    })?;
    single(&kernel, "host miss, container's address", Hook::Host, |port| {
        from_host.datagram(at(F::GATEWAY, port), at(C1.ip::<F>(), 53), TTL, PAYLOAD)
    })?;

    collecting()?;

    println!();
    println!("{:<16} {:>12} {:>12} {:>12}", "program", "instructions", "walked", "bytes jited");
    for info in aya::programs::loaded_programs() {
        let info = info?;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        if program::SOCKET.contains(&name.as_str())
            || [program::EGRESS, program::UPLINK, program::HOST, program::COLLECT_V4].contains(&name.as_str())
        {
            // Eight bytes per instruction (include/uapi/linux/bpf.h).
            let instructions = info.size_translated().unwrap_or(0) / 8;
            println!(
                "{name:<16} {instructions:>12} {:>12} {:>12}",
                info.verified_instruction_count().unwrap_or(0),
                info.size_jitted()
            );
        }
    }
    println!();
    println!("The harness costs {nothing} ns of each hit.");
    Ok(())
}

/// Flows that are past their time in the table of the next measurement.
const MILLION: u32 = 1_000_000;

/// How long it takes to collect a million flows, and what a packet that comes meanwhile notices.
fn collecting() -> Result<()> {
    let kernel = Kernel::new(MILLION + 1024, 16_384)?;
    let maps = &kernel.datapath.maps;
    let (mut keys, mut flows) = (Vec::new(), Vec::new());
    for number in 0..MILLION {
        let client = V4Addr::from(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let original = FlowKey::new(Scope::Uplink, UDP, client, Be16::new(4000), F::addr(F::HOST), Be16::new(5353));
        let reply = FlowKey::new(Scope::Container, UDP, F::addr(C2.ip::<F>()), Be16::new(53), client, Be16::new(4000));
        let flow = Flow {
            word: Word::half(u64::from(number) + 1).with(Word::REPLIED).established(),
            key: original,
            other: reply,
            target_kind: TargetKind::Endpoint as u8,
            target: C2.slot,
            target_generation: GENERATION,
            payer: C2.slot,
            ..Flow::default()
        };
        let back = Flow { key: reply, other: original, is_reply: 1, target_kind: TargetKind::World as u8, ..flow };
        keys.extend([original, reply]);
        flows.extend([flow, back]);
        if keys.len() >= 8192 || number + 1 == MILLION {
            maps.v4.flows.set_all(&keys, &flows)?;
            keys.clear();
            flows.clear();
        }
    }
    ensure!(maps.v4.flows.count()? == 2 * MILLION as usize, "the table holds them all");

    let neighbours = Ethernet { from: C1.mac, to: C2.mac }.datagram(
        SocketAddr::new(C1.ip::<F>(), 20_000),
        SocketAddr::new(C2.ip::<F>(), 7),
        TTL,
        PAYLOAD,
    );
    let egress = Hook::Egress(C1.device());
    let hit = |kernel: &Kernel| Ok::<_, anyhow::Error>(kernel.run(egress, &neighbours, 1)?.duration.as_nanos());
    let mut quiet = Vec::new();
    for _ in 0..20_000 {
        quiet.push(hit(&kernel)?);
    }
    let over = AtomicBool::new(false);
    // Programs of its own on the same maps: runs of one set take turns.
    let sibling = kernel.sibling()?;
    let (took, busy) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                times.push(hit(&sibling)?);
            }
            Ok::<_, anyhow::Error>(times)
        });
        let started = Instant::now();
        let collected = (|| {
            let mut collected = 0;
            maps.v4.flows.each(|keys, flows| {
                let originals = keys.iter().zip(flows).filter(|(_, flow)| flow.is_reply == 0);
                let originals: Vec<_> = originals.map(|(key, _)| *key).collect();
                collected += kernel.datapath.collect(&originals)?;
                Ok(())
            })?;
            ensure!(collected >= MILLION, "only {collected} were collected");
            Ok(started.elapsed())
        })();
        over.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>((collected?, traffic.join().expect("no panic")?))
    })?;
    println!();
    println!("a million flows are collected in {} ms; a hit meanwhile, on the other CPU:", took.as_millis());
    println!("{:<44} {:>9} {:>9} {:>9}", "ns per run", "median", "p99", "max");
    for (name, mut times) in [("before", quiet), ("while they are collected", busy)] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1000];
        println!("{name:<44} {:>9} {:>9} {:>9}", at(500), at(990), at(1000));
    }
    Ok(())
}

/// Where packets of a crafted flow go.
struct Way {
    kind: TargetKind,
    target: u32,
    source: u32,
}

/// Two flows that lead to each other's port and back.
fn pair(kernel: &Kernel, scope: Scope, from: SocketAddr, to: IpAddr, ports: [u16; 2], way: &Way) -> Result<()> {
    let (src, dst) = (F::addr(from.ip()), F::addr(to));
    let key = |port| FlowKey::new(scope, UDP, src, Be16::new(from.port()), dst, Be16::new(port));
    for (id, [port, other]) in [ports, [ports[1], ports[0]]].into_iter().enumerate() {
        let sum = |port| Sum::ZERO.add16(Be16::new(port));
        let flow = Flow {
            word: Word::half(id as u64 + 1).with(Word::REPLIED).established(),
            other: key(other).reversed(scope),
            port_delta: sum(other).delta_from(sum(port)),
            owner: Stamp { slot: generation::ALWAYS, generation: 0 },
            next_hop: world::neighbour(F::OUTSIDE),
            key: key(port),
            target: if way.kind == TargetKind::World { 0 } else { way.target },
            uplink: if way.kind == TargetKind::World { way.target } else { 0 },
            target_generation: if way.kind == TargetKind::Endpoint { GENERATION } else { 0 },
            source_generation: way.source,
            mtu: MTU,
            target_kind: way.kind as u8,
            ..Flow::default()
        };
        kernel.datapath.maps.v4.flows.set(key(port), flow)?;
    }
    Ok(())
}

/// Time of one packet, out of many runs on it; the median.
fn repeated(kernel: &Kernel, name: &str, hook: Hook, frame: &[u8]) -> Result<u128> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let run = kernel.run(hook, frame, REPEAT)?;
        ensure!(run.returned as i32 != TC_ACT_SHOT, "{name}: the packet was dropped");
        times.push(run.duration.as_nanos());
    }
    Ok(print(name, times))
}

/// Time of one packet, each of another flow.
fn single(kernel: &Kernel, name: &str, hook: Hook, frame: impl Fn(u16) -> Vec<u8>) -> Result<u128> {
    kernel.forget_flows()?;
    let mut times = Vec::with_capacity(MISSES.into());
    for port in world::NAT_FIRST..world::NAT_FIRST + MISSES {
        let run = kernel.run(hook, &frame(port), 1)?;
        ensure!(run.returned as i32 != TC_ACT_SHOT, "{name}: the packet was dropped");
        times.push(run.duration.as_nanos());
    }
    Ok(print(name, times))
}

fn print(name: &str, mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("{name:<44} {median:>9} {:>9} {:>9}", times[0], times[times.len() * 9 / 10]);
    median
}
