//! What setting something up costs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Peers, Run};
use crate::plan::{Effort, Part};
use crate::results::{Subject, Unit, grouped};

/// A container's network comes.
pub(crate) const CREATE: &str = "create the network of a container";
/// A container's network goes.
pub(crate) const REMOVE: &str = "remove the network of a container";

/// Time between a command and what came before it: for some grace periods after a device was removed the kernel takes it down, and
/// whoever makes one waits.
const APART: Duration = Duration::from_millis(300);
/// What takes longer is done in one round only.
const SLOW: Duration = Duration::from_secs(10);

impl Run<'_> {
    pub(super) fn costs(&mut self, peers: &mut Peers) -> Result<()> {
        let Effort { cost_rounds, publishes, at_once, memory: (containers, ports), .. } = self.plan.effort.clone();
        if self.plan.has(Part::Publish) {
            let mut slow = Vec::new();
            self.by_turns("publishing", cost_rounds, peers, |run, name, peer| {
                for (number, one_by_one) in publishes.iter().flat_map(|number| [(*number, false), (*number, true)]) {
                    run.go_on()?;
                    if slow.contains(&(name, number)) {
                        continue;
                    }
                    let how = if one_by_one { "one by one" } else { "as a range" };
                    let subject = |what: &str, unit| {
                        let ports = if number == 1 { "port" } else { "ports" };
                        Subject::new(format!("publish {} {ports} {how}{what}", grouped(number.into())), unit)
                    };
                    if let Some(why) = peer.cannot_publish(number) {
                        run.results.not_measured(subject("", Unit::Millis), name, &why);
                        continue;
                    }
                    let begun = Instant::now();
                    let Some(cost) = peer.publish(number, one_by_one)? else { continue };
                    if begun.elapsed() > SLOW && one_by_one {
                        slow.push((name, number));
                    }
                    run.results.add(subject("", Unit::Millis), name, cost.millis);
                    run.results.add(subject(": processes", Unit::Processes), name, cost.processes as f64);
                    for (what, kib) in [(": memory", cost.kib), (": memory at first", cost.kib_at_first)] {
                        if let Some(kib) = kib {
                            run.results.add(subject(what, Unit::Kibibytes), name, kib);
                        }
                    }
                }
                Ok(())
            })?;
        }
        if self.plan.has(Part::Network) {
            // The first ones load what later ones find loaded.
            self.by_turns("networks of containers", cost_rounds, peers, |run, name, peer| {
                for _ in 0..5 {
                    thread::sleep(APART);
                    let Some(cost) = peer.network(1)? else { return Ok(()) };
                    run.results.add(Subject::new(CREATE, Unit::Millis), name, cost.create[0]);
                    run.results.add(Subject::new(REMOVE, Unit::Millis), name, cost.remove[0]);
                    let Some(next) = peer.network(1)? else { return Ok(()) };
                    let subject = format!("{CREATE}, right after another's was removed");
                    run.results.add(Subject::new(subject, Unit::Millis), name, next.create[0]);
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
