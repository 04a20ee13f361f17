//! A snapshot, made ready for questions.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::{LowerName, Name};
use ipnet::IpNet;

use super::snapshot::{Network, Snapshot};

/// Who is asked where, by whom, for whom.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// What it was made of.
    snapshot: Arc<Snapshot>,
    /// One for each of its networks.
    zones: Vec<Arc<Zone>>,
    /// The network that each gateway belongs to.
    gateways: HashMap<IpAddr, usize>,
    /// The networks of each container, in the snapshot's order.
    containers: HashMap<Arc<str>, Vec<usize>>,
}

#[derive(Debug)]
struct Zone {
    name: Option<Name>,
    subnets: Vec<IpNet>,
    is_internal: bool,
    names: HashMap<LowerName, Holders>,
    members: HashMap<IpAddr, Known>,
}

/// Whose address it is.
#[derive(Debug)]
struct Known {
    container: Arc<str>,
    reverse: Option<Name>,
    upstreams: Arc<[IpAddr]>,
}

/// Who has a name.
#[derive(Debug, Default)]
struct Holders {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    turns: Arc<Turns>,
}

/// Whose turn it is to be named first. Each name and each family counts by itself: a stub resolver asks for both families at
/// every lookup, and so would always meet the same of two holders in a common count.
#[derive(Debug, Default)]
struct Turns {
    v4: AtomicUsize,
    v6: AtomicUsize,
}

/// A member that asks.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    index: &'a Index,
    /// Its networks; the one that it asks through is the first.
    zones: Vec<&'a Zone>,
    known: &'a Known,
}

/// What is known of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// It belongs to this name.
    Held(Name),
    /// It belongs to a member whose name is none in DNS.
    Nameless,
    /// It is out of one of our subnets, and nobody has it whom the asker may know of.
    Free,
    /// It is none of ours.
    Foreign,
}

impl Index {
    /// Names that stay go on in their turn. A change concerns few of many networks: the others stay as they are.
    pub(super) fn new(snapshot: &Arc<Snapshot>, before: &Self) -> Self {
        let mut index = Self { snapshot: snapshot.clone(), ..Self::default() };
        for (number, network) in snapshot.networks.iter().enumerate() {
            let same = before.snapshot.networks.iter().position(|other| other == network);
            let zone = same.map(|number| before.zones[number].clone());
            let zone = zone.unwrap_or_else(|| Arc::new(Zone::new(network, before)));
            index.gateways.extend(network.gateways.iter().map(|gateway| (*gateway, number)));
            for member in &network.members {
                let of = index.containers.entry(member.container.as_str().into()).or_default();
                if !of.contains(&number) {
                    of.push(number);
                }
            }
            index.zones.push(zone);
        }
        index
    }

    /// Whether the server itself answers there.
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateways.contains_key(&address)
    }

    /// The member that asks at a gateway; `None` for everybody else.
    pub(super) fn asker(&self, gateway: IpAddr, source: IpAddr) -> Option<Asker<'_>> {
        let asked = *self.gateways.get(&gateway)?;
        let known = self.zones[asked].members.get(&source)?;
        let others = self.containers.get(&known.container).into_iter().flatten().filter(|zone| **zone != asked);
        let zones = [&asked].into_iter().chain(others).map(|zone| &*self.zones[*zone]).collect();
        Some(Asker { index: self, zones, known })
    }
}

