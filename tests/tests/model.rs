//! Tier 0: the protocol of the flow table, model-checked: three CPUs that can be interrupted at every access to what
//! they share, whole packets through whole paths, and slots of the table that are used again at once.
//!
//! A failure prints the seed and the schedule, and what each CPU did. `SHUTTLE_RANDOM_SEED` sets another seed.

use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netbpf_common::abi::{Event, FlowKey, Life, PublishedPort, Rule, Scope, Timeout, Transport, generation};
use netbpf_common::path::{Verdict, collect::collect};
use netbpf_tests::for_both;
use netbpf_tests::headers::{is_header_sound, is_transport_sound};
use netbpf_tests::journey::{Arrival, Speech, Tuple};
use netbpf_tests::shared::{Conditions, Cpu, Flaw, Grain, Part, Pooled, Reuse, Shared, Versions};
use netbpf_tests::talk::{Talk, at, peer};
use netbpf_tests::world::{C1, C2, Container, GENERATION, HZ, NAT_FIRST, NAT_LAST, UPLINK};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

for_both!(
    a_flow_that_two_cpus_open_and_a_third_evicts_is_whole_or_not_there,
    a_flow_that_is_confirmed_is_taken_neither_by_the_ring_nor_by_the_collector,
    a_flow_that_comes_back_to_life_lives_or_is_opened_anew,
    a_port_that_is_led_elsewhere_leads_nobody_back,
    a_port_that_two_containers_want_has_one_owner_at_a_time,
    a_slot_that_is_used_again_gives_nobody_the_rewrite_of_another_flow,
    a_confirmation_and_a_collector_agree_in_one_half_of_all_orders_there_are,
    a_confirmation_and_a_collector_agree_in_the_other_half,
    two_collectors_do_not_end_a_flow_twice,
    a_swap_in_two_steps_is_seen,
    a_flow_that_is_deleted_by_who_lost_the_swap_is_seen,
    an_insert_that_replaces_is_seen,
    a_word_that_is_stored_into_whatever_an_entry_has_become_is_seen,
);

/// Where schedules begin.
const SEED: u64 = 0x6e65_7462_7066;
/// Schedules of each kind for a scenario that must hold.
const SCHEDULES: usize = 300;
/// Changes of priority in a schedule (PCT): a defect that takes as many orderings to show is found.
const DEPTH: usize = 3;
/// A port that containers use when they speak to the world.
const NAT_PORT: u16 = 20_000;
/// What a path needs in a debug build.
const STACK: usize = 256 * 1024;

const SOUND: Conditions = Conditions { reuse: Reuse::AtOnce, grain: Grain::Word, flaw: None };

/// Slots of the flow table: so many that none is taken twice under [`Reuse::Late`].
const ENTRIES: usize = 32;
/// The rule of [`DNS`], and the number of the one that takes over from it.
const DNS_RULE: u32 = 2;
const NEXT_RULE: u32 = 9;

/// Three CPUs meet, and what must hold then does. The first CPU is the one that prepares the meeting.
type Scenario = fn(Conditions);

fn run(scheduler: impl Scheduler + 'static, conditions: Conditions, scenario: Scenario) -> usize {
    let mut config = Config::new();
    config.stack_size = STACK;
    Runner::new(scheduler, config).run(move || scenario(conditions))
}

fn check(conditions: Conditions, scenario: Scenario) {
    search(conditions, scenario, SCHEDULES);
}

fn search(conditions: Conditions, scenario: Scenario, schedules: usize) {
    run(PctScheduler::new_from_seed(SEED, DEPTH, schedules), conditions, scenario);
    run(RandomScheduler::new_from_seed(SEED, schedules), conditions, scenario);
}

// --- What a correct table would say ---

/// A client's question to a service, and where it may end. Whom the container saw, if it did.
#[track_caller]
fn ask<F: Pooled>(
    cpu: &Cpu,
    number: u32,
    service: SocketAddr,
    speech: Speech,
    may_reach: &[(Container, u16)],
) -> Option<Tuple> {
    let asked = Talk::from_outside(cpu, F::client(number), service).say(speech);
    asked.way_back()?;
    assert_sound(&asked);
    let seen = asked.tuple();
    let reached = may_reach.iter().find(|(container, port)| seen.to == at(container.ip::<F>(), *port));
    let Some((container, _)) = reached else { panic!("client {number} at {service} has reached {seen:?}") };
    assert_eq!(asked.verdict, peer(*container), "client {number} at {service}");
    assert_eq!(asked.bytes[..6], container.mac);
    assert_eq!(seen.from.ip(), F::client(number).ip(), "another client at {service}");
    let port = seen.from.port();
    assert!(port == F::client(number).port() || (NAT_FIRST..=NAT_LAST).contains(&port), "{seen:?}");
    Some(seen)
}

