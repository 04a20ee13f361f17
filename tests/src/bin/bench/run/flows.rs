//! Work with many live flows.

use anyhow::{Context as _, Result};

use super::{Peers, Run};
use crate::results::{Subject, Unit, grouped};
use crate::site::Direction;
use crate::traffic::Flows;
use crate::work::{CONNECTIONS, PACKETS, connections, packets};

/// Packets of many flows.
pub(crate) const FLOW_PACKETS: &str = "60-byte packets of many flows in turn, outside to published port";
/// Connections beside many flows.
pub(crate) const FLOW_CONNECTIONS: &str = "connect+request+close beside many flows, outside to published port";

impl Run<'_> {
    pub(super) fn flows(&mut self, peers: &mut Peers) -> Result<()> {
        for number in [1].into_iter().chain(self.plan.effort.flows.iter().copied()) {
            let (what, flows) = (format!("{} flows", grouped(number)), Flows::new(number)?);
            eprintln!("{what}");
            let mut full = Vec::new();
            // Who has no room sits out.
            let (with_room, without): (Peers, Peers) =
                std::mem::take(peers).into_iter().partition(|(_, peer)| number <= peer.most_flows());
            for (name, peer) in &without {
                let why = format!("the kernel's limit is {}, and the machine's", grouped(peer.most_flows()));
                for subject in [Subject::new(FLOW_PACKETS, Unit::Mpps), Subject::new(FLOW_CONNECTIONS, Unit::PerSecond)]
                {
                    self.results.not_measured(subject.with(1, number), *name, &why);
                }
            }
            full.extend(without);
            let mut with_room = with_room;
            self.with_flows(&what, number, flows, &mut with_room)?;
            *peers = with_room;
            peers.append(&mut full);
            peers.sort_by_key(|(name, _)| *name);
        }
        Ok(())
    }

    fn with_flows(&mut self, what: &str, number: u32, flows: Flows, peers: &mut Peers) -> Result<()> {
        for (name, peer) in peers.iter().filter(|(name, _)| name.knows_flows()) {
            self.go_on()?;
            let way = peer.ways().to(Direction::Inward).context("who knows flows has all ways")?;
            packets::establish(way, flows, self.traffic).with_context(|| format!("{name}: {what}"))?;
        }
        let time = self.plan.effort.time;
        let slices = self.plan.effort.rounds * self.plan.effort.slices;
        for direction in Direction::ALL {
            let is_theirs = direction == Direction::Inward;
            let work = |theirs: &str, of: &str, unit| {
                let work = if is_theirs {
                    theirs.to_owned()
                } else {
                    format!("{of} beside many flows, {}", direction.words())
                };
                Subject::new(work, unit).with(1, number)
            };
            let mut lanes = self.lanes(what, peers, direction, |_, way| {
                let subject = work(FLOW_CONNECTIONS, CONNECTIONS, Unit::PerSecond);
                Ok(Some(connections::measure(way.clone(), subject, time)))
            })?;
            self.by_slices(what, slices, &mut lanes)?;
            let mut lanes = self.lanes(what, peers, direction, |run, way| {
                let subject = work(FLOW_PACKETS, PACKETS, Unit::Mpps);
                let speaking = if is_theirs { flows } else { Flows::ONE };
                let has_device = way.entry.is_some();
                has_device.then(|| packets::measure(way.clone(), speaking, subject, time, run.traffic)).transpose()
            })?;
            self.by_slices(what, slices, &mut lanes)?;
        }
        Ok(())
    }
}
