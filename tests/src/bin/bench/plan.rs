//! What is measured, and how often.

use std::time::Duration;

use clap::ValueEnum;

use crate::peer::Name;

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
    /// Connections and packets to the last of many published ports, and beside them
    Ports,
    /// What publishing costs
    Publish,
    /// What making and removing the network of a container costs
    Network,
    /// What is held in memory
    Memory,
    /// Packets of many flows, and connections beside them
    Flows,
    /// Nanoseconds per packet of netbpf's programs alone, by the kernel's test runner
    Programs,
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
    /// How often everything is gone through.
    pub(crate) rounds: u32,
    /// How often, in each of them, the peers take turns at a piece of work.
    pub(crate) slices: u32,
    /// How often what takes long is set up.
    pub(crate) cost_rounds: u32,
    /// How long a slice is.
    pub(crate) time: Duration,
    pub(crate) ports: &'static [u32],
    pub(crate) flows: &'static [u32],
    pub(crate) publishes: &'static [u16],
    /// Containers that are made at the same time.
    pub(crate) at_once: usize,
    /// Containers and ports by which memory is measured.
    pub(crate) memory: (u16, u16),
}

impl Effort {
    /// What a report rests on.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            slices: 5,
            cost_rounds: 2,
            time: Duration::from_millis(25),
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
            slices: 1,
            cost_rounds: 1,
            time: Duration::from_millis(10),
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
    /// Whether a part is wanted.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether one of them is.
    pub(crate) fn has_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.has(*part))
    }
}
