//! Which flows are past their time: what the agent asks the program `collect` to look at again.
//!
//! The table is looked through a few thousand entries at a time, and what looks past its time is handed over at once: a
//! table of millions is never in memory as a whole. One entry does not tell when the other direction was used last; that
//! the program looks up.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};

use netbpf_common::abi::{Config, ConfigFlags, Flow, FlowKey, Scope, TargetKind, Word};
use netbpf_common::flow::{is_expired, makes_room};
use netbpf_common::wire::{Be16, V4Addr, V6Addr};

use super::Engine;
use crate::datapath::{Datapath, InFamily, clock};
use crate::error::{Context as _, Result};

impl Engine {
    /// Deletes flows that have been silent too long, and those whose container or publish is gone. Returns how many.
    pub(super) async fn collect(&self) -> Result<u32> {
        let endpoints: BTreeMap<u32, u32> = {
            let state = self.state.lock().await;
            state.endpoints().map(|(_, endpoint)| (endpoint.slot, endpoint.generation)).collect()
        };
        let datapath = self.datapath.clone();
        tokio::task::spawn_blocking(move || collect(&datapath, endpoints)).await.context(|| "collect flows".into())?
    }
}

fn collect(datapath: &Datapath, endpoints: BTreeMap<u32, u32>) -> Result<u32> {
    let maps = &datapath.maps;
    let config = maps.config.get(0)?.unwrap_or_default();
    let (owners, confirmed) = (HashMap::new(), HashMap::new());
    let mut standing = Standing { endpoints, owners, confirmed, config, now: clock::jiffies()? };
    Ok(collect_family::<V4Addr>(datapath, &mut standing)? + collect_family::<V6Addr>(datapath, &mut standing)?)
}

fn collect_family<A: InFamily>(datapath: &Datapath, standing: &mut Standing) -> Result<u32> {
    let maps = &datapath.maps;
    let has_mappings = standing.config.flags & ConfigFlags::MAPPINGS != 0;
    let mut mappings = Mappings::<A>::new();
    let mut collected = 0;
    A::maps(maps).flows.each(|keys, entries| {
        let mut past = Vec::new();
        for (key, entry) in keys.iter().zip(entries) {
            let owner = entry.owner.slot;
            if let hash_map::Entry::Vacant(place) = standing.owners.entry(owner) {
                place.insert(maps.generations.get(owner)?.unwrap_or(0));
            }
            if let hash_map::Entry::Vacant(place) = standing.confirmed.entry(entry.payer) {
                // One CPU may count an end before another has counted the beginning.
                place.insert(
                    maps.confirmed.get(entry.payer)?.map_or(0, |count| count.cast_signed().max(0).unsigned_abs()),
                );
            }
            let is_past = standing.is_past(key, entry);
            if has_mappings {
                mappings.look(key, entry, is_past);
            }
            if is_past && !(has_mappings && entry.word.has(Word::MAPPING)) {
                past.push(original(key, entry));
            }
        }
        collected += datapath.collect(&past)?;
        Ok(())
    })?;
    Ok(collected + datapath.collect(&mappings.unused())?)
}

/// The key of the O entry, which has the authoritative word.
fn original<A: InFamily>(key: &FlowKey<A>, entry: &Flow<A>) -> FlowKey<A> {
    if entry.is_reply == 0 { *key } else { entry.other }
}

/// What flows can rest on: generations by slot, and the time.
#[derive(Debug)]
struct Standing {
    /// Of the endpoints that are there.
    endpoints: BTreeMap<u32, u32>,
    /// Of the rules and epochs that were met.
    owners: HashMap<u32, u32>,
    /// How many confirmed flows are counted for those that were met, by slot.
    confirmed: HashMap<u32, u64>,
    config: Config,
    now: u64,
}

impl Standing {
    /// Whether the flow of an entry may be past its time, for all that this entry tells.
    fn is_past<A: InFamily>(&self, key: &FlowKey<A>, entry: &Flow<A>) -> bool {
        let leads_nowhere = TargetKind::from_u8(entry.target_kind) == Some(TargetKind::Endpoint)
            && self.endpoints.get(&entry.target) != Some(&entry.target_generation);
        // The word of an R entry lags behind.
        leads_nowhere
            || entry.is_reply == 0
                && (is_expired(&self.config, key.proto, entry.word, entry.seen, self.now)
                    || makes_room(&self.config, entry.word, self.confirmed.get(&entry.payer).copied().unwrap_or(0))
                    || self.owners.get(&entry.owner.slot) != Some(&entry.owner.generation))
    }
}

/// Endpoint-independent mappings that are past their time, unless a flow uses them: that one's packets do not touch them.
#[derive(Debug)]
struct Mappings<A> {
    past: HashSet<FlowKey<A>>,
    used: HashSet<FlowKey<A>>,
}

/// A container's port, whoever the other end is.
fn port<A: InFamily>(key: &FlowKey<A>) -> FlowKey<A> {
    FlowKey::new(Scope::Container, key.proto, key.src, key.sport, A::default(), Be16::ZERO)
}

