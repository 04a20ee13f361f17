//! What paths of netbpf cost alone.

use std::thread;

use anyhow::Result;

use super::Run;
use crate::cpu::joined;
use crate::programs;

impl Run<'_> {
    pub(super) fn programs(&mut self) -> Result<()> {
        eprintln!("programs alone");
        let (traffic, slices) = (self.traffic, self.plan.effort.rounds * self.plan.effort.slices);
        // A thread that leaves the machine's namespaces has no way back.
        let measured = thread::scope(|scope| joined(scope.spawn(|| programs::slices(traffic, slices))))?;
        for (subject, peer, nanos) in measured {
            if self.plan.peers.contains(&peer) {
                self.results.add(subject, peer, nanos);
            }
        }
        Ok(())
    }
}
