//! Nanoseconds per packet of each path, measured by the kernel (BPF_PROG_TEST_RUN): `cargo xtask bench programs`.
//!
//! A run of the kernel's repeats a program on one packet, which the program changes. So the hits
//! that translate are measured on pairs of flows that turn each other's packets back.

mod aims;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use netbpf_common::abi::{Config, Flow, FlowKey, Scope, Stamp, TargetKind, Word, generation, program};
use netbpf_common::path::{V4, V6};
use netbpf_common::wire::checksum::Sum;
use netbpf_common::wire::{Be16, V4Addr, tcp_flags};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::kernel::Kernel;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world::{self, C1, C2, GATEWAY_MAC, GENERATION, MTU, OUTSIDE_MAC, UPLINK, UPLINK_MAC};
use netbpf_user::datapath::InFamily;

pub(crate) use self::aims::{Path, slices};

/// Runs of one packet: fewer than the hops it has to live.
const REPEAT: u32 = 200;
const TTL: u8 = 255;
const ROUNDS: usize = 301;
/// Flows made to measure a miss.
const MISSES: u16 = 2000;
const UDP: u8 = 17;
const PAYLOAD: &[u8] = &[0; 18];

const TC_ACT_SHOT: i32 = 2;

/// Measures and prints.
pub(crate) fn measure() -> Result<()> {
    let kernel = Kernel::new(131_072, 16_384)?;
    // A frame that is passed on at the first look.
    let tagged = ARRIVING.tagged_udp(7, at(V4::OUTSIDE, 1), at(V4::HOST, 2), PAYLOAD);
    let nothing = repeated(&kernel, Hook::Uplink, &tagged)?;

    headline("ns per packet (18 bytes of UDP)", ["IPv4", "IPv6"]);
    in_both([hits::<V4>(&kernel)?, hits::<V6>(&kernel)?]);
    println!();
    headline("ns per new flow (one run each)", ["IPv4", "IPv6"]);
    let harness = single(&kernel, Hook::Uplink, |_| tagged.clone())?;
    in_both([misses::<V4>(&kernel)?, misses::<V6>(&kernel)?]);
    println!();
    println!("The harness costs {} ns of each hit, and {} ns of each new flow.", nothing.median, harness.median);

    collecting()?;

    println!();
    println!("{:<16} {:>12} {:>12} {:>12}", "program", "instructions", "walked", "bytes jited");
    for info in aya::programs::loaded_programs() {
        let info = info?;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let paths = [program::EGRESS, program::UPLINK, program::HOST, program::COLLECT_V4, program::COLLECT_V6];
        // The kernel keeps the first fifteen bytes of a name.
        let is = |whole: &&str| whole.get(..15).unwrap_or(whole) == name;
        if program::SOCKET.iter().chain(&program::PARTS).chain(&paths).any(is) {
            // Eight bytes per instruction (include/uapi/linux/bpf.h).
            let instructions = info.size_translated().unwrap_or(0) / 8;
            println!(
                "{name:<16} {instructions:>12} {:>12} {:>12}",
                info.verified_instruction_count().unwrap_or(0),
                info.size_jitted()
            );
        }
    }
    Ok(())
}

/// How a container's frames to the world are addressed.
const ROUTED: Ethernet = Ethernet { from: C1.mac, to: GATEWAY_MAC };
/// How frames from outside are addressed.
const ARRIVING: Ethernet = Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC };
/// How frames of the host to containers are addressed.
const FROM_HOST: Ethernet = Ethernet { from: GATEWAY_MAC, to: GATEWAY_MAC };
/// How a container's frames to its neighbour are addressed.
const NEIGHBOURS: Ethernet = Ethernet { from: C1.mac, to: C2.mac };
const FOREIGN: &str = "uplink, traffic of the host: passed";
const NEIGHBOUR: &str = "egress hit, container to container";
const MASQUERADE: &str = "egress hit, masquerade";
const PUBLISHED: &str = "uplink hit, published port";
/// Where a container's frames come in.
const EGRESS: Hook = Hook::Egress(C1.device());

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// What was measured, by what it is.
type Measured = Vec<(&'static str, Times)>;

/// A packet at a hook.
struct Case {
    name: &'static str,
    hook: Hook,
    frame: Vec<u8>,
}

/// Packets of flows that are known, and one of the host's. The settings are such that no route grows old: the flows that are made here have
/// none that could be looked up again.
fn cases<F: TestFamily<Addr: InFamily>>(kernel: &Kernel) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut case = |name, hook, frame| cases.push(Case { name, hook, frame });
    case(FOREIGN, Hook::Uplink, ARRIVING.segment(at(F::OUTSIDE, 40_000), at(F::HOST, 22), tcp_flags::ACK, TTL, b""));

    let (from, to) = (at(C1.ip::<F>(), 20_000), at(C2.ip::<F>(), 7));
    let datagram = NEIGHBOURS.datagram(from, to, TTL, PAYLOAD);
    kernel.run(EGRESS, &datagram, 1)?;
    case(NEIGHBOUR, EGRESS, datagram);
    let segment = NEIGHBOURS.segment(from, to, tcp_flags::ACK, TTL, PAYLOAD);
    kernel.run(EGRESS, &segment, 1)?;
    case("egress hit, container to container, TCP", EGRESS, segment);

    let config = kernel.datapath.maps.config.get(0)?.context("the settings are there")?;
    kernel.datapath.maps.config.set(0, Config { hz: u32::MAX, ..config })?;
    let endpoint = Way { kind: TargetKind::Endpoint, target: C1.slot, source: 0 };
    let outside = Way { kind: TargetKind::World, target: UPLINK, source: GENERATION };

    pair::<F>(kernel, Scope::Container, at(C1.ip::<F>(), 20_000), F::FAR, [53, 54], &outside)?;
    case(MASQUERADE, EGRESS, ROUTED.datagram(at(C1.ip::<F>(), 20_000), at(F::FAR, 53), TTL, PAYLOAD));

    pair::<F>(kernel, Scope::Uplink, at(F::OUTSIDE, 40_000), F::HOST, [20_000, 20_001], &endpoint)?;
    case(PUBLISHED, Hook::Uplink, ARRIVING.datagram(at(F::OUTSIDE, 40_000), at(F::HOST, 20_000), TTL, PAYLOAD));

    pair::<F>(kernel, Scope::Host, at(F::GATEWAY, 45_000), C1.ip::<F>(), [80, 81], &endpoint)?;
    let from = FROM_HOST.datagram(at(F::GATEWAY, 45_000), at(C1.ip::<F>(), 80), TTL, PAYLOAD);
    case("host hit, published port", Hook::Host, from);
    Ok(cases)
}

