//! The flow table as a user reads it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use netbpf_common::abi::{Config, Flow as Entry, FlowKey};
use netbpf_common::flow::State;
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

    async fn read_flows(&self) -> Result<(Entries, Config, u64)> {
        let datapath = self.datapath.clone();
        let read = move || {
            let entries = datapath.maps.flows.entries()?;
            Ok((entries, datapath.maps.config.get(0)?.unwrap_or_default(), clock::jiffies()?))
        };
        tokio::task::spawn_blocking(read).await.context(|| "read the flow table".into())?
    }
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
    let state = State::of(key.proto, original.word);
    let limit = config.timeouts[state.timeout(key.proto) as usize];
    Flow {
        protocol: protocol_name(key.proto),
        state: state.name().into(),
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
        protocol::SCTP => "sctp".into(),
        other => other.to_string(),
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
    use netbpf_common::abi::{Scope, Timeout, Word};

    use super::*;

    fn address(last: u8) -> V4Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn flow(seen: u64, reply_seen: u64) -> Entries {
        let original = Key::new(Scope::Uplink, 17, address(9), Be16::new(5000), address(1), Be16::new(53));
        let reply = Key::new(Scope::Container, 17, address(2), Be16::new(53), address(9), Be16::new(5000));
        let entry = Entry { word: Word::half(1), ..Entry::default() };
        vec![
            (original, Entry { other: reply, seen, ..entry }),
            (reply, Entry { other: original, seen: reply_seen, is_reply: 1, ..entry }),
        ]
    }

    fn config() -> Config {
        Config {
            hz: 100,
            timeouts: Timeout::DEFAULT_SECONDS.map(|seconds| u64::from(seconds) * 100),
            ..Config::default()
        }
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
