//! Containers, networks and publishes come and go at the same time, under traffic, while the agent is killed now and then.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use netbpf_common::path::{V4, V6};
use netbpf_tests::family::TestFamily;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};

use crate::lab::Lab;

/// Who does something at the same time.
const WORKERS: u32 = 4;

/// How long, unless `NETBPF_CHURN_SECONDS` says otherwise.
const SECONDS: u64 = 15;

fn seconds() -> u64 {
    std::env::var("NETBPF_CHURN_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"))
}

/// Numbers that look drawn, and are the same each time (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % sides
    }
}

/// What a worker has done.
#[derive(Debug, Default)]
struct Done {
    lives: AtomicU64,
    answers: AtomicU64,
    deaths: AtomicU64,
    exchanges: AtomicU64,
}

/// A container's life: made, found by everybody under its own name, changed, and removed.
fn one_life(lab: &RwLock<Lab>, worker: u32, dice: &mut Dice, done: &Done) {
    // Readers share the lab; who kills the agent has it alone, between commands.
    let with = |action: &dyn Fn(&Lab)| action(&lab.read().unwrap_or_else(PoisonError::into_inner));
    let named = |what: &str| lab.read().unwrap_or_else(PoisonError::into_inner).name(&format!("{what}{worker}"));
    let (name, network) = (named("w"), named("n"));
    let port = u16::try_from(8000 + worker).expect("a port");
    let spec = [format!("{port}:80"), format!("{port}:53/udp")];
    let is_on_own = dice.roll(3) == 0;
    let identity = format!("{name}-{}", done.lives.fetch_add(1, Ordering::Relaxed));
    if is_on_own {
        with(&|lab| drop(lab.done(&["network", "create", "--ipv6", &network])));
    }
    let is_published_later = dice.roll(2) == 0;
    with(&|lab| {
        let mut command = vec!["create", "--name", &name, "--network", if is_on_own { &network } else { "default" }];
        if !is_published_later {
            command.extend(["-p", &spec[0], "-p", &spec[1]]);
        }
        lab.done(&command);
    });
    if is_published_later {
        with(&|lab| drop(lab.done(&["publish", &name, "-p", &spec[0], "-p", &spec[1]])));
    }
    if !is_on_own && dice.roll(3) == 0 {
        with(&|lab| drop(lab.done(&["network", "create", &network])));
        with(&|lab| drop(lab.done(&["network", "connect", &network, &name])));
        with(&|lab| drop(lab.done(&["network", "disconnect", &network, &name])));
        with(&|lab| drop(lab.done(&["network", "rm", &network])));
    }
    {
        let lab = lab.read().unwrap_or_else(PoisonError::into_inner);
        let container = lab.find(&name);
        let _tcp = Server::tcp(&container.place, &identity, 80);
        let _udp = Server::udp(&container.place, &identity, 53);
        for _ in 0..3 {
            assert_eq!(ask_tcp(&lab.ext, lab.at_host(port)).expect("answered").server, identity, "from outside");
            let loopback = lab.loopback(port);
            assert_eq!(ask_tcp(&lab.host, loopback).expect("answered").server, identity, "from the host");
            let (seen, _) = ask_udp(&lab.ext.any_udp(), lab.at_host(port)).expect("answered");
            assert_eq!(seen.server, identity, "datagrams from outside");
            assert_eq!(ask_tcp(&container.place, lab.at_ext(90)).expect("answered").server, "ext", "to the world");
            done.answers.fetch_add(4, Ordering::Relaxed);
        }
    }
    if dice.roll(3) == 0 {
        with(&|lab| drop(lab.done(&["unpublish", &name, "-p", &spec[0]])));
    }
    with(&|lab| drop(lab.done(&["rm", "-f", &name])));
    if is_on_own {
        with(&|lab| drop(lab.done(&["network", "rm", &network])));
    }
}

/// Resident memory of the agent, in KiB.
fn memory(lab: &Lab) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.agent_pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of proc(5)");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

fn churn<F: TestFamily>(deaths: bool) {
    let lab = Lab::new::<F>();
    let base = lab.snapshot();
    let friend = lab.container("friend", &["-p", "7070:70"]);
    let servers = [Server::tcp(&friend.place, "friend", 70), Server::tcp(&lab.ext, "ext", 90)];
    let mut conversation = Conversation::on(lab.ext.connect(lab.at_host(7070)).expect("connected")).expect("greeted");
    let before = memory(&lab);
    let (done, stop) = (Done::default(), AtomicBool::new(false));
    let end = Instant::now() + Duration::from_secs(seconds());
    let lab = RwLock::new(lab);
    thread::scope(|scope| {
        let (lab, done, stop) = (&lab, &done, &stop);
        let witness = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                conversation.exchange(&[7; 4000]).expect("a neighbour's connection goes on");
                done.exchanges.fetch_add(1, Ordering::Relaxed);
            }
        });
        let killer = scope.spawn(move || {
            while deaths && !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(700));
                let mut lab = lab.write().unwrap_or_else(PoisonError::into_inner);
                lab.kill_agent();
                lab.start_agent();
                done.deaths.fetch_add(1, Ordering::Relaxed);
            }
        });
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn(move || {
                    let mut dice = Dice(u64::from(worker));
                    while Instant::now() < end {
                        one_life(lab, worker, &mut dice, done);
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        witness.join().expect("nothing is lost");
        killer.join().expect("it comes back each time");
        for result in results {
            result.expect("every command is done, and every answer is the right one's");
        }
    });
    let mut lab = lab.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("churn: {done:?}, memory {before} KiB before and {} KiB after", memory(&lab));
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    drop(servers);
    lab.done(&["rm", "-f", &friend.name]);
    lab.unchanged(&base, "churn");
    lab.kill_agent();
    lab.start_agent();
    lab.unchanged(&base, "churn, and another start");
}

#[test]
fn churn_under_traffic_leaks_nothing_and_delivers_to_nobody_else() {
    churn::<V6>(false);
}

#[test]
fn churn_with_an_agent_that_is_killed_leaks_nothing_and_delivers_to_nobody_else() {
    churn::<V4>(true);
}

#[test]
fn two_agents_with_directories_of_their_own_do_not_disturb_each_other() {
    let labs = [Lab::new::<V4>(), Lab::new::<V4>()];
    // Both have the same addresses, names of devices and ports, each on a host of its own, in one kernel.
    let web = |lab: &Lab, name: &str| {
        let container = lab.container("web", &["-p", "8080:80"]);
        let server = Server::tcp(&container.place, name, 80);
        (container, server)
    };
    let [(one, _first), (other, _second)] = [web(&labs[0], "first"), web(&labs[1], "second")];
    assert_eq!(one.ip, other.ip);
    let served = |lab: &Lab, name: &str| {
        let loopback = lab.loopback(8080);
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, name);
        assert_eq!(ask_tcp(&lab.host, loopback).expect("answered").server, name);
    };
    served(&labs[0], "first");
    served(&labs[1], "second");
    let [first, mut second] = labs;
    let before = first.snapshot();
    second.kill_agent();
    second.uninstall_without_agent();
    first.unchanged(&before, "the uninstall of another instance");
    served(&first, "first");
}
