//! The steps of the demo: each does what a user would, then proves with real sockets that it worked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use netbpf_user::api::types::Status;
use netbpf_user::rig::traffic::{self, Exchange};
use netbpf_user::rig::{Interrupt, Membership, Namespace, Rig};
use serde::Serialize;

use super::super::output;

/// What the tour has shown.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) steps: Vec<Outcome>,
    pub(super) events: BTreeMap<String, u64>,
    pub(super) drops: BTreeMap<String, u64>,
}

/// How a step went.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) step: String,
    pub(super) passed: bool,
    pub(super) seen: String,
    pub(super) seconds: f64,
}

/// A walk through a rig.
pub(super) struct Tour<'rig> {
    rig: &'rig Rig,
    interrupt: &'rig Interrupt,
    quiet: bool,
    /// The sockets of this process are the host's, as far as the host's socket hooks are concerned.
    _host: Membership<'rig>,
    c1: String,
    c2: String,
    steps: Vec<Outcome>,
}

const PUBLISHED: SocketAddrV4 = SocketAddrV4::new(Rig::HOST_IP, 8080);
const LOCALHOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);

impl<'rig> Tour<'rig> {
    pub(super) fn new(rig: &'rig Rig, interrupt: &'rig Interrupt, quiet: bool) -> anyhow::Result<Self> {
        let _host = rig.join_cgroup()?;
        // Names of namespaces are the machine's, and somebody may have these.
        let free = |name: &str| match Namespace::named(name).path().exists() {
            true => format!("{name}-{}", std::process::id()),
            false => name.to_owned(),
        };
        Ok(Self { rig, interrupt, quiet, _host, c1: free("c1"), c2: free("c2"), steps: Vec::new() })
    }

    pub(super) fn run(mut self) -> anyhow::Result<Report> {
        self.say(format_args!(
            "A host ({}) with its agent, and a machine outside ({}), each in a network namespace of its own.",
            Rig::HOST_IP,
            Rig::EXT_IP
        ))?;
        let (host, ext) = (self.rig.host(), self.rig.ext());
        let (c1, c2) = (Namespace::named(&self.c1), Namespace::named(&self.c2));
        let (name1, name2) = (self.c1.clone(), self.c2.clone());

        self.step("c1 → c2, by address", |tour| {
            let (ip1, _) = tour.create(&name1)?;
            let (ip2, _) = tour.create(&name2)?;
            let exchange = tour.tcp("c1", &c1, SocketAddrV4::new(ip2, 80), &c2)?;
            expect("c2 sees c1's own address", exchange.client, ip1)
        })?;
        self.step("outside → published port", |tour| {
            tour.netbpf(&["publish", &name1, "-p", "8080:80"])?;
            let exchange = tour.tcp("outside", ext, PUBLISHED, &c1)?;
            expect("c1 sees the client's own address", exchange.client, Rig::EXT_IP)
        })?;
        self.step("c1 → outside, masqueraded", |tour| {
            tour.netbpf(&["exec", &name1, "--", "ip", "route"])?;
            let exchange = tour.tcp("c1", &c1, SocketAddrV4::new(Rig::EXT_IP, 80), ext)?;
            expect("outside sees the host's address", exchange.client, Rig::HOST_IP)
        })?;
        self.step("host → container", |tour| {
            tour.netbpf(&["ps"])?;
            let (ip, gateway) = tour.addresses(&name1)?;
            let exchange = tour.tcp("host", host, SocketAddrV4::new(ip, 80), &c1)?;
            expect("c1 sees the gateway, which is the host", exchange.client, gateway)
        })?;
        self.step("host → 127.0.0.1:published", |tour| {
            tour.netbpf(&["port", &name1])?;
            let exchange = tour.tcp("host", host, LOCALHOST, &c1)?;
            expect("the client is connected to 127.0.0.1", exchange.server, Ipv4Addr::LOCALHOST)
        })?;
        self.step("hairpin c1 → host:published(c1)", |tour| {
            tour.netbpf(&["port", &name1, "80/tcp"])?;
            let exchange = tour.tcp("c1", &c1, PUBLISHED, &c1)?;
            expect("c1 is connected to the host's address, and is itself the server", exchange.server, Rig::HOST_IP)
        })?;
        self.step("outside → published UDP port", |tour| {
            tour.netbpf(&["publish", &name2, "-p", "5353:53/udp"])?;
            let to = SocketAddrV4::new(Rig::HOST_IP, 5353);
            tour.say(format_args!("    outside: a datagram to {to} and back"))?;
            let exchange = traffic::udp(ext, to, &c2, 53)?;
            ensure!(exchange.server == SocketAddr::from(to), "the answer comes from {}", exchange.server);
            expect(
                "the answer comes from the published address; c2 sees the client's own",
                exchange.client,
                Rig::EXT_IP,
            )
        })?;
        self.step("ping", |tour| {
            let (ip2, gateway) = tour.addresses(&name2)?;
            for target in [ip2, gateway, Rig::EXT_IP] {
                tour.say(format_args!("    c1: ping {target}"))?;
                traffic::ping(&c1, target)?;
            }
            Ok(format!("{ip2}, {gateway} and {} answer c1", Rig::EXT_IP))
        })?;
        self.step("a process with names of its own", |tour| {
            let name = format!("{name1}-web");
            let said =
                tour.netbpf(&["run", "--rm", "--name", &name, "--hostname", "web", "--", "cat", "/etc/hostname"])?;
            ensure!(said.trim() == "web", "its /etc/hostname says {:?}", said.trim());
            Ok("its hostname is web".into())
        })?;
        self.step("unpublish", |tour| {
            tour.netbpf(&["unpublish", &name1, "-p", "8080:80"])?;
            tour.say(format_args!("    outside: TCP to {PUBLISHED}"))?;
            traffic::tcp_refused(ext, PUBLISHED)?;
            Ok("outside is refused at once".into())
        })?;

        let mut counted = None;
        self.step("everything is as desired", |tour| {
            tour.say("  $ netbpf status")?;
            let Status { programs, problems, .. } = counted.insert(tour.status()?);
            ensure!(problems.is_empty(), "{}", problems.join("; "));
            Ok(format!("{} programs attached, no problem", programs.len()))
        })?;
        let Status { events, drops, .. } = counted.context("the agent does not say what it has counted")?;
        Ok(Report { steps: self.steps, events, drops })
    }

