//! How full tables are, and drops that tell of a setting rather than of a packet.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use netbpf_common::abi::{COUNTERS, DropReason};

use crate::api::types::{Finding, MapStatus};

/// How much of a table may be in use, in percent.
const FULL: u64 = 80;

/// How far back drops count: what was mended long ago is not told.
const RECENT: Duration = Duration::from_secs(600);

/// How often counters are kept.
const STEP: Duration = Duration::from_secs(60);

/// Fewer than these are a single packet and its repetitions.
const SOME: u64 = 10;

/// Drops of which a healthy machine has none to speak of, each with what to do.
const TELLING: [(DropReason, &str); 10] = [
    (
        DropReason::NoUplink,
        "a route leaves by a device that is no uplink or has no address: widen `uplinks`, or give it an address",
    ),
    (DropReason::NoRoute, "the host has no route to where containers send: add one on the host"),
    (
        DropReason::NoMasquerade,
        "containers of a network without a way out send to the world: `mode` of the network decides",
    ),
    (DropReason::NoPort, "all NAT ports towards one destination are in use: widen `nat_ports`"),
    (DropReason::TableFull, "the flow table is full: raise `flows`"),
    (
        DropReason::FlowLimit,
        "a container has as many flows as it may: raise `flows_per_container`, or look at what it does",
    ),
    (
        DropReason::BroadcastRate,
        "a container broadcasts more than it may: raise `broadcast_rate`, or look at what it does",
    ),
    (
        DropReason::Forwarded,
        "the host forwards packets to containers, which are reached by published ports alone: publish, or make the network routed",
    ),
    (
        DropReason::ForeignMac,
        "a container sends to MAC addresses that nobody has: a bridge or a static neighbour inside it does that",
    ),
    (DropReason::Internal, "a helper of the kernel refused: please report it with the kernel's version"),
];

/// All of them, summed over CPUs.
pub(super) type Counters = [u64; COUNTERS as usize];

/// Counters of the last minutes.
#[derive(Debug, Default)]
pub(in crate::agent) struct Recent(VecDeque<(Instant, Counters)>);

impl Recent {
    /// Keeps the counters, unless it did so a moment ago.
    pub(in crate::agent) fn note(&mut self, now: Instant, counters: Counters) {
        if self.0.back().is_some_and(|(then, _)| now.duration_since(*then) < STEP) {
            return;
        }
        self.0.push_back((now, counters));
        while self.0.len() > 1 && now.duration_since(self.0[1].0) >= RECENT {
            self.0.pop_front();
        }
    }

    /// How long ago the oldest were kept, and what each has grown by since.
    fn growth(&self, now: Instant, counters: &Counters) -> (Duration, Counters) {
        let (then, before) = self.0.front().copied().unwrap_or((now, *counters));
        let mut grown = *counters;
        for (place, before) in grown.iter_mut().zip(before) {
            *place = place.saturating_sub(before);
        }
        (now.duration_since(then), grown)
    }
}

pub(super) fn tables(maps: &[MapStatus]) -> Finding {
    const CHECK: &str = "tables";
    let is_full = |map: &&MapStatus| map.max > 0 && map.entries * 100 >= map.max * FULL;
    let full: Vec<String> =
        maps.iter().filter(is_full).map(|map| format!("{} {} of {}", map.name, map.entries, map.max)).collect();
    if full.is_empty() {
        return Finding::well(CHECK, format!("every table is less than {FULL} % full"));
    }
    Finding::amiss(
        CHECK,
        full.join(", "),
        "`netbpf flows` shows who has them; the sizes are settings (`flows`, `flows_v6`), to be changed after `netbpf uninstall`",
    )
}

pub(super) fn drops(recent: &Recent, now: Instant, counters: &Counters) -> Finding {
    const CHECK: &str = "drops";
    let (since, grown) = recent.growth(now, counters);
    let count = |reason: DropReason| grown[reason as u32 as usize];
    let telling: BTreeMap<&str, (u64, &str)> = TELLING
        .iter()
        .filter(|(reason, _)| count(*reason) >= SOME)
        .map(|(reason, advice)| (reason.name(), (count(*reason), *advice)))
        .collect();
    let minutes = since.as_secs().div_ceil(60);
    if telling.is_empty() {
        return Finding::well(CHECK, format!("no drops in the last {minutes} min that point at a setting"));
    }
    let found: Vec<String> = telling.iter().map(|(name, (count, _))| format!("{name} {count} times")).collect();
    let advice: Vec<String> = telling.iter().map(|(name, (_, advice))| format!("{name}: {advice}")).collect();
    Finding::amiss(CHECK, format!("in the last {minutes} min: {}", found.join(", ")), advice.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(reason: DropReason, count: u64) -> Counters {
        let mut counters = [0; COUNTERS as usize];
        counters[reason as u32 as usize] = count;
        counters
    }

    #[test]
    fn a_table_that_is_nearly_full_is_told() {
        let map = |entries| [MapStatus { name: "FLOWS_V4".into(), entries, max: 1000 }];
        assert!(tables(&map(799)).ok);
        let full = tables(&map(800));
        assert!(!full.ok && full.found == "FLOWS_V4 800 of 1000", "{full:?}");
    }

    #[test]
    fn drops_that_point_at_a_setting_are_told_with_it() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.note(now, [0; COUNTERS as usize]);
        let told = |counters: &Counters| drops(&recent, now + STEP, counters);
        assert!(told(&with(DropReason::NoUplink, SOME - 1)).ok);
        assert!(told(&with(DropReason::Malformed, 1000)).ok, "that is the sender's");
        let many = told(&with(DropReason::NoUplink, 12));
        assert!(!many.ok && many.found.contains("no-uplink 12 times") && many.advice.contains("uplinks"), "{many:?}");
    }

    #[test]
    fn what_was_mended_long_ago_is_not_told() {
        let begin = Instant::now();
        let old = with(DropReason::NoUplink, 1000);
        let mut recent = Recent::default();
        recent.note(begin, [0; COUNTERS as usize]);
        for minute in 1..=10 {
            recent.note(begin + STEP * minute, old);
        }
        assert!(!drops(&recent, begin + STEP * 10, &old).ok);
        recent.note(begin + STEP * 11, old);
        assert!(drops(&recent, begin + STEP * 11, &old).ok);
        assert!(recent.0.len() <= 12);
    }

    #[test]
    fn an_agent_that_has_just_started_tells_of_nothing_old() {
        assert!(drops(&Recent::default(), Instant::now(), &with(DropReason::TableFull, 1000)).ok);
    }
}
