//! What is measured, how often, in which order.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use netbpf_user::rig::Interrupt;

use crate::peer::{Name, Peer};
use crate::results::{Results, Subject, Unit, grouped};
use crate::site::{Direction, Way};
use crate::traffic::Traffic;
use crate::work::{connections, latency, packets, stream};

/// Flows that netbpf has room for when nothing else is said.
const USUAL_FLOWS: u32 = 131_072;

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// Request and answer over TCP and UDP, container to container
    Latency,
    /// A stream of TCP on one CPU and on two, container to container
    Stream,
    /// Connections per second, in all directions
    Connections,
    /// Packets per second, in all directions
    Packets,
    /// Connections and packets to the last of many published ports
    Ports,
    /// Packets of many flows
    Flows,
    /// What publishing costs
    Publish,
    /// What making and removing the network of a container costs
    Network,
    /// What is held in memory
    Memory,
}

impl Part {
    /// Everything.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    /// How often each number is measured.
    pub(crate) rounds: u32,
    /// How often what takes long is set up.
    pub(crate) cost_rounds: u32,
    /// How long a rate is measured.
    pub(crate) time: Duration,
    ports: &'static [u32],
    flows: &'static [u32],
    publishes: &'static [u16],
    /// Containers that are made at the same time.
    at_once: usize,
    /// Containers and ports by which memory is measured.
    memory: (u16, u16),
}

impl Effort {
    /// What a report rests on.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 7,
            cost_rounds: 2,
            time: Duration::from_millis(100),
            ports: &[1000, 10_000],
            flows: &[10_000, 100_000, 1_000_000],
            publishes: &[1, 100, 1000, 10_000],
            at_once: 50,
            memory: (200, 10_000),
        }
    }

    /// Whether everything runs at all.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 1,
            cost_rounds: 1,
            time: Duration::from_millis(20),
            ports: &[100],
            flows: &[1000],
            publishes: &[1, 5],
            at_once: 2,
            memory: (2, 10),
        }
    }
}

/// What is to be done.
pub(crate) struct Plan {
    /// By whom.
    pub(crate) peers: Vec<Name>,
    /// What.
    pub(crate) parts: Vec<Part>,
    /// How much of it.
    pub(crate) effort: Effort,
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn has_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.has(*part))
    }
}

/// A run of a plan.
struct Run<'plan> {
    plan: &'plan Plan,
    traffic: &'plan Traffic,
    interrupt: &'plan Interrupt,
    results: Results,
}

type Peers = Vec<(Name, Box<dyn Peer>)>;

/// Does everything.
pub(crate) fn run(plan: &Plan, traffic: &Traffic, interrupt: &Interrupt) -> Result<Results> {
    let mut run = Run { plan, traffic, interrupt, results: Results::default() };
    const USUAL: [Part; 8] = [
        Part::Latency,
        Part::Stream,
        Part::Connections,
        Part::Packets,
        Part::Ports,
        Part::Publish,
        Part::Network,
        Part::Memory,
    ];
    if plan.has_any(&USUAL) {
        let mut peers = run.start(USUAL_FLOWS)?;
        run.traffic(&mut peers)?;
        if plan.has(Part::Ports) {
            run.ports(&mut peers)?;
        }
        run.costs(&mut peers)?;
    }
    if plan.has(Part::Flows) {
        // Half of a table stays free of confirmed flows when many CPUs have rings.
        let most = plan.effort.flows.iter().copied().max().unwrap_or(0);
        let mut peers = run.start((most + most / 4).max(USUAL_FLOWS))?;
        run.flows(&mut peers)?;
    }
    Ok(run.results)
}