/// What a container answers to what it saw of a client: back by the service that was asked, or, if that flow
/// is no more, as a question of its own to the same address and port.
#[track_caller]
fn reply<F: Pooled>(cpu: &Cpu, number: u32, service: SocketAddr, container: Container, seen: Tuple, speech: Speech) {
    let replied = Talk::server_of(cpu, container, seen).say(speech);
    if replied.way_back().is_none() {
        return;
    }
    assert_sound(&replied);
    let Verdict::Neighbour { ifindex: UPLINK, .. } = replied.verdict else { panic!("{:?}", replied.verdict) };
    let heard = replied.tuple();
    assert_eq!(heard.from.ip(), F::HOST);
    let in_flow = heard.from == service && heard.to == F::client(number);
    assert!(in_flow || heard.from != service && heard.to == seen.from, "{seen:?} was answered with {heard:?}");
}

#[track_caller]
fn assert_sound(arrival: &Arrival) {
    assert!(is_header_sound(&arrival.bytes) && is_transport_sound(&arrival.bytes), "a checksum: {arrival:?}");
}

fn original<F: Pooled>(number: u32, service: SocketAddr, speech: Speech) -> FlowKey<F::Addr> {
    Tuple::new(speech, F::client(number), service).key::<F>(Scope::Uplink)
}

const AT_DNS: &[(Container, u16)] = &[(C2, 53)];
const AT_WEB: &[(Container, u16)] = &[(C1, 80)];

fn ask_dns<F: Pooled>(cpu: &Cpu, number: u32) -> Option<Tuple> {
    ask::<F>(cpu, number, F::DNS, Speech::Udp, AT_DNS)
}

fn ask_web<F: Pooled>(cpu: &Cpu, number: u32) -> Option<Tuple> {
    ask::<F>(cpu, number, F::WEB, Speech::SYN, AT_WEB)
}

fn reply_dns<F: Pooled>(cpu: &Cpu, number: u32, seen: Tuple) {
    reply::<F>(cpu, number, F::DNS, C2, seen, Speech::Udp);
}

/// A flow that its client has confirmed.
fn establish_dns<F: Pooled>(cpu: &Cpu, number: u32) -> Tuple {
    let seen = ask_dns::<F>(cpu, number).expect("delivered");
    reply_dns::<F>(cpu, number, seen);
    ask_dns::<F>(cpu, number).expect("delivered");
    seen
}

fn pass_time(shared: &Shared, jiffies: u64) {
    shared.now.fetch_add(jiffies, Ordering::SeqCst);
}

/// No flow was ended but half-open ones, and each by the ring or by the collector.
#[track_caller]
fn assert_only_half_open_ones_ended(shared: &Shared) {
    let deaths = shared.deaths();
    assert!(deaths.iter().all(|word| word.life() == Life::Half), "a confirmed flow was ended: {deaths:?}");
    let ended = shared.events(Event::FlowEvicted) + shared.events(Event::FlowCollected);
    assert_eq!(deaths.len() as u64, ended, "ended by nobody");
}

// --- The scenarios ---

/// Two CPUs open the flow of client 1, while the third evicts the one that there is.
fn opening<F: Pooled>(conditions: Conditions) {
    let shared = Arc::new(Shared::new(conditions, 1, ENTRIES));
    let cpu = &Cpu::new(&shared, 0);
    ask_dns::<F>(cpu, 1).expect("delivered");
    let open = |number: u64| {
        Cpu::start(&shared, number, move |cpu| {
            ask_dns::<F>(cpu, 1);
            ask_dns::<F>(cpu, 1);
        })
    };
    let others = [open(1), open(2)];
    ask_dns::<F>(cpu, 4).expect("nobody else opens it");
    for other in others {
        other.join().expect("no complaint");
    }
    let alive = shared.rest::<F>();
    assert!(alive.len() <= 3, "more than the rings hold: {alive:?}");
    assert_only_half_open_ones_ended(&shared);
}

