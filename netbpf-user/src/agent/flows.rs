//! The flow table as a user reads it, and which flows are past their time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use netbpf_common::abi::{Config, Flow as Entry, FlowKey, Life, TargetKind, Word};
use netbpf_common::flow::{is_expired, timeout_of};
use netbpf_common::wire::{Be16, V4Addr, protocol};

use super::Engine;
use crate::api::types::Flow;
use crate::datapath::clock;
use crate::error::{Context as _, Result};

type Key = FlowKey<V4Addr>;
type Entries = Vec<(Key, Entry<V4Addr>)>;

impl Engine {
    /// The flow table, or the part of it that concerns one container.
    pub async fn flows(&self, container: Option<&str>) -> Result<Vec<Flow>> {
        let names: HashMap<Ipv4Addr, String> = {
            let state = self.state.lock().await;
            if let Some(name) = container {
                state.container(name)?;
            }
            state.containers.values().map(|record| (record.address, record.name.clone())).collect()
        };
        let (entries, config, now) = self.read_flows().await?;
        let replies = replies(&entries);
        let originals = entries.iter().filter(|(_, entry)| entry.is_reply == 0);
        let flows = originals.map(|(key, entry)| {
            let nothing = Entry::default();
            describe(key, entry, replies.get(&entry.other).copied().unwrap_or(&nothing), &names, &config, now)
        });
        Ok(match container {
            Some(name) => flows.filter(|flow| flow.containers.iter().any(|end| end == name)).collect(),
            None => flows.collect(),
        })
    }

    /// Deletes flows that have been silent too long, and those whose container or publish is gone. Returns how many.
    pub(super) async fn collect(&self) -> Result<u32> {
        let endpoints: BTreeMap<u32, u32> = {
            let state = self.state.lock().await;
            state.containers.values().map(|record| (record.slot, record.generation)).collect()
        };
        let (entries, config, now) = self.read_flows().await?;
        let owners: BTreeSet<u32> = entries.iter().map(|(_, entry)| entry.owner.slot).collect();
        let generations = &self.datapath.maps.generations;
        let owners: Result<BTreeMap<u32, u32>> =
            owners.into_iter().map(|slot| Ok((slot, generations.get(slot)?.unwrap_or(0)))).collect();
        let keys = past(&entries, &Standing { endpoints, owners: owners? }, &config, now);
        if keys.is_empty() {
            return Ok(0);
        }
        let datapath = self.datapath.clone();
        tokio::task::spawn_blocking(move || datapath.collect(&keys)).await.context(|| "collect flows".into())?
    }

    async fn read_flows(&self) -> Result<(Entries, Config, u64)> {
        let datapath = self.datapath.clone();
        let read = move || {
            let entries = datapath.maps.flows.entries()?;
            Ok((entries, datapath.maps.config.get(0)?.unwrap_or_default(), clock::jiffies()?))
        };
        tokio::task::spawn_blocking(read).await.context(|| "read the flow table".into())?
    }
}

/// What flows can rest on: generations by slot.
#[derive(Debug)]
struct Standing {
    /// Of the endpoints that are there.
    endpoints: BTreeMap<u32, u32>,
    /// Of rules and epochs.
    owners: BTreeMap<u32, u32>,
}

/// Keys of the flows to hand to the collector, which looks again: O entries, which have the authoritative word.
fn past(entries: &Entries, standing: &Standing, config: &Config, now: u64) -> Vec<Key> {
    let replies = replies(entries);
    let leads_nowhere = |entry: &Entry<V4Addr>| {
        TargetKind::from_u8(entry.target_kind) == Some(TargetKind::Endpoint)
            && standing.endpoints.get(&entry.target) != Some(&entry.target_generation)
    };
    let is_past = |key: &Key, entry: &Entry<V4Addr>| {
        let reply = replies.get(&entry.other);
        let seen = entry.seen.max(reply.map_or(0, |reply| reply.seen));
        is_expired(config, key.proto, entry.word, seen, now)
            || leads_nowhere(entry)
            || standing.owners.get(&entry.owner.slot) != Some(&entry.owner.generation)
            || reply.is_none_or(|reply| leads_nowhere(reply))
    };
    entries.iter().filter(|(key, entry)| entry.is_reply == 0 && is_past(key, entry)).map(|(key, _)| *key).collect()
}

fn replies(entries: &Entries) -> HashMap<Key, &Entry<V4Addr>> {
    entries.iter().filter(|(_, entry)| entry.is_reply != 0).map(|(key, entry)| (*key, entry)).collect()
}

