//! Work with many published ports.

use anyhow::{Context as _, Result};

use super::{Peers, Run};
use crate::plan::{Effort, Part};
use crate::results::{Subject, Unit};
use crate::site::Direction;
use crate::traffic::Flows;
use crate::work::{CONNECTIONS, PACKETS, connections, packets};

/// Connections to the last published port.
pub(crate) const LAST_CONNECTIONS: &str = "connect+request+close, outside to the last published port";
/// Packets to it.
pub(crate) const LAST_PACKETS: &str = "60-byte packets, outside to the last published port";

impl Run<'_> {
    /// A slice goes over all numbers of ports, forth and back by turns: what is flat is seen within it, also on a machine that becomes
    /// slow or fast.
    pub(super) fn ports(&mut self, peers: &mut Peers) -> Result<()> {
        if !self.plan.has(Part::Ports) {
            return Ok(());
        }
        let Effort { rounds, slices, ports, .. } = self.plan.effort.clone();
        let mut totals: Vec<u32> = [1].into_iter().chain(ports.iter().copied()).collect();
        self.by_turns("published ports", rounds, peers, |run, name, peer| {
            if !peer.set_ports(1)? {
                return Ok(());
            }
            // Where packets are counted, connections would meet the program that counts.
            for with_packets in [false, true] {
                let ways: Vec<_> = Direction::ALL
                    .into_iter()
                    .filter(|direction| name.goes(*direction))
                    .map(|direction| {
                        Ok((direction, peer.ways().to(direction).context("who publishes has all ways")?.clone()))
                    })
                    .collect::<Result<_>>()?;
                if with_packets {
                    // Before anybody counts, who would keep packets from being answered.
                    ways.iter().try_for_each(|(_, way)| packets::establish(way, Flows::ONE, run.traffic))?;
                }
                let (time, mut measures) = (run.plan.effort.time, Vec::new());
                for (direction, way) in ways {
                    measures.push(if with_packets {
                        packets::measure(way, Flows::ONE, packets_to(direction), time, run.traffic)?
                    } else {
                        connections::measure(way, connections_to(direction), time)
                    });
                }
                for _ in 0..slices {
                    for total in &totals {
                        peer.set_ports(*total)?;
                        peer.settle()?;
                        for measure in &mut measures {
                            run.go_on()?;
                            for (subject, value) in measure()? {
                                run.results.add(subject.with(*total, 1), name, value);
                            }
                        }
                    }
                    totals.reverse();
                }
            }
            peer.set_ports(1).map(drop)
        })
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
