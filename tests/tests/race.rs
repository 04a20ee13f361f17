//! Tier 1: the protocol of the flow table on two CPUs of the real kernel. One makes flows, and so
//! evicts the oldest; another lets replies and confirmations arrive for just those that are about to
//! be evicted, and has them collected as well.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use netbpf_common::abi::{Event, Flow, FlowKey, Life, Scope, Timeout, program};
use netbpf_tests::family::TestFamily;
use netbpf_tests::fixture::Hook;
use netbpf_tests::for_both;
use netbpf_tests::journey::{Speech, Tuple, originals};
use netbpf_tests::kernel::Kernel;
use netbpf_tests::packet::Ethernet;
use netbpf_tests::world::{C2, GATEWAY_MAC, OUTSIDE_MAC, UPLINK_MAC};
use netbpf_user::datapath::InFamily;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

for_both!(evictors_confirmations_and_the_collector_leave_no_half_flow);

/// Slots of each CPU's ring.
const RING: u32 = 256;
/// Flows made while the race is on.
const FLOWS: u32 = 60_000;
/// Flows made afterwards, ten times the half-open ones that there can be.
const FLOOD: u32 = 20 * RING;
const TTL: u8 = 64;

/// The packet that opens a flow, and later confirms it.
fn question<F: TestFamily>(number: u32) -> Vec<u8> {
    let arriving = Ethernet { from: OUTSIDE_MAC, to: UPLINK_MAC };
    arriving.datagram(F::client(number), F::DNS, TTL, b"?")
}

fn answer<F: TestFamily>(number: u32) -> Vec<u8> {
    let leaving = Ethernet { from: C2.mac, to: GATEWAY_MAC };
    leaving.datagram(SocketAddr::new(C2.ip::<F>(), 53), F::client(number), TTL, b"!")
}

fn original<F: TestFamily>(number: u32) -> FlowKey<F::Addr> {
    Tuple::new(Speech::Udp, F::client(number), F::DNS).key::<F>(Scope::Uplink)
}

fn pin_to(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU's number is small");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("the test needs two CPUs");
}

fn entries<A: InFamily>(kernel: &Kernel) -> HashMap<FlowKey<A>, Flow<A>> {
    A::maps(&kernel.datapath.maps).flows.entries().expect("the table is readable").into_iter().collect()
}

fn established<A: InFamily>(entries: &HashMap<FlowKey<A>, Flow<A>>) -> HashSet<FlowKey<A>> {
    let originals = entries.iter().filter(|(_, flow)| flow.is_reply == 0 && flow.word.life() == Life::Established);
    originals.map(|(key, _)| *key).collect()
}

fn evictors_confirmations_and_the_collector_leave_no_half_flow<F: TestFamily<Addr: InFamily>>() {
    // One race at a time: there are two CPUs for it.
    static CPUS: Mutex<()> = Mutex::new(());
    let _cpus = CPUS.lock().expect("the other race has no complaint");
    let kernel = Kernel::new(2 * FLOWS, RING).expect("the object loads");
    let maps = &kernel.datapath.maps;
    let mut config = maps.config.get(0).expect("readable").expect("there");
    // The collector takes whatever is not confirmed and has been silent for one tick.
    config.timeouts[Timeout::UdpUnreplied as usize] = 0;
    // One container pays for all of them: it may have as many as the table holds.
    config.flow_limit = FLOWS;
    maps.config.set(0, config).expect("writable");

    let made = AtomicU32::new(0);
    let over = AtomicBool::new(false);
    let start = Barrier::new(2);
    let run = |hook, frame: &[u8]| kernel.run(hook, frame, 1).expect("the kernel takes the frame");
    thread::scope(|scope| {
        let opponent = scope.spawn(|| {
            pin_to(1);
            // Programs of its own on the same maps: runs of one set take turns.
            let datapath = kernel.sibling().expect("the object loads twice");
            start.wait();
            let mut behind = RING;
            while !over.load(Ordering::Acquire) {
                let newest = made.load(Ordering::Acquire);
                // From a little before the flow that is evicted next to a little after it.
                behind = if behind < RING - 8 { RING + 4 } else { behind - 1 };
                let Some(number) = newest.checked_sub(behind) else { continue };
                datapath.run(Hook::Egress(C2.device()), &answer::<F>(number), 1).expect("the kernel takes the frame");
                if number % 3 != 0 {
                    datapath.run(Hook::Uplink, &question::<F>(number), 1).expect("the kernel takes the frame");
                }
                if number % 5 == 0 {
                    let keys = [original::<F>(number), original::<F>(number + 1)];
                    datapath.datapath.collect(&keys).expect("the collector runs");
                }
            }
        });
        pin_to(0);
        start.wait();
        for number in 0..FLOWS {
            run(Hook::Uplink, &question::<F>(number));
            made.store(number, Ordering::Release);
        }
        over.store(true, Ordering::Release);
        opponent.join().expect("the opponent has no complaint");
    });

    let after_race = entries::<F::Addr>(&kernel);
    originals::<F>(&after_race);
    let count = |event: Event| kernel.counter(event as u32).expect("counters are readable");
    let alive = count(Event::FlowMade) - count(Event::FlowEvicted) - count(Event::FlowCollected);
    assert_eq!(after_race.len() as u64, 2 * alive, "what was made is there, evicted or collected");
    let confirmed = established(&after_race);
    println!(
        "{} made, {} evicted, {} collected, {} confirmed, {} swaps lost",
        count(Event::FlowMade),
        count(Event::FlowEvicted),
        count(Event::FlowCollected),
        confirmed.len(),
        count(Event::SwapLost)
    );
    assert!(count(Event::FlowMade) >= u64::from(FLOWS), "flows were refused");
    assert!(confirmed.len() > 100, "only {} flows were confirmed: there was no race", confirmed.len());
    assert!(count(Event::FlowEvicted) > 100, "hardly any flow was evicted: there was no race");
    assert!(count(Event::FlowCollected) > 0, "no flow was collected: there was no race");

    for number in FLOWS..FLOWS + FLOOD {
        run(Hook::Uplink, &question::<F>(number));
    }
    let after_flood = entries::<F::Addr>(&kernel);
    originals::<F>(&after_flood);
    let lost: Vec<_> = confirmed.difference(&established(&after_flood)).copied().collect();
    assert!(lost.is_empty(), "a flood took {} confirmed flows, {:?} first", lost.len(), lost.first());
    let half_open = after_flood.len() as u64 / 2 - confirmed.len() as u64;
    let cpus = aya::util::nr_cpus().expect("countable") as u64;
    assert!(half_open <= u64::from(RING) * cpus, "{half_open} half-open flows, more than the rings hold");
    let table_full = kernel.counter(netbpf_common::abi::DropReason::TableFull as u32).expect("readable");
    assert_eq!(table_full, 0, "the table never fills with half-open flows ({})", program::UPLINK);
}
