//! Work with many published ports.

use anyhow::{Context as _, Result};

use super::{Peers, Run};
use crate::peer::{Name, Peer};
use crate::plan::{Effort, Part};
use crate::results::{Subject, Unit};
use crate::site::Direction;
use crate::traffic::Flows;
use crate::work::{CONNECTIONS, Measure, PACKETS, connections, packets};

/// Connections to the last published port.
pub(crate) const LAST_CONNECTIONS: &str = "connect+request+close, outside to the last published port";
/// Packets to it.
pub(crate) const LAST_PACKETS: &str = "60-byte packets, outside to the last published port";

impl<'plan> Run<'plan> {
    /// A slice goes over all peers, and at each over all numbers of ports, forth and back by turns: what is flat is seen within a moment, also
    /// on a machine that becomes slow or fast.
    pub(super) fn ports(&mut self, peers: &mut Peers) -> Result<()> {
        if !self.plan.has(Part::Ports) {
            return Ok(());
        }
        let Effort { rounds, slices, ports, .. } = self.plan.effort.clone();
        let mut totals: Vec<u32> = [1].into_iter().chain(ports.iter().copied()).collect();
        for round in 1..=rounds {
            eprintln!("published ports: round {round} of {rounds}");
            // Where packets are counted, connections would meet the program that counts.
            for with_packets in [false, true] {
                let mut lanes = Vec::new();
                for (name, peer) in &mut *peers {
                    self.go_on()?;
                    if peer.set_ports(1)? {
                        let measures = self.with_ports(*name, &**peer, with_packets);
                        lanes.push((*name, peer, measures.with_context(|| format!("{name}: published ports"))?));
                    }
                }
                for _ in 0..slices {
                    for (name, peer, measures) in &mut lanes {
                        self.at_each(*name, &mut ***peer, measures, &totals)
                            .with_context(|| format!("{name}: published ports"))?;
                    }
                    totals.reverse();
                }
                for (_, peer, _) in &mut lanes {
                    peer.set_ports(1)?;
                }
            }
        }
        Ok(())
    }

    /// What is measured at a peer with each number of ports.
    fn with_ports(&self, name: Name, peer: &dyn Peer, with_packets: bool) -> Result<Vec<Measure<'plan>>> {
        let mut ways = Vec::new();
        for direction in Direction::ALL.into_iter().filter(|direction| name.goes(*direction)) {
            ways.push((direction, peer.ways().to(direction).context("who publishes has all ways")?.clone()));
        }
        if with_packets {
            // Before anybody counts, who would keep packets from being answered.
            ways.iter().try_for_each(|(_, way)| packets::establish(way, Flows::ONE, self.traffic))?;
        }
        let time = self.plan.effort.time;
        let measure = |(direction, way)| {
            if with_packets {
                packets::measure(way, Flows::ONE, packets_to(direction), time, self.traffic)
            } else {
                Ok(connections::measure(way, connections_to(direction), time))
            }
        };
        ways.into_iter().map(measure).collect()
    }

    fn at_each(&mut self, name: Name, peer: &mut dyn Peer, measures: &mut [Measure<'_>], totals: &[u32]) -> Result<()> {
        for total in totals {
            peer.set_ports(*total)?;
            peer.settle()?;
            for measure in &mut *measures {
                self.go_on()?;
                for (subject, value) in measure()? {
                    self.results.add(subject.with(*total, 1), name, value);
                }
            }
        }
        Ok(())
    }
}

fn connections_to(direction: Direction) -> Subject {
    let beside = || format!("{CONNECTIONS} beside published ports, {}", direction.words());
    let work = if direction == Direction::Inward { LAST_CONNECTIONS.to_owned() } else { beside() };
    Subject::new(work, Unit::PerSecond)
}

fn packets_to(direction: Direction) -> Subject {
    let beside = || format!("{PACKETS} beside published ports, {}", direction.words());
    let work = if direction == Direction::Inward { LAST_PACKETS.to_owned() } else { beside() };
    Subject::new(work, Unit::Mpps)
}
