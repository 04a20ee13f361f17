//! Many containers in many networks.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::byhand::ByHand;
use netbpf_tests::wait::poll;
use netbpf_user::api::Client;
use netbpf_user::api::types::{CreateRequest, NetworkRequest};
use netbpf_user::rig::{Namespace, Rig};

use super::packets::PingPong;
use super::sample::Sample;
use super::{name, on_one_cpu};

const PARALLEL: usize = 8;

pub(crate) fn measure(mut rig: Rig, containers: usize, networks: usize, by_hand: bool) -> Result<()> {
    println!("{containers} containers in {networks} networks");
    for network in 0..networks {
        network_of(&rig, network)?;
    }
    // The same two, alone before the crowd and after it, and among all the others.
    let client = Client::new(&rig.socket())?;
    let pair = ["ping", "pong"].map(|what| name(what, 0));
    let pair_request =
        |own: &String| CreateRequest { name: Some(own.clone()), network: Some(name("n", 0)), ..Default::default() };
    let made = pair.iter().map(|own| client.create(&pair_request(own))).collect::<Result<Vec<_>, _>>()?;
    let address: Ipv4Addr = made[1].ip.context("the network has IPv4")?;
    let pingpong = PingPong::between(&Namespace::named(&pair[0]), &Namespace::named(&pair[1]), address)?;
    let mut few = on_one_cpu(|| pingpong.measure())?;
    let before = memory(&rig)?;

    let numbers: Vec<usize> = (0..containers).collect();
    let (took, times) = in_parallel(&rig, 1, &numbers, |client, number| create(client, number, networks))?;
    told("create, one after the other", took, &times);
    let [first, last] = times.ends();
    println!("    of these the first tenth {first} ms each, the last tenth {last} ms each");
    let after = memory(&rig)?;
    let each = (after - before) / containers as f64;
    println!("memory of the agent (RSS): {before:.0} KiB, then {after:.0} KiB: {each:.2} KiB per container");
    let many = on_one_cpu(|| pingpong.measure())?;
    restarted(&mut rig)?;
    let fresh = memory(&rig)?;
    println!("memory of the new agent: {fresh:.0} KiB");
    removed(&rig, 1, &numbers)?;
    few.extend(on_one_cpu(|| pingpong.measure())?);
    compared(few, many, containers + 2);

    let (took, times) = in_parallel(&rig, PARALLEL, &numbers, |client, number| create(client, number, networks))?;
    told(&format!("create, {PARALLEL} at a time"), took, &times);
    removed(&rig, PARALLEL, &numbers)?;

    let client = Client::new(&rig.socket())?;
    pair.iter().try_for_each(|own| client.remove(own, false))?;
    let started = Instant::now();
    (0..networks).try_for_each(|network| client.remove_network(&name("n", network)))?;
    println!("remove {networks} networks: {:.2} s", started.elapsed().as_secs_f64());
    ensure!(client.status()?.problems.is_empty(), "not all is as desired afterwards");
    if by_hand {
        self::by_hand(&rig, containers, networks)?;
    }
    println!();
    Ok(())
}

fn network_of(rig: &Rig, network: usize) -> Result<()> {
    let request = NetworkRequest { name: name("n", network), ..Default::default() };
    Client::new(&rig.socket())?.create_network(&request)?;
    Ok(())
}

fn create(client: &Client, number: usize, networks: usize) -> Result<()> {
    let network = Some(name("n", number % networks));
    client.create(&CreateRequest { name: Some(name("c", number)), network, ..CreateRequest::default() })?;
    Ok(())
}

/// Does something for every number, so many at a time; how long all of it took, and each.
fn in_parallel(
    rig: &Rig,
    threads: usize,
    numbers: &[usize],
    action: impl Fn(&Client, usize) -> Result<()> + Sync,
) -> Result<(Duration, Sample)> {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Sample::default());
    let work = || -> Result<()> {
        let client = Client::new(&rig.socket())?;
        let mut own = Sample::default();
        while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
            own.time(|| action(&client, *number))?;
        }
        times.lock().expect("no panic").extend(own);
        Ok(())
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    Ok((started.elapsed(), times.into_inner().expect("no panic")))
}

