//! The resolver of containers, and dnsmasq with the same record beside it.
//!
//! Who answers has one CPU, who asks (and whom both ask for the rest) the other.

mod load;
mod message;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::byhand::ByHand;
use netbpf_tests::wait::poll;
use netbpf_user::api::Client;
use netbpf_user::api::types::{CreateRequest, NetworkRequest};
use netbpf_user::rig::{Namespace, Rig};

use self::load::Load;
use self::message::{A, AAAA};
use super::{name, on_one_cpu};

const CLIENTS: usize = 16;
/// The CPU of who answers.
const ANSWERING: &str = "0";
const DNS: u16 = 53;

/// A resolver, and who can ask it.
struct Site {
    who: &'static str,
    resolver: SocketAddr,
    known: String,
    clients: Vec<Namespace>,
}

pub(crate) fn measure(rig: &Rig, seconds: u64, with_dnsmasq: bool) -> Result<()> {
    let mut sites = vec![netbpf(rig)?];
    let dnsmasq = if with_dnsmasq { Some(Dnsmasq::start(rig)?) } else { None };
    sites.extend(dnsmasq.as_ref().map(Dnsmasq::site));
    let is_over = AtomicBool::new(false);
    let upstream = rig.ext().enter(|| UdpSocket::bind((Rig::EXT_IP, DNS)))??;
    thread::scope(|scope| {
        let serving = scope.spawn(|| on_one_cpu(|| message::serve(&upstream, &is_over)));
        let asked = on_one_cpu(|| ask(&sites, seconds));
        is_over.store(true, Ordering::Relaxed);
        serving.join().expect("no panic").and(asked)
    })
}

fn netbpf(rig: &Rig) -> Result<Site> {
    let client = Client::new(&rig.socket())?;
    let network = name("dns", 0);
    let made = client.create_network(&NetworkRequest { name: network.clone(), ipv6: true, ..Default::default() })?;
    let create = |own: &str| {
        let dns = vec![IpAddr::V4(Rig::EXT_IP)];
        client.create(&CreateRequest {
            name: Some(own.into()),
            network: Some(network.clone()),
            dns,
            ..Default::default()
        })
    };
    let known = name("known", 0);
    create(&known)?;
    let names: Vec<String> = (0..CLIENTS).map(|number| name("asking", number)).collect();
    names.iter().try_for_each(|own| create(own).map(drop))?;
    let pid = rig.agent_pid().context("the agent runs")?.to_string();
    let pinned = Command::new("taskset").args(["-acp", ANSWERING, &pid]).stdout(Stdio::null()).status();
    ensure!(pinned.context("cannot start taskset")?.success(), "the agent cannot be held on a CPU");
    let gateway: Ipv4Addr = made.gateways.first().context("a gateway")?.parse()?;
    let clients = names.iter().map(|own| Namespace::named(own)).collect();
    Ok(Site { who: "netbpf", resolver: (gateway, DNS).into(), known, clients })
}

fn ask(sites: &[Site], seconds: u64) -> Result<()> {
    println!("Questions per second over UDP, and how long an answer takes in microseconds ({seconds} s each)");
    println!("{:<46} {:<8} {:>9} {:>8} {:>8} {:>6}", "", "", "per s", "p50", "p99", "lost");
    for (what, clients, in_flight, kind, is_known) in [
        ("a container's A, one client, 1 at a time", 1, 1, A, true),
        ("a container's A, one client, 32 at a time", 1, 32, A, true),
        ("a container's AAAA, one client, 32 at a time", 1, 32, AAAA, true),
        ("a container's A, 16 clients, 8 at a time", CLIENTS, 8, A, true),
        ("a container's AAAA, 16 clients, 8 at a time", CLIENTS, 8, AAAA, true),
        ("forwarded, one client, 1 at a time", 1, 1, A, false),
        ("forwarded, one client, 32 at a time", 1, 32, A, false),
        ("forwarded, 16 clients, 8 at a time", CLIENTS, 8, A, false),
    ] {
        for Site { who, resolver, known, clients: all } in sites {
            let load = Load {
                clients: &all[..clients],
                resolver: *resolver,
                in_flight,
                kind,
                known: is_known.then_some(known),
                time: Duration::from_secs(seconds),
            };
            let heard = load.run().with_context(|| format!("{what}: {who}"))?;
            let micros = |share| heard.times.at(share).as_nanos() as f64 / 1e3;
            println!(
                "{what:<46} {who:<8} {:>9.0} {:>8.0} {:>8.0} {:>6}",
                heard.answers as f64 / heard.took.as_secs_f64(),
                micros(500),
                micros(990),
                heard.lost
            );
        }
    }
    println!();
    Ok(())
}

/// A dnsmasq that serves namespaces on a bridge; ends when dropped.
struct Dnsmasq {
    process: Child,
    resolver: SocketAddr,
    clients: Vec<Namespace>,
    host: Namespace,
}

const KNOWN: &str = "known";

impl Dnsmasq {
    fn start(rig: &Rig) -> Result<Self> {
        let hand = ByHand(rig.ext());
        hand.create_network(0)?;
        let clients = (0..CLIENTS)
            .map(|number| hand.create(&name("h", number), 0, number))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let [_, gateway] = ByHand::addresses(0, 0);
        let process = rig.ext().enter(|| {
            Command::new("taskset")
                .args(["-c", ANSWERING, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"])
                .args(["--no-hosts", "--bind-interfaces", "--user=root", "--pid-file=", "--cache-size=0"])
                // As many on their way as the agent lets be.
                .args(["--dns-forward-max=1024", &format!("--host-record={KNOWN},172.29.0.200,fd00:29::200")])
                .args([format!("--listen-address={gateway}"), format!("--server={}", Rig::EXT_IP)])
                .stdout(Stdio::null())
                .spawn()
        })?;
        let process = process.context("cannot start dnsmasq: install dnsmasq-base, or say --without dnsmasq")?;
        let resolver = SocketAddr::new(gateway.parse()?, DNS);
        let mut dnsmasq = Self { process, resolver, clients, host: rig.ext().clone() };
        let is_there = || {
            let ended = dnsmasq.process.try_wait().ok()?.is_some();
            let sockets = dnsmasq.host.run("ss", &["-Hlnu", "sport", "=", ":53"]).ok()?;
            (ended || sockets.contains(&dnsmasq.resolver.to_string())).then_some(ended)
        };
        ensure!(
            poll(is_there) == Some(false),
            "dnsmasq does not serve: is dnsmasq-base installed? Else say --without dnsmasq"
        );
        Ok(dnsmasq)
    }

    fn site(&self) -> Site {
        Site { who: "dnsmasq", resolver: self.resolver, known: KNOWN.into(), clients: self.clients.clone() }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        _ = self.process.kill();
        _ = self.process.wait();
        let hand = ByHand(&self.host);
        for client in &self.clients {
            _ = hand.remove(client);
        }
    }
}