fn describe(
    key: &Key,
    original: &Entry<V4Addr>,
    reply: &Entry<V4Addr>,
    names: &HashMap<Ipv4Addr, String>,
    config: &Config,
    now: u64,
) -> Flow {
    let other = &original.other;
    let ends = [key.src, key.dst, other.src, other.dst].map(Ipv4Addr::from);
    let mut containers: Vec<String> = ends.iter().filter_map(|address| names.get(address).cloned()).collect();
    containers.sort();
    containers.dedup();
    let hz = u64::from(config.hz.max(1));
    let idle = now.saturating_sub(original.seen.max(reply.seen));
    let limit = config.timeouts[timeout_of(key.proto, original.word) as usize];
    Flow {
        protocol: protocol_name(key.proto),
        state: state(original.word).into(),
        source: end(key.src, key.sport),
        destination: end(key.dst, key.dport),
        translated_source: end(other.dst, other.dport),
        translated_destination: end(other.src, other.sport),
        containers,
        packets: original.packets,
        bytes: original.bytes,
        reply_packets: reply.packets,
        reply_bytes: reply.bytes,
        idle: idle / hz,
        expires: limit.saturating_sub(idle) / hz,
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP => "icmp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

fn state(word: Word) -> &'static str {
    match word.life() {
        Life::None | Life::Dead => "dead",
        _ if word.has(Word::RESET) => "reset",
        _ if word.has(Word::FIN_ORIGINAL) && word.has(Word::FIN_REPLY) => "closed",
        _ if word.has(Word::CLOSING) => "closing",
        Life::Established => "established",
        Life::Half if word.has(Word::REPLIED) => "replied",
        Life::Half => "half",
    }
}

fn end(address: V4Addr, port: Be16) -> String {
    match port.get() {
        0 => format!("{address:?}"),
        port => format!("{address:?}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use netbpf_common::abi::{Scope, Timeout};

    use super::*;

    fn address(last: u8) -> V4Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn flow(seen: u64, reply_seen: u64) -> Entries {
        let original = Key::new(Scope::Uplink, 17, address(9), Be16::new(5000), address(1), Be16::new(53));
        let reply = Key::new(Scope::Container, 17, address(2), Be16::new(53), address(9), Be16::new(5000));
        let entry = Entry {
            word: Word::half(1),
            target: 1,
            target_generation: 7,
            target_kind: TargetKind::Endpoint as u8,
            ..Entry::default()
        };
        vec![
            (original, Entry { other: reply, seen, ..entry }),
            (reply, Entry { other: original, seen: reply_seen, is_reply: 1, target_kind: 2, ..entry }),
        ]
    }

    /// One endpoint, and the owner that every flow has by default.
    fn standing(generation: u32) -> Standing {
        Standing { endpoints: BTreeMap::from([(1, generation)]), owners: BTreeMap::from([(0, 0)]) }
    }

    #[test]
    fn a_flow_goes_with_its_publish() {
        let withdrawn = Standing { owners: BTreeMap::from([(0, 1)]), ..standing(7) };
        assert_eq!(past(&flow(0, 0), &withdrawn, &config(), 1).len(), 1);
    }

    fn config() -> Config {
        Config {
            hz: 100,
            timeouts: Timeout::DEFAULT_SECONDS.map(|seconds| u64::from(seconds) * 100),
            ..Config::default()
        }
    }

    #[test]
    fn a_flow_is_past_its_time_when_both_directions_are_silent() {
        assert_eq!(past(&flow(0, 2_000), &standing(7), &config(), 4_000).len(), 0);
        assert_eq!(past(&flow(0, 500), &standing(7), &config(), 4_000).len(), 1);
    }

    #[test]
    fn a_flow_goes_with_its_container() {
        assert_eq!(past(&flow(0, 0), &standing(7), &config(), 1).len(), 0);
        assert_eq!(past(&flow(0, 0), &standing(8), &config(), 1).len(), 1);
        assert_eq!(past(&flow(0, 0), &Standing { endpoints: BTreeMap::new(), ..standing(7) }, &config(), 1).len(), 1);
    }

    #[test]
    fn a_flow_is_shown_as_both_sides_see_it() {
        let entries = flow(100, 300);
        let names = HashMap::from([(Ipv4Addr::new(10, 0, 0, 2), "dns".to_owned())]);
        let shown = describe(&entries[0].0, &entries[0].1, &entries[1].1, &names, &config(), 600);
        assert_eq!((&*shown.source, &*shown.destination), ("10.0.0.9:5000", "10.0.0.1:53"));
        assert_eq!((&*shown.translated_source, &*shown.translated_destination), ("10.0.0.9:5000", "10.0.0.2:53"));
        assert_eq!((shown.containers, shown.idle, shown.expires), (vec!["dns".to_owned()], 3, 27));
    }
}