impl<A: InFamily> Mappings<A> {
    fn new() -> Self {
        Self { past: HashSet::new(), used: HashSet::new() }
    }

    fn look(&mut self, key: &FlowKey<A>, entry: &Flow<A>, is_past: bool) {
        if !entry.word.has(Word::MAPPING) {
            // Whoever the other end is: outside, or by way of the mapping a neighbour.
            if key.scope == Scope::Container as u16 {
                self.used.insert(port(key));
            }
        } else if is_past {
            self.past.insert(original(key, entry));
        }
    }

    fn unused(self) -> Vec<FlowKey<A>> {
        self.past.into_iter().filter(|mapping| !self.used.contains(&port(mapping))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netbpf_common::abi::Timeout;

    use super::*;

    type Key = FlowKey<V4Addr>;
    type Entry = Flow<V4Addr>;

    fn address(last: u8) -> V4Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    const UDP: u8 = 17;

    fn key(scope: Scope) -> Key {
        Key::new(scope, UDP, address(9), Be16::new(5000), address(1), Be16::new(53))
    }

    fn entry() -> Entry {
        Entry {
            word: Word::half(1),
            target: 1,
            target_generation: 7,
            target_kind: TargetKind::Endpoint as u8,
            ..Entry::default()
        }
    }

    /// One endpoint, and the owner that every flow has by default.
    fn standing(now: u64) -> Standing {
        let timeouts = Timeout::DEFAULT_SECONDS.map(|seconds| u64::from(seconds) * 100);
        Standing {
            endpoints: BTreeMap::from([(1, 7)]),
            owners: HashMap::from([(0, 0)]),
            confirmed: HashMap::from([(1, 10)]),
            config: Config { hz: 100, timeouts, flow_limit: 20, ..Config::default() },
            now,
        }
    }

    #[test]
    fn a_flow_that_was_silent_too_long_is_looked_at() {
        let key = key(Scope::Uplink);
        assert!(!standing(3000).is_past(&key, &entry()));
        assert!(standing(3001).is_past(&key, &entry()));
        assert!(!standing(3001).is_past(&key, &Entry { is_reply: 1, ..entry() }), "its O entry tells");
    }

    #[test]
    fn a_flow_goes_with_its_container_whichever_entry_leads_there() {
        let key = key(Scope::Uplink);
        for is_reply in [0, 1] {
            let entry = Entry { is_reply, ..entry() };
            assert!(!standing(1).is_past(&key, &entry));
            assert!(Standing { endpoints: BTreeMap::from([(1, 8)]), ..standing(1) }.is_past(&key, &entry));
            assert!(Standing { endpoints: BTreeMap::new(), ..standing(1) }.is_past(&key, &entry));
        }
    }

    #[test]
    fn a_closed_connection_makes_room_when_its_container_has_half_of_what_it_may_have() {
        let closed = Entry { word: Word::half(1).established().with(Word::TIME_WAIT), payer: 1, ..entry() };
        let tcp = Key::new(Scope::Uplink, 6, address(9), Be16::new(5000), address(1), Be16::new(80));
        let with = |confirmed| Standing { confirmed: HashMap::from([(1, confirmed)]), ..standing(1) };
        assert!(!with(10).is_past(&tcp, &closed));
        assert!(with(11).is_past(&tcp, &closed));
        assert!(!with(11).is_past(&tcp, &Entry { payer: 2, ..closed }), "another's");
        assert!(!with(11).is_past(&tcp, &Entry { word: Word::half(1).established(), ..closed }), "it is open");
    }

    #[test]
    fn a_flow_goes_with_its_publish() {
        let withdrawn = Standing { owners: HashMap::from([(0, 1)]), ..standing(1) };
        assert!(withdrawn.is_past(&key(Scope::Uplink), &entry()));
    }

    #[test]
    fn a_mapping_stays_as_long_as_a_flow_uses_it() {
        // With the uplink's address in place of the other end.
        let inner = Key::new(Scope::Container, UDP, address(9), Be16::new(5000), address(77), Be16::ZERO);
        let mapping = Entry { word: Word::half(2).established().with(Word::MAPPING), ..entry() };
        let flow = Entry { other: key(Scope::Uplink), ..entry() };
        let unused = |flows: &[(Key, Entry)]| {
            let mut mappings = Mappings::new();
            mappings.look(&inner, &mapping, true);
            flows.iter().for_each(|(key, entry)| mappings.look(key, entry, false));
            mappings.unused()
        };
        assert_eq!(unused(&[]), [inner]);
        assert_eq!(unused(&[(key(Scope::Container), flow)]), []);
        let neighbour = Entry { other: key(Scope::Container), ..entry() };
        assert_eq!(unused(&[(key(Scope::Container), neighbour)]), []);
        assert_eq!(unused(&[(key(Scope::Host), flow)]), [inner], "a flow of others");
    }
}