impl Run<'_> {
    fn start(&self, flows: u32) -> Result<Peers> {
        self.plan
            .peers
            .iter()
            .map(|name| {
                self.go_on()?;
                eprintln!("starting {name}");
                Ok((*name, name.start(self.traffic, flows)?))
            })
            .collect()
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupt.told() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Does something with each peer, so often, by turns.
    fn by_turns(
        &mut self,
        what: &str,
        rounds: u32,
        peers: &mut Peers,
        mut work: impl FnMut(&mut Self, Name, &mut dyn Peer) -> Result<()>,
    ) -> Result<()> {
        for round in 1..=rounds {
            eprintln!("{what}: round {round} of {rounds}");
            self.with_each(what, peers, &mut work)?;
        }
        Ok(())
    }

    fn with_each(
        &mut self,
        what: &str,
        peers: &mut Peers,
        mut work: impl FnMut(&mut Self, Name, &mut dyn Peer) -> Result<()>,
    ) -> Result<()> {
        for (name, peer) in peers {
            self.go_on()?;
            work(self, *name, &mut **peer).with_context(|| format!("{name}: {what}"))?;
        }
        Ok(())
    }

    /// Work of one port and one flow. A round does one kind of work with all peers before the next kind.
    fn traffic(&mut self, peers: &mut Peers) -> Result<()> {
        const PARTS: [(Part, &str); 4] = [
            (Part::Latency, "requests"),
            (Part::Stream, "streams"),
            (Part::Connections, "connections"),
            (Part::Packets, "packets"),
        ];
        let wanted: Vec<_> = PARTS.into_iter().filter(|(part, _)| self.plan.has(*part)).collect();
        for round in 1..=self.plan.effort.rounds {
            for (part, what) in &wanted {
                eprintln!("{what}: round {round} of {}", self.plan.effort.rounds);
                self.with_each(what, peers, |run, name, peer| {
                    Direction::ALL.into_iter().try_for_each(|direction| match peer.way(direction) {
                        Some(way) if name.goes(direction) => run.work(*part, name, direction, way),
                        _ => Ok(()),
                    })
                })?;
            }
        }
        Ok(())
    }

    fn work(&mut self, part: Part, name: Name, direction: Direction, way: &Way) -> Result<()> {
        let (time, words) = (self.plan.effort.time, direction.words());
        let mut add = |work: String, unit, value| self.results.add(Subject::new(work, unit), name, value);
        match part {
            Part::Latency if direction == Direction::Neighbours => {
                for (transport, measured) in [("TCP", latency::tcp(way, time)?), ("UDP", latency::udp(way, time)?)] {
                    add(format!("{transport} request/response, {words}, p50"), Unit::Micros, measured.p50);
                    add(format!("{transport} request/response, {words}, p99"), Unit::Micros, measured.p99);
                }
            }
            Part::Stream if direction == Direction::Neighbours => {
                for (cpus, two) in [("one CPU", false), ("two CPUs", true)] {
                    let rate = stream::rate(way, time, two)?;
                    add(format!("TCP stream, {words}, {cpus}"), Unit::Gigabits, rate);
                }
            }
            Part::Connections => {
                add(format!("{CONNECTIONS}, {words}"), Unit::PerSecond, connections::rate(way, time)?);
            }
            Part::Packets if way.entry.is_some() => {
                let rate = packets::rate(way, 1, 1, time, self.traffic)?;
                add(format!("{PACKETS}, {words}"), Unit::Mpps, rate / 1e6);
            }
            _ => {}
        }
        Ok(())
    }

    /// Rounds go over the numbers of ports too: what is flat is seen within a round.
    fn ports(&mut self, peers: &mut Peers) -> Result<()> {
        let Effort { rounds, ports, time, .. } = self.plan.effort.clone();
        let totals: Vec<u32> = [1].into_iter().chain(ports.iter().copied()).collect();
        for round in 1..=rounds {
            eprintln!("published ports: round {round} of {rounds}");
            for total in &totals {
                self.with_each(&format!("{} published ports", grouped(*total)), peers, |run, name, peer| {
                    if !peer.set_ports(*total)? {
                        return Ok(());
                    }
                    let way = peer.way(Direction::Inward).context("a published port is reached by a way")?;
                    let rate = connections::rate(way, time)?;
                    run.results.add(Subject::new(LAST_CONNECTIONS, Unit::PerSecond).with(*total, 1), name, rate);
                    let rate = packets::rate(way, 1, 1, time, run.traffic)?;
                    run.results.add(Subject::new(LAST_PACKETS, Unit::Mpps).with(*total, 1), name, rate / 1e6);
                    Ok(())
                })?;
            }
        }
        self.with_each("one published port", peers, |_, _, peer| peer.set_ports(1).map(drop))
    }

    fn flows(&mut self, peers: &mut Peers) -> Result<()> {
        for flows in [1].into_iter().chain(self.plan.effort.flows.iter().copied()) {
            let mut is_full: Vec<Name> = Vec::new();
            let what = format!("{} flows", grouped(flows));
            self.by_turns(&what, self.plan.effort.rounds, peers, |run, name, peer| {
                let most = peer.most_flows();
                let Some(way) = peer.way(Direction::Inward).filter(|_| name.goes(Direction::Inward)) else { return Ok(()) };
                if flows > most {
                    run.results.note(format!(
                        "{name} has no room for {} flows: the kernel's limit is {}, and one of the whole machine, which is \
                         not touched.",
                        grouped(flows),
                        grouped(most)
                    ));
                    return Ok(());
                }
                // Once there, flows outlive the rounds. Who knows of none takes whatever comes.
                let establish = if is_full.contains(&name) || !name.knows_flows() { 0 } else { flows };
                is_full.push(name);
                let rate = packets::rate(way, flows, establish, run.plan.effort.time, run.traffic)?;
                run.results.add(Subject::new(FLOW_PACKETS, Unit::Mpps).with(1, flows), name, rate / 1e6);
                let rate = connections::rate(way, run.plan.effort.time)?;
                run.results.add(Subject::new(FLOW_CONNECTIONS, Unit::PerSecond).with(1, flows), name, rate);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn costs(&mut self, peers: &mut Peers) -> Result<()> {
        let Effort { cost_rounds, publishes, at_once, memory: (containers, ports), .. } = self.plan.effort.clone();
        if self.plan.has(Part::Publish) {
            self.by_turns("publishing", cost_rounds, peers, |run, name, peer| {
                for (number, one_by_one) in publishes.iter().flat_map(|number| [(*number, false), (*number, true)]) {
                    let how = if one_by_one { "one by one" } else { "as a range" };
                    let Some(cost) = peer.publish(number, one_by_one)? else { continue };
                    let subject = |what: &str, unit| {
                        Subject::new(format!("publish {} ports {how}{what}", grouped(number.into())), unit)
                    };
                    run.results.add(subject("", Unit::Millis), name, cost.millis);
                    run.results.add(subject(": processes", Unit::Processes), name, cost.processes as f64);
                    run.results.add(subject(": memory", Unit::Kibibytes), name, cost.kib);
                }
                Ok(())
            })?;
        }
        if self.plan.has(Part::Network) {
            // The first ones load what later ones find loaded.
            self.by_turns("networks of containers", cost_rounds, peers, |run, name, peer| {
                for _ in 0..5 {
                    let Some(cost) = peer.network(1)? else { return Ok(()) };
                    run.results.add(Subject::new(CREATE, Unit::Millis), name, cost.create[0]);
                    run.results.add(Subject::new(REMOVE, Unit::Millis), name, cost.remove[0]);
                }
                let Some(cost) = peer.network(at_once)? else { return Ok(()) };
                let all = |verb| format!("{verb} the networks of {at_once} containers at the same time, all of them");
                run.results.add(Subject::new(all("create"), Unit::Millis), name, cost.all);
                run.results.add(Subject::new(all("remove"), Unit::Millis), name, cost.gone);
                Ok(())
            })?;
        }
        if self.plan.has(Part::Memory) {
            self.by_turns("memory", 1, peers, |run, name, peer| {
                for (subject, value) in peer.memory(containers, ports)? {
                    run.results.add(subject, name, value);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Names of work that the aims and plots look for.
pub(crate) const CONNECTIONS: &str = "connect+request+close";
/// The same to the last published port.
pub(crate) const LAST_CONNECTIONS: &str = "connect+request+close, outside to the last published port";
/// Short frames.
pub(crate) const PACKETS: &str = "60-byte packets";
/// The same to the last published port.
pub(crate) const LAST_PACKETS: &str = "60-byte packets, outside to the last published port";
/// Packets of many flows.
pub(crate) const FLOW_PACKETS: &str = "60-byte packets of many flows in turn, outside to published port";
/// Connections beside many flows.
pub(crate) const FLOW_CONNECTIONS: &str = "connect+request+close beside many flows, outside to published port";
/// A container's network comes.
pub(crate) const CREATE: &str = "create the network of a container";
/// A container's network goes.
pub(crate) const REMOVE: &str = "remove the network of a container";