    /// Takes a step. One that fails does not keep the others; Ctrl-C does.
    fn step(&mut self, step: &str, action: impl FnOnce(&Self) -> anyhow::Result<String>) -> anyhow::Result<()> {
        ensure!(!self.interrupt.told(), "interrupted; everything was cleaned up");
        self.say(format_args!("\n{}. {step}", self.steps.len() + 1))?;
        let start = Instant::now();
        let result = action(self);
        let seconds = start.elapsed().as_secs_f64();
        let passed = result.is_ok();
        let seen = result.unwrap_or_else(|error| format!("{error:#}"));
        self.say(format_args!("  {} {seen}", if passed { "✓" } else { "✗" }))?;
        self.steps.push(Outcome { step: step.into(), passed, seen, seconds });
        Ok(())
    }

    fn create(&self, name: &str) -> anyhow::Result<(Ipv4Addr, Ipv4Addr)> {
        self.netbpf(&["create", "--name", name])?;
        self.addresses(name)
    }

    /// Address and gateway of a container.
    fn addresses(&self, name: &str) -> anyhow::Result<(Ipv4Addr, Ipv4Addr)> {
        let container: netbpf_user::api::types::Container = serde_json::from_str(&self.ask(&["inspect", name])?.0)?;
        container.ip.zip(container.gateway).context("the rig's network has IPv4")
    }

    /// A connection to port 80 of the server, by whatever address.
    fn tcp(&self, who: &str, client: &Namespace, to: SocketAddrV4, server: &Namespace) -> anyhow::Result<Exchange> {
        self.say(format_args!("    {who}: TCP to {to}, 64 KiB there and back"))?;
        Ok(traffic::tcp(client, to, server, 80)?)
    }

    /// Prints a command, runs it, prints what it says.
    fn netbpf(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.say(format_args!("  $ netbpf {}", arguments.join(" ")))?;
        let (said, complaint) = self.ask(arguments)?;
        for line in said.lines().chain(complaint.lines()) {
            self.say(format_args!("    {line}"))?;
        }
        Ok(said)
    }

    /// Its exit code says whether there are problems; they are in the answer as well.
    fn status(&self) -> anyhow::Result<Status> {
        let output = self.rig.netbpf(&["status", "--json"])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("netbpf status: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn ask(&self, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        let output = self.rig.netbpf(arguments)?;
        let said = String::from_utf8(output.stdout).context("netbpf writes UTF-8")?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!("netbpf {}: {}", arguments.join(" "), complaint.trim());
        }
        Ok((said, complaint))
    }

    fn say(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.quiet { Ok(()) } else { output::print(text) }
    }
}

/// Whether one end saw whom it should.
fn expect(sentence: &str, seen: SocketAddr, expected: Ipv4Addr) -> anyhow::Result<String> {
    ensure!(seen.ip() == expected, "not so: {sentence} ({expected}), but {} was seen", seen.ip());
    Ok(format!("{sentence}: {expected}"))
}