fn hits<F: TestFamily<Addr: InFamily>>(kernel: &Kernel) -> Result<Measured> {
    let config = kernel.datapath.maps.config.get(0)?.context("the settings are there")?;
    let measure = |case: &Case| Ok((case.name, repeated(kernel, case.hook, &case.frame).context(case.name)?));
    let measured = cases::<F>(kernel)?.iter().map(measure).collect();
    kernel.datapath.maps.config.set(0, config)?;
    measured
}

/// Packets that open flows.
fn misses<F: TestFamily<Addr: InFamily>>(kernel: &Kernel) -> Result<Measured> {
    let (c1, c2) = (C1.ip::<F>(), C2.ip::<F>());
    Ok(vec![
        (
            "egress miss, container to container",
            single(kernel, EGRESS, |port| NEIGHBOURS.datagram(at(c1, port), at(c2, 9), TTL, PAYLOAD))?,
        ),
        (
            "egress miss, masquerade",
            single(kernel, EGRESS, |port| ROUTED.datagram(at(c1, port), at(F::FAR, 123), TTL, PAYLOAD))?,
        ),
        (
            "uplink miss, published port",
            single(kernel, Hook::Uplink, |port| {
                ARRIVING.datagram(at(F::OUTSIDE, port), at(F::HOST, 5353), TTL, PAYLOAD)
            })?,
        ),
        (
            "host miss, container's address",
            single(kernel, Hook::Host, |port| FROM_HOST.datagram(at(F::GATEWAY, port), at(c1, 53), TTL, PAYLOAD))?,
        ),
    ])
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
        let original = FlowKey::new(Scope::Uplink, UDP, client, Be16::new(4000), V4::addr(V4::HOST), Be16::new(5353));
        let reply =
            FlowKey::new(Scope::Container, UDP, V4::addr(C2.ip::<V4>()), Be16::new(53), client, Be16::new(4000));
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

    let neighbours = NEIGHBOURS.datagram(at(C1.ip::<V4>(), 20_000), at(C2.ip::<V4>(), 7), TTL, PAYLOAD);
    let hit = |kernel: &Kernel| Ok::<_, anyhow::Error>(kernel.run(EGRESS, &neighbours, 1)?.duration.as_nanos());
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
fn pair<F: TestFamily<Addr: InFamily>>(
    kernel: &Kernel,
    scope: Scope,
    from: SocketAddr,
    to: IpAddr,
    ports: [u16; 2],
    way: &Way,
) -> Result<()> {
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
        F::Addr::maps(&kernel.datapath.maps).flows.set(key(port), flow)?;
    }
    Ok(())
}

/// Nanoseconds, out of many.
#[derive(Clone, Copy, Debug)]
struct Times {
    median: u128,
    least: u128,
    p90: u128,
}

impl Times {
    fn new(mut times: Vec<u128>) -> Self {
        times.sort_unstable();
        Self { median: times[times.len() / 2], least: times[0], p90: times[times.len() * 9 / 10] }
    }
}

/// Time of one packet, out of many runs on it.
fn repeated(kernel: &Kernel, hook: Hook, frame: &[u8]) -> Result<Times> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let run = kernel.run(hook, frame, REPEAT)?;
        ensure!(run.returned as i32 != TC_ACT_SHOT, "the packet was dropped");
        times.push(run.duration.as_nanos());
    }
    Ok(Times::new(times))
}

/// Time of one packet, each of another flow.
fn single(kernel: &Kernel, hook: Hook, frame: impl Fn(u16) -> Vec<u8>) -> Result<Times> {
    kernel.forget_flows()?;
    let mut times = Vec::with_capacity(MISSES.into());
    for port in world::NAT_FIRST..world::NAT_FIRST + MISSES {
        let run = kernel.run(hook, &frame(port), 1)?;
        ensure!(run.returned as i32 != TC_ACT_SHOT, "the packet was dropped");
        times.push(run.duration.as_nanos());
    }
    Ok(Times::new(times))
}

fn headline(what: &str, families: [&str; 2]) {
    print!("{what:<40}");
    for family in families {
        print!(" {:>8} {:>8} {:>8}", format!("{family} med"), "min", "p90");
    }
    println!();
}

/// Prints what was measured in both families, side by side.
fn in_both([ours, theirs]: [Measured; 2]) {
    for ((name, v4), (_, v6)) in ours.into_iter().zip(theirs) {
        print!("{name:<40}");
        for Times { median, least, p90 } in [v4, v6] {
            print!(" {median:>8} {least:>8} {p90:>8}");
        }
        println!();
    }
}
