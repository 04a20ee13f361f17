//! A run of a plan: who does what in which order.
//!
//! Peers take turns at slices of a few milliseconds, and rounds go over everything: a machine changes its speed by itself, and what is
//! compared shall meet the same of it.

mod costs;
mod flows;
mod ports;
mod programs;
mod traffic;

use anyhow::{Context as _, Result, bail};
use netbpf_user::rig::Interrupt;

pub(crate) use self::costs::{CREATE, REMOVE};
pub(crate) use self::flows::{FLOW_CONNECTIONS, FLOW_PACKETS};
pub(crate) use self::ports::{LAST_CONNECTIONS, LAST_PACKETS};
use crate::peer::{Name, Peer};
use crate::plan::{Part, Plan};
use crate::results::Results;
use crate::traffic::Traffic;
use crate::work::Measure;

/// Flows that netbpf has room for when nothing else is said.
const USUAL_FLOWS: u32 = 131_072;

/// A run of a plan.
struct Run<'plan> {
    plan: &'plan Plan,
    traffic: &'plan Traffic,
    interrupt: &'plan Interrupt,
    results: Results,
}

type Peers = Vec<(Name, Box<dyn Peer>)>;

/// What the peers do by turns.
type Lanes<'run> = Vec<(Name, Measure<'run>)>;

/// Does everything.
pub(crate) fn run(plan: &Plan, traffic: &Traffic, interrupt: &Interrupt) -> Result<Results> {
    let mut run = Run { plan, traffic, interrupt, results: Results::default() };
    if plan.has(Part::Programs) {
        run.programs()?;
    }
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
        run.ports(&mut peers)?;
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
            for (name, peer) in &mut *peers {
                self.go_on()?;
                work(self, *name, &mut **peer).with_context(|| format!("{name}: {what}"))?;
            }
        }
        Ok(())
    }

    /// Measures so many slices of each, by turns.
    fn by_slices(&mut self, what: &str, slices: u32, lanes: &mut Lanes<'_>) -> Result<()> {
        for _ in 0..slices {
            for (name, measure) in &mut *lanes {
                self.go_on()?;
                for (subject, value) in measure().with_context(|| format!("{name}: {what}"))? {
                    self.results.add(subject, *name, value);
                }
            }
        }
        Ok(())
    }
}
