//! Work with one published port and one flow.

use anyhow::{Context as _, Result};

use super::{Lanes, Peers, Run};
use crate::plan::Part;
use crate::results::{Subject, Unit};
use crate::site::{Direction, Way};
use crate::traffic::Flows;
use crate::work::{CONNECTIONS, Measure, PACKETS, connections, latency, packets, stream};

impl<'plan> Run<'plan> {
    pub(super) fn traffic(&mut self, peers: &mut Peers) -> Result<()> {
        const PARTS: [(Part, &str); 4] = [
            (Part::Latency, "requests"),
            (Part::Stream, "streams"),
            (Part::Connections, "connections"),
            (Part::Packets, "packets"),
        ];
        let rounds = self.plan.effort.rounds;
        let wanted: Vec<_> = PARTS.into_iter().filter(|(part, _)| self.plan.has(*part)).collect();
        for round in 1..=rounds {
            for (part, what) in &wanted {
                eprintln!("{what}: round {round} of {rounds}");
                for direction in Direction::ALL {
                    let mut lanes = self.lanes(what, peers, direction, |run, way| run.usual(*part, direction, way))?;
                    self.by_slices(what, self.plan.effort.slices, &mut lanes)?;
                }
            }
        }
        Ok(())
    }

    /// What the peers that have a way there do over it.
    pub(super) fn lanes(
        &self,
        what: &str,
        peers: &Peers,
        direction: Direction,
        measure: impl Fn(&Self, &Way) -> Result<Option<Measure<'plan>>>,
    ) -> Result<Lanes<'plan>> {
        let mut lanes = Lanes::new();
        for (name, peer) in peers {
            self.go_on()?;
            if let Some(way) = peer.ways().to(direction).filter(|_| name.goes(direction)) {
                let measure = measure(self, way).with_context(|| format!("{name}: {what}"))?;
                lanes.extend(measure.map(|measure| (*name, measure)));
            }
        }
        Ok(lanes)
    }

    fn usual(&self, part: Part, direction: Direction, way: &Way) -> Result<Option<Measure<'plan>>> {
        let (time, words) = (self.plan.effort.time, direction.words());
        Ok(match part {
            Part::Latency if direction == Direction::Neighbours => Some(latency::measure(way.clone(), words, time)),
            Part::Stream if direction == Direction::Neighbours => Some(stream::measure(way.clone(), words, time)),
            Part::Connections => {
                let subject = Subject::new(format!("{CONNECTIONS}, {words}"), Unit::PerSecond);
                Some(connections::measure(way.clone(), subject, time))
            }
            Part::Packets if way.entry.is_some() => {
                packets::establish(way, Flows::ONE, self.traffic)?;
                let subject = Subject::new(format!("{PACKETS}, {words}"), Unit::Mpps);
                Some(packets::measure(way.clone(), Flows::ONE, subject, time, self.traffic)?)
            }
            _ => None,
        })
    }
}
