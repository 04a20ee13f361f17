//! What was observed, and where two records differ.

use std::collections::BTreeMap;
use std::fmt;

/// What was observed in one rig: exchange and aspect, and what was seen there.
#[derive(Default)]
pub(super) struct Record {
    lines: BTreeMap<(String, String), String>,
}

impl Record {
    /// Notes what was seen of an aspect of an exchange.
    #[track_caller]
    pub(super) fn note(&mut self, exchange: &str, aspect: impl Into<String>, seen: impl Into<String>) {
        let (key, seen) = ((exchange.to_owned(), aspect.into()), seen.into());
        if let Some(earlier) = self.lines.insert(key, seen) {
            panic!("{exchange}: noted twice, first as `{earlier}`");
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The exchanges in which nothing but silence was seen would prove nothing: how many showed something.
    pub(super) fn with_sight(&self) -> usize {
        self.lines.values().filter(|seen| *seen != SILENT).count()
    }
}

/// What is noted when nothing arrives.
pub(super) const SILENT: &str = "nothing";

/// An aspect of an exchange that is not the same in both rigs.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) exchange: String,
    pub(super) aspect: String,
    pub(super) netbpf: String,
    pub(super) nftables: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exchange, aspect, netbpf, nftables } = self;
        write!(f, "{exchange}: {aspect}\n    netbpf    {netbpf}\n    nftables  {nftables}")
    }
}

/// Where the records differ.
pub(super) fn differences(netbpf: &Record, nftables: &Record) -> Vec<Difference> {
    let absent = "not observed, the exchange had ended".to_owned();
    let keys = netbpf.lines.keys().chain(nftables.lines.keys().filter(|key| !netbpf.lines.contains_key(*key)));
    let pairs = keys.map(|key| (key, [netbpf, nftables].map(|record| record.lines.get(key).unwrap_or(&absent))));
    pairs
        .filter(|(_, [ours, theirs])| ours != theirs)
        .map(|((exchange, aspect), [ours, theirs])| Difference {
            exchange: exchange.clone(),
            aspect: aspect.clone(),
            netbpf: ours.clone(),
            nftables: theirs.clone(),
        })
        .collect()
}