impl Zone {
    fn new(network: &Network, before: &Index) -> Self {
        let name = domain(&network.name);
        let before = before.zones.iter().find(|zone| zone.name == name);
        let mut names = HashMap::<LowerName, Holders>::new();
        let mut members = HashMap::new();
        for member in &network.members {
            let texts = [Some(&member.container), member.short_id.as_ref(), member.hostname.as_ref()];
            let all = texts.into_iter().flatten().chain(&member.aliases);
            // A container is a holder once, whatever of its names are the same.
            let all: BTreeSet<LowerName> = all.filter_map(|text| domain(text)).map(|name| (&name).into()).collect();
            for name in all {
                let holders = names.entry(name).or_default();
                for address in &member.addresses {
                    match address {
                        IpAddr::V4(address) => holders.v4.push(*address),
                        IpAddr::V6(address) => holders.v6.push(*address),
                    }
                }
            }
            let container = member.container.as_str().into();
            let reverse = domain(&format!("{}.{}", member.container, network.name)).or(domain(&member.container));
            let upstreams: Arc<[IpAddr]> = member.upstreams.as_slice().into();
            members.extend(member.addresses.iter().map(|address| {
                let known =
                    Known { container: Arc::clone(&container), reverse: reverse.clone(), upstreams: upstreams.clone() };
                (*address, known)
            }));
        }
        for (name, holders) in &mut names {
            if let Some(same) = before.and_then(|before| before.names.get(name)) {
                holders.turns = same.turns.clone();
            }
        }
        Self { name, subnets: network.subnets.clone(), is_internal: network.is_internal, names, members }
    }

    /// Who has a name, with or without the network's own name as its domain.
    fn holders(&self, name: &Name) -> Option<&Holders> {
        self.names.get(&name.into()).or_else(|| {
            let zone = self.name.as_ref().filter(|zone| zone.zone_of(name))?;
            let own = name.iter().len().checked_sub(zone.iter().len())?;
            self.names.get(&(&Name::from_labels(name.iter().take(own)).ok()?).into())
        })
    }
}

impl Asker<'_> {
    /// Who asks, in all of its networks.
    pub(super) fn container(&self) -> &Arc<str> {
        &self.known.container
    }

    /// The servers of its own.
    pub(super) fn upstreams(&self) -> &[IpAddr] {
        &self.known.upstreams
    }

    /// Whether a network of it has a way to the world.
    pub(super) fn may_forward(&self) -> bool {
        self.zones.iter().any(|zone| !zone.is_internal)
    }

    /// Whether there is such a name.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.zones.iter().any(|zone| zone.holders(name).is_some())
    }

    /// The IPv4 addresses of a name, in their turn. `None` when there is no such name, empty when it has no such address.
    pub(super) fn v4(&self, name: &Name) -> Option<Vec<Ipv4Addr>> {
        self.first(name, |holders| rotated(&holders.v4, &holders.turns.v4))
    }

    /// The same of its IPv6 addresses.
    pub(super) fn v6(&self, name: &Name) -> Option<Vec<Ipv6Addr>> {
        self.first(name, |holders| rotated(&holders.v6, &holders.turns.v6))
    }

    /// The first network that has any. Not all of them together: equal names in two networks are two things.
    fn first<A>(&self, name: &Name, addresses: impl Fn(&Holders) -> Vec<A>) -> Option<Vec<A>> {
        let mut known = None;
        for holders in self.zones.iter().filter_map(|zone| zone.holders(name)) {
            let found = addresses(holders);
            if !found.is_empty() {
                return Some(found);
            }
            known = Some(found);
        }
        known
    }

    /// The name of an address.
    pub(super) fn reverse(&self, address: IpAddr) -> Reverse {
        match self.zones.iter().find_map(|zone| zone.members.get(&address)) {
            Some(Known { reverse: Some(name), .. }) => Reverse::Held(name.clone()),
            Some(_) => Reverse::Nameless,
            None if self.index.zones.iter().flat_map(|zone| &zone.subnets).any(|subnet| subnet.contains(&address)) => {
                Reverse::Free
            }
            None => Reverse::Foreign,
        }
    }
}

/// A name of DNS; `None` when it is too long for one, or has an empty label.
fn domain(text: &str) -> Option<Name> {
    let name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    text.split('.').all(|label| !label.is_empty()).then_some(name)
}

fn rotated<A: Copy>(addresses: &[A], turn: &AtomicUsize) -> Vec<A> {
    let mut addresses = addresses.to_vec();
    if addresses.len() > 1 {
        let turn = turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
    }
    addresses
}
