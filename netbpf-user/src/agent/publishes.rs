//! Which host port is published by whom: the agent's own copy of what the datapath has in the `PORTS` and
//! `PUBLISHED` tables of both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netbpf_common::abi::{PublishedPort, RULES, Transport};

use crate::datapath::InFamily;
use crate::error::{Error, Result};
use crate::spec::{Host, transport_name};
use crate::store::RuleRecord;

/// A range of host ports and who has it. There may be a hundred thousand: no name here.
#[derive(Clone, Copy, Debug)]
struct Entry {
    last: u16,
    rule: u32,
}

/// Ranges by their first port. No two overlap.
type Ranges = BTreeMap<u16, Entry>;

/// All publishes of an instance.
#[derive(Debug)]
pub(super) struct Publishes {
    ranges: BTreeMap<(Transport, IpAddr), Ranges>,
    /// Which numbers are in use.
    rules: Box<[bool]>,
    last_rule: u32,
}

impl Default for Publishes {
    fn default() -> Self {
        Self { ranges: BTreeMap::new(), rules: vec![false; RULES as usize].into(), last_rule: 0 }
    }
}

/// The publish that stands in the way of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its number.
    pub(super) rule: u32,
    /// Its address of the host.
    pub(super) address: IpAddr,
    /// The first port that both want.
    pub(super) port: u16,
}

impl Publishes {
    /// Who has any port of a range already. A publish for every address conflicts with one for a single address; one of IPv4
    /// never with one of IPv6.
    pub(super) fn holder(&self, transport: Transport, address: IpAddr, first: u16, last: u16) -> Option<Holder> {
        self.ranges.iter().find_map(|((other, theirs), ranges)| {
            let meets = *other == transport && meet(*theirs, address);
            let (start, entry) = overlap(ranges, first, last).filter(|_| meets)?;
            Some(Holder { rule: entry.rule, address: *theirs, port: start.max(first) })
        })
    }

    /// A rule number that is free, and was not freed just now.
    pub(super) fn free_rule(&mut self) -> Result<u32> {
        let next = (1..RULES)
            .map(|step| (self.last_rule + step) % RULES)
            .find(|rule| *rule != 0 && !self.has_rule(*rule))
            .ok_or_else(|| Error::Exhausted(format!("all {} publish rules are in use: unpublish some", RULES - 1)))?;
        self.last_rule = next;
        Ok(next)
    }

    /// Notes a publish; [`Self::holder`] has said that it is free.
    pub(super) fn insert(&mut self, rule: &RuleRecord) {
        let entry = Entry { last: rule.last_port(), rule: rule.rule };
        self.ranges.entry((rule.transport, rule.host_ip)).or_default().insert(rule.host_port, entry);
        self.note(rule.rule, true);
    }

    /// Forgets a publish.
    pub(super) fn remove(&mut self, rule: &RuleRecord) {
        let key = (rule.transport, rule.host_ip);
        if let Some(ranges) = self.ranges.get_mut(&key) {
            ranges.remove(&rule.host_port);
            if ranges.is_empty() {
                self.ranges.remove(&key);
            }
        }
        self.note(rule.rule, false);
    }

    fn note(&mut self, rule: u32, is_used: bool) {
        if let Some(place) = self.rules.get_mut(rule as usize) {
            *place = is_used;
        }
    }

    /// Whether a rule number is in use.
    pub(super) fn has_rule(&self, rule: u32) -> bool {
        self.rules.get(rule as usize).is_some_and(|is_used| *is_used)
    }

    /// What the `PORTS` array of one family has to say about a port.
    pub(super) fn port<A: InFamily>(&self, transport: Transport, port: u16) -> PublishedPort {
        let mut published = PublishedPort::default();
        let of_family = |(other, address): &(Transport, IpAddr)| *other == transport && A::of(*address).is_some();
        for ((_, address), ranges) in self.ranges.iter().filter(|(key, _)| of_family(key)) {
            let Some((_, entry)) = overlap(ranges, port, port) else { continue };
            if address.is_unspecified() {
                published.wildcard = entry.rule;
            } else {
                published.specific += 1;
            }
        }
        published
    }
}

/// Whether a packet can be to both: to the one address they share, or to any where one of them means all of its family.
pub(super) fn meet(one: IpAddr, other: IpAddr) -> bool {
    one == other || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
}