fn told(what: &str, took: Duration, times: &Sample) {
    println!("{what}: {:.2} s, each {times} ms", took.as_secs_f64());
}

/// Removes the crowd, and waits until the kernel has nothing of it any more.
fn removed(rig: &Rig, threads: usize, numbers: &[usize]) -> Result<()> {
    let started = Instant::now();
    let (took, times) =
        in_parallel(rig, threads, numbers, |client, number| Ok(client.remove(&name("c", number), false)?))?;
    let is_gone = || {
        // The two that stay have a device each.
        let devices = rig.host().run("ip", &["-oneline", "link", "show", "type", "veth"]).ok()?;
        let own = devices.lines().filter(|line| line.split(' ').nth(1).is_some_and(|name| name.starts_with("nb")));
        let crowd = own.count() - 2;
        let named = numbers.iter().filter(|number| Namespace::named(&name("c", **number)).path().exists()).count();
        (crowd == 0 && named == 0).then_some(())
    };
    ensure!((0..10).any(|_| poll(is_gone).is_some()), "devices or namespaces are left");
    told(&format!("rm, {threads} at a time"), took, &times);
    println!("    nothing of them is left after {:.2} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Resident memory of the agent, in KiB.
fn memory(rig: &Rig) -> Result<f64> {
    let pid = rig.agent_pid().context("the agent runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel tells its memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Starts another agent over what is there.
fn restarted(rig: &mut Rig) -> Result<()> {
    rig.stop_agent()?;
    let started = Instant::now();
    rig.start_agent()?;
    println!("a new agent is ready after {:.2} s", started.elapsed().as_secs_f64());
    ensure!(Client::new(&rig.socket())?.status()?.problems.is_empty(), "not all is as desired after the restart");
    Ok(())
}

fn compared(mut few: Vec<f64>, mut many: Vec<f64>, containers: usize) {
    few.sort_unstable_by(f64::total_cmp);
    many.sort_unstable_by(f64::total_cmp);
    let middle = |rounds: &[f64]| rounds[rounds.len() / 2];
    let ends = |rounds: &[f64]| (rounds[rounds.len() / 20], rounds[rounds.len() - 1 - rounds.len() / 20]);
    let ((few_low, few_high), (many_low, many_high)) = (ends(&few), ends(&many));
    println!(
        "ns per packet between two containers, sockets included: {:.0} ({few_low:.0} to {few_high:.0}) with 2, {:.0} \
         ({many_low:.0} to {many_high:.0}) with {containers}: ratio {:.2} ({:.2} to {:.2})",
        middle(&few),
        middle(&many),
        middle(&many) / middle(&few),
        many_low / few_high,
        many_high / few_low
    );
}

fn by_hand(rig: &Rig, containers: usize, networks: usize) -> Result<()> {
    let hand = ByHand(rig.ext());
    (0..networks).try_for_each(|network| hand.create_network(network))?;
    let (mut made, mut removed) = (Sample::default(), Sample::default());
    let started = Instant::now();
    let all: Vec<Namespace> = (0..containers)
        .map(|number| made.time(|| hand.create(&name("h", number), number % networks, number / networks)))
        .collect::<std::result::Result<_, _>>()?;
    told("by hand, one after the other", started.elapsed(), &made);
    let [first, last] = made.ends();
    println!("    of these the first tenth {first} ms each, the last tenth {last} ms each");
    let started = Instant::now();
    all.iter().try_for_each(|container| removed.time(|| hand.remove(container)))?;
    told("removed by hand", started.elapsed(), &removed);
    Ok((0..networks).try_for_each(|network| hand.remove_network(network))?)
}