/// A reply and a confirmation arrive for the flow that the ring is about to evict, and that the collector takes for past.
fn confirming<F: Pooled>(conditions: Conditions) {
    let mut shared = Shared::new(conditions, 1, ENTRIES);
    shared.config_mut().timeouts[Timeout::UdpUnreplied as usize] = 0;
    let shared = Arc::new(shared);
    let cpu = &Cpu::new(&shared, 0);
    let seen = ask_dns::<F>(cpu, 1).expect("delivered");
    pass_time(&shared, 1);
    let confirming = Cpu::start(&shared, 1, move |cpu| {
        reply_dns::<F>(cpu, 1, seen);
        ask_dns::<F>(cpu, 1);
    });
    let collecting = Cpu::start(&shared, 2, |cpu| collect::<F, _>(&cpu, &original::<F>(1, F::DNS, Speech::Udp)));
    ask_dns::<F>(cpu, 2).expect("nobody else opens it");
    ask_web::<F>(cpu, 3).expect("nobody else opens it");
    confirming.join().expect("no complaint");
    collecting.join().expect("no complaint");
    shared.rest::<F>();
    ask_dns::<F>(cpu, 1).expect("whatever became of the flow, its client is heard");
    shared.rest::<F>();
    assert_only_half_open_ones_ended(&shared);
}

/// A flow that has expired is used again, while the collector looks at it.
fn reviving<F: Pooled>(conditions: Conditions) {
    let shared = Arc::new(Shared::new(conditions, 4, ENTRIES));
    let cpu = &Cpu::new(&shared, 0);
    let seen = establish_dns::<F>(cpu, 1);
    pass_time(&shared, u64::from(HZ) * 121);
    let asking = Cpu::start(&shared, 1, |cpu| {
        let asked = ask_dns::<F>(cpu, 1);
        assert!(asked.is_some() || cpu.shared.deaths().len() == 1, "lost without a reason");
        cpu.shared.steps()
    });
    let replying = Cpu::start(&shared, 2, move |cpu| {
        reply_dns::<F>(cpu, 1, seen);
        cpu.shared.steps()
    });
    let began = shared.steps();
    let ended = collect::<F, _>(&cpu, &original::<F>(1, F::DNS, Speech::Udp));
    let back = [asking, replying].map(|other| other.join().expect("no complaint"));
    shared.rest::<F>();
    assert!(!ended || back.iter().all(|back| *back > began), "a flow that had come back to life was collected");
    assert_eq!(shared.deaths().len(), usize::from(ended));
    ask_dns::<F>(cpu, 1).expect("its next packet opens the flow anew");
    shared.rest::<F>();
}

/// The port is led to another container, in the order of `netbpf-user/src/agent/publish.rs`, while clients speak.
fn republishing<F: Pooled>(conditions: Conditions) {
    let mut shared = Shared::new(conditions, 4, ENTRIES);
    let port = Transport::Udp.port_index(F::DNS.port());
    let by = |rule| PublishedPort { wildcard: rule, specific: 0 };
    shared.ports.insert(port, Versions::new(vec![by(DNS_RULE), by(0), by(NEXT_RULE)]));
    let to = |container: Container| Rule {
        endpoint: container.slot,
        generation: GENERATION,
        host_port: F::DNS.port(),
        container_port: 53,
        flags: 0,
    };
    shared.expect_rule(DNS_RULE, vec![to(C2), Rule::default()]);
    shared.expect_rule(NEXT_RULE, vec![Rule::default(), to(C1)]);
    let shared = Arc::new(shared);
    let cpu = &Cpu::new(&shared, 0);
    let seen = establish_dns::<F>(cpu, 1);

    let asking = Cpu::start(&shared, 1, |cpu| {
        [1, 1, 2, 1].map(|number| {
            let began = cpu.shared.steps();
            let reached = ask::<F>(cpu, number, F::DNS, Speech::Udp, &[(C2, 53), (C1, 53)]);
            (began, reached.map(|seen| seen.to.ip()), cpu.shared.steps())
        })
    });
    let others = Cpu::start(&shared, 2, move |cpu| {
        reply_dns::<F>(cpu, 1, seen);
        collect::<F, _>(&cpu, &original::<F>(1, F::DNS, Speech::Udp));
        collect::<F, _>(&cpu, &original::<F>(2, F::DNS, Speech::Udp));
    });
    let bump_rule = |rule| shared.bump(generation::FIRST_RULE + rule);
    shared.change_port(port);
    bump_rule(DNS_RULE);
    shared.change_rule(DNS_RULE);
    bump_rule(DNS_RULE);
    shared.bump(generation::PUBLISH_EPOCH);
    let withdrawn = shared.steps();
    shared.change_rule(NEXT_RULE);
    bump_rule(NEXT_RULE);
    shared.change_port(port);
    shared.bump(generation::PUBLISH_EPOCH);

    for (began, reached, ended) in asking.join().expect("no complaint") {
        assert!(began <= withdrawn || reached != Some(C2.ip::<F>()), "led to whom nothing is published of any more");
        assert!(ended >= withdrawn || reached != Some(C1.ip::<F>()), "led to whom nothing is published of yet");
    }
    others.join().expect("no complaint");
    shared.rest::<F>();
    for number in [1, 2] {
        ask::<F>(cpu, number, F::DNS, Speech::Udp, &[(C1, 53)]).expect("delivered to whom the port leads to now");
    }
    shared.rest::<F>();
}