/// The first range that has any of these ports: the one that reaches over `first`, or else the next to start.
fn overlap(ranges: &Ranges, first: u16, last: u16) -> Option<(u16, &Entry)> {
    let before = ranges.range(..=first).next_back().filter(|(_, entry)| entry.last >= first);
    before.or_else(|| ranges.range(first..=last).next()).map(|(start, entry)| (*start, entry))
}

impl Holder {
    /// The refusal that names the holder's container.
    pub(super) fn refuse(&self, transport: Transport, container: &str) -> Error {
        Error::Conflict(format!(
            "port {}:{}/{} is published by container {container}: choose another host port, or unpublish that one",
            Host(self.address),
            self.port,
            transport_name(transport),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use netbpf_common::wire::{V4Addr, V6Addr};

    use super::*;
    use crate::store::Audience;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    const ONE_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn rule(rule: u32, host_ip: IpAddr, host_port: u16, count: u16) -> RuleRecord {
        RuleRecord {
            rule,
            host_ip,
            host_port,
            container_port: 80,
            more: count - 1,
            transport: Transport::Tcp,
            allowed: Audience::default(),
        }
    }

    #[test]
    fn all_addresses_conflict_with_one_and_two_single_ones_do_not() {
        let mut publishes = Publishes::default();
        publishes.insert(&rule(1, ONE, 8080, 1));
        let holder = |publishes: &Publishes, address| {
            publishes.holder(Transport::Tcp, address, 8080, 8080).map(|holder| holder.rule)
        };
        assert_eq!(holder(&publishes, ANY), Some(1));
        assert_eq!(holder(&publishes, ONE), Some(1));
        assert_eq!(holder(&publishes, TWO), None);
        assert_eq!(publishes.holder(Transport::Udp, ONE, 8080, 8080), None);
        publishes.insert(&rule(2, ANY, 9090, 1));
        assert!(publishes.holder(Transport::Tcp, TWO, 9090, 9090).is_some());
    }

    #[test]
    fn the_families_do_not_conflict() {
        let mut publishes = Publishes::default();
        publishes.insert(&rule(1, ANY, 80, 1));
        let holder = |publishes: &Publishes, address| {
            publishes.holder(Transport::Tcp, address, 80, 80).map(|holder| holder.rule)
        };
        assert_eq!(holder(&publishes, ANY_V6), None);
        assert_eq!(holder(&publishes, ONE_V6), None);
        publishes.insert(&rule(2, ANY_V6, 80, 1));
        assert_eq!(holder(&publishes, ONE), Some(1));
        assert_eq!(holder(&publishes, ONE_V6), Some(2));
        assert_eq!(publishes.port::<V4Addr>(Transport::Tcp, 80).wildcard, 1);
        assert_eq!(publishes.port::<V6Addr>(Transport::Tcp, 80).wildcard, 2);
    }

    #[test]
    fn ranges_meet_wherever_they_overlap() {
        let mut publishes = Publishes::default();
        publishes.insert(&rule(1, ANY, 1000, 10));
        let port = |first, last| publishes.holder(Transport::Tcp, ANY, first, last).map(|holder| holder.port);
        assert_eq!(port(990, 999), None);
        assert_eq!(port(990, 1000), Some(1000));
        assert_eq!(port(1005, 2000), Some(1005));
        assert_eq!(port(900, 2000), Some(1000));
        assert_eq!(port(1010, 2000), None);
    }

    #[test]
    fn the_array_says_who_has_a_port_and_how_many_have_it_on_single_addresses() {
        let mut publishes = Publishes::default();
        publishes.insert(&rule(1, ONE, 80, 1));
        publishes.insert(&rule(2, TWO, 80, 1));
        publishes.insert(&rule(3, ANY, 81, 2));
        assert_eq!(publishes.port::<V4Addr>(Transport::Tcp, 80), PublishedPort { wildcard: 0, specific: 2 });
        assert_eq!(publishes.port::<V4Addr>(Transport::Tcp, 82), PublishedPort { wildcard: 3, specific: 0 });
        publishes.remove(&rule(1, ONE, 80, 1));
        assert_eq!(publishes.port::<V4Addr>(Transport::Tcp, 80), PublishedPort { wildcard: 0, specific: 1 });
    }

    #[test]
    fn a_freed_rule_number_rests() {
        let mut publishes = Publishes::default();
        let first = publishes.free_rule().unwrap();
        publishes.insert(&rule(first, ANY, 80, 1));
        publishes.remove(&rule(first, ANY, 80, 1));
        assert_ne!(publishes.free_rule().unwrap(), first);
    }
}
