//! The flow table as a user reads it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netbpf_common::abi::{Config, Flow as Entry, FlowKey};
use netbpf_common::flow::State;
use netbpf_common::wire::{Be16, V4Addr, V6Addr, protocol};

use super::Engine;
use crate::api::types::Flow;
use crate::datapath::{Datapath, InFamily, clock};
use crate::error::{Context as _, Result};

type Entries<A> = Vec<(FlowKey<A>, Entry<A>)>;

/// Names of containers by the addresses that they are known by.
type Names = HashMap<IpAddr, String>;

impl Engine {
    /// The flow tables, or the part of them that concerns one container.
    pub async fn flows(&self, container: Option<&str>) -> Result<Vec<Flow>> {
        let names: Names = {
            let state = self.state.lock().await;
            if let Some(name) = container {
                state.container(name)?;
            }
            let reached = state.endpoints().flat_map(|(record, endpoint)| {
                let addresses = endpoint.reached_by(state.networks.of(endpoint));
                addresses.into_iter().map(|address| (address, record.name.clone()))
            });
            reached.collect()
        };
        let datapath = self.datapath.clone();
        let read = move || {
            let (config, now) = (datapath.maps.config.get(0)?.unwrap_or_default(), clock::jiffies()?);
            let mut flows = read_flows::<V4Addr>(&datapath, &names, &config, now)?;
            flows.extend(read_flows::<V6Addr>(&datapath, &names, &config, now)?);
            Ok(flows)
        };
        let mut flows: Vec<Flow> =
            tokio::task::spawn_blocking(read).await.context(|| "read the flow tables".into())??;
        if let Some(name) = container {
            flows.retain(|flow| flow.containers.iter().any(|end| end == name));
        }
        Ok(flows)
    }
}

fn read_flows<A: InFamily>(datapath: &Datapath, names: &Names, config: &Config, now: u64) -> Result<Vec<Flow>> {
    let entries = A::maps(&datapath.maps).flows.entries()?;
    let replies = replies(&entries);
    let originals = entries.iter().filter(|(_, entry)| entry.is_reply == 0);
    let nothing = Entry::default();
    let reply = |original: &Entry<A>| replies.get(&original.other).copied().unwrap_or(&nothing);
    Ok(originals.map(|(key, entry)| describe(key, entry, reply(entry), names, config, now)).collect())
}

fn replies<A: InFamily>(entries: &Entries<A>) -> HashMap<FlowKey<A>, &Entry<A>> {
    entries.iter().filter(|(_, entry)| entry.is_reply != 0).map(|(key, entry)| (*key, entry)).collect()
}

fn describe<A: InFamily>(
    key: &FlowKey<A>,
    original: &Entry<A>,
    reply: &Entry<A>,
    names: &Names,
    config: &Config,
    now: u64,
) -> Flow {
    let other = &original.other;
    let ends: [IpAddr; 4] = [key.src, key.dst, other.src, other.dst].map(A::into);
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
        protocol::ICMPV6 => "icmpv6".into(),
        protocol::SCTP => "sctp".into(),
        other => other.to_string(),
    }
}

fn end(address: impl Into<IpAddr>, port: Be16) -> String {
    let address = address.into();
    match port.get() {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use netbpf_common::abi::{Scope, Timeout, Word};

    use super::*;

    /// From a client to a host, and from a container back to the client.
    fn flow<A: InFamily>(addresses: [&str; 3], seen: u64, reply_seen: u64) -> Entries<A> {
        let [client, host, container] = addresses.map(|text| A::of(text.parse().unwrap()).unwrap());
        let original = FlowKey::new(Scope::Uplink, 17, client, Be16::new(5000), host, Be16::new(53));
        let reply = FlowKey::new(Scope::Container, 17, container, Be16::new(53), client, Be16::new(5000));
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
        let entries = flow::<V4Addr>(["10.0.0.9", "10.0.0.1", "10.0.0.2"], 100, 300);
        let names = HashMap::from([("10.0.0.2".parse().unwrap(), "dns".to_owned())]);
        let shown = describe(&entries[0].0, &entries[0].1, &entries[1].1, &names, &config(), 600);
        assert_eq!((&*shown.source, &*shown.destination), ("10.0.0.9:5000", "10.0.0.1:53"));
        assert_eq!((&*shown.translated_source, &*shown.translated_destination), ("10.0.0.9:5000", "10.0.0.2:53"));
        assert_eq!((shown.containers, shown.idle, shown.expires), (vec!["dns".to_owned()], 3, 27));
    }

    #[test]
    fn addresses_of_ipv6_stand_in_brackets_before_a_port() {
        let entries = flow::<V6Addr>(["2001:db8::9", "2001:db8::1", "fd00::2"], 100, 300);
        let names = HashMap::from([("fd00::2".parse().unwrap(), "dns".to_owned())]);
        let shown = describe(&entries[0].0, &entries[0].1, &entries[1].1, &names, &config(), 600);
        assert_eq!((&*shown.source, &*shown.translated_destination), ("[2001:db8::9]:5000", "[fd00::2]:53"));
        assert_eq!(shown.containers, ["dns"]);
        let ping = V6Addr::of("fd00::2".parse().unwrap()).unwrap();
        assert_eq!(end(ping, Be16::ZERO), "fd00::2");
    }
}