/// A flow is evicted and its slots are used for another, while a slow CPU still reads what it has found.
fn reusing<F: Pooled>(conditions: Conditions) {
    let shared = Arc::new(Shared::new(conditions, 1, ENTRIES));
    let cpu = &Cpu::new(&shared, 0);
    let seen = ask_dns::<F>(cpu, 1).expect("delivered");
    // The rule is announced again: whoever is slow has a stamp to write, and a route.
    shared.bump(generation::FIRST_RULE + DNS_RULE);
    let asking = Cpu::start(&shared, 1, |cpu| ask_dns::<F>(cpu, 1));
    let replying = Cpu::start(&shared, 2, move |cpu| reply_dns::<F>(cpu, 1, seen));
    for number in [2, 3] {
        ask_web::<F>(cpu, number).expect("nobody else opens it");
    }
    asking.join().expect("no complaint");
    replying.join().expect("no complaint");
    shared.rest::<F>();
    assert_only_half_open_ones_ended(&shared);
}

/// Two containers want the same port of the host, and the one that has it is about to lose it.
fn allocating<F: Pooled>(conditions: Conditions) {
    let shared = Arc::new(Shared::new(conditions, 1, ENTRIES));
    let cpu = &Cpu::new(&shared, 0);
    let open = |cpu: &Cpu, container: Container| {
        let opened = Talk::of(cpu, container, NAT_PORT, F::SERVER).say(Speech::Udp);
        opened.way_back()?;
        assert_sound(&opened);
        let seen = opened.tuple();
        assert!(seen.from.ip() == F::HOST && seen.to == F::SERVER, "{seen:?}");
        Some(seen)
    };
    open(cpu, C1).expect("nobody else opens it");
    let others = [(1, C1), (2, C2)].map(|(number, container)| {
        Cpu::start(&shared, number, move |cpu| [open(cpu, container), open(cpu, container)])
    });
    ask_dns::<F>(cpu, 1).expect("nobody else opens it");
    for other in others {
        other.join().expect("no complaint");
    }
    shared.rest::<F>();
    for container in [C1, C2] {
        let seen = open(cpu, container).expect("there are ports");
        let answered = Talk::from_outside(cpu, seen.to, seen.from).say(Speech::Udp);
        assert_sound(&answered);
        assert_eq!((answered.verdict, answered.tuple().to), (peer(container), at(container.ip::<F>(), NAT_PORT)));
    }
    shared.rest::<F>();
    assert_only_half_open_ones_ended(&shared);
}

/// The smallest of them: the packet that completes a handshake, and one collector or two.
fn ending<F: Pooled>(conditions: Conditions, collectors: u64) {
    let mut shared = Shared::new(conditions, 4, ENTRIES);
    for opening in [Timeout::TcpSynSent, Timeout::TcpSynRecv] {
        shared.config_mut().timeouts[opening as usize] = 0;
    }
    let shared = Arc::new(shared);
    let cpu = &Cpu::new(&shared, 0);
    let seen = ask_web::<F>(cpu, 1).expect("delivered");
    reply::<F>(cpu, 1, F::WEB, C1, seen, Speech::SYN_ACK);
    pass_time(&shared, 1);
    let collector =
        |number| Cpu::start(&shared, number, |cpu| collect::<F, _>(&cpu, &original::<F>(1, F::WEB, Speech::SYN)));
    let collectors: Vec<_> = (1..=collectors).map(collector).collect();
    let is_heard = ask::<F>(cpu, 1, F::WEB, Speech::ACK, AT_WEB).is_some();
    let ended = collectors.into_iter().map(|other| other.join().expect("no complaint"));
    let ended = ended.filter(|ended| *ended).count();
    let alive = shared.rest::<F>().len();
    assert_eq!((ended, alive), if is_heard { (0, 1) } else { (1, 0) }, "confirmed or ended");
    assert_only_half_open_ones_ended(&shared);
}

fn a_flow_that_two_cpus_open_and_a_third_evicts_is_whole_or_not_there<F: Pooled>() {
    check(SOUND, opening::<F>);
}

fn a_flow_that_is_confirmed_is_taken_neither_by_the_ring_nor_by_the_collector<F: Pooled>() {
    check(SOUND, confirming::<F>);
}

fn a_flow_that_comes_back_to_life_lives_or_is_opened_anew<F: Pooled>() {
    check(SOUND, reviving::<F>);
}

fn a_port_that_is_led_elsewhere_leads_nobody_back<F: Pooled>() {
    check(SOUND, republishing::<F>);
}

fn a_port_that_two_containers_want_has_one_owner_at_a_time<F: Pooled>() {
    check(SOUND, allocating::<F>);
}

fn a_slot_that_is_used_again_gives_nobody_the_rewrite_of_another_flow<F: Pooled>() {
    check(SOUND, reusing::<F>);
}

/// Tries every schedule of the smallest scenario: the two halves of them run side by side. Of IPv6 every eighth does: which
/// family it is decides on none of these steps, the code is the same, and an entry with longer addresses is copied in one step too.
fn in_half_of_all_orders<F: Pooled>(half: u32) {
    const MORE_THAN_ALL: usize = 400_000;
    let conditions = Conditions { grain: Grain::Access, ..SOUND };
    let (number, bits) = if F::HOST.is_ipv4() { (half, 1) } else { (half | 0b0100, 4) };
    let all = run(Part::new(number, bits, MORE_THAN_ALL), conditions, |conditions| ending::<F>(conditions, 1));
    println!("{all} schedules");
    assert!(all < MORE_THAN_ALL, "not all were tried");
}

fn a_confirmation_and_a_collector_agree_in_one_half_of_all_orders_there_are<F: Pooled>() {
    in_half_of_all_orders::<F>(0);
}

fn a_confirmation_and_a_collector_agree_in_the_other_half<F: Pooled>() {
    in_half_of_all_orders::<F>(1);
}

fn two_collectors_do_not_end_a_flow_twice<F: Pooled>() {
    let conditions = Conditions { grain: Grain::Access, ..SOUND };
    run(DfsScheduler::new(Some(10 * SCHEDULES), true), conditions, |conditions| ending::<F>(conditions, 2));
    check(SOUND, |conditions| ending::<F>(conditions, 2));
}

// --- That a defect would be seen ---

/// The scenario holds, and does not once a rule is broken.
#[track_caller]
fn assert_is_seen(flaw: Flaw, reuse: Reuse, scenario: Scenario) {
    let conditions = Conditions { reuse, ..SOUND };
    check(conditions, scenario);
    let broken = Conditions { flaw: Some(flaw), ..conditions };
    // It ends with the first schedule that shows the defect.
    let noticed = catch_unwind(|| search(broken, scenario, 20 * SCHEDULES)).is_err();
    assert!(noticed, "nobody has noticed {flaw:?}");
}

fn a_swap_in_two_steps_is_seen<F: Pooled>() {
    assert_is_seen(Flaw::SwapInTwoSteps, Reuse::Late, confirming::<F>);
}

fn a_flow_that_is_deleted_by_who_lost_the_swap_is_seen<F: Pooled>() {
    assert_is_seen(Flaw::LoserWins, Reuse::Late, confirming::<F>);
}

fn an_insert_that_replaces_is_seen<F: Pooled>() {
    assert_is_seen(Flaw::InsertReplaces, Reuse::Late, opening::<F>);
    assert_is_seen(Flaw::InsertReplaces, Reuse::Late, allocating::<F>);
}

fn a_word_that_is_stored_into_whatever_an_entry_has_become_is_seen<F: Pooled>() {
    assert_is_seen(Flaw::CopyWordBlindly, Reuse::AtOnce, reusing::<F>);
}
