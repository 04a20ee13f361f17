//! Who gets the broadcasts of whom: the endpoints of each network in a ring, which the datapath walks.

use std::collections::{BTreeMap, BTreeSet};

use netbpf_common::abi::Endpoint;

use super::Engine;
use crate::error::Result;

/// The slots of each network's endpoints, as the datapath was told.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<u16, BTreeSet<u32>>);

impl Members {
    fn of(endpoints: &[(u32, Endpoint)]) -> Self {
        let mut all = Self::default();
        for (slot, endpoint) in endpoints.iter().filter(|(_, endpoint)| *endpoint != Endpoint::default()) {
            all.0.entry(endpoint.network).or_default().insert(*slot);
        }
        all
    }

    /// The network that a slot is in.
    fn network_of(&self, slot: u32) -> Option<u16> {
        self.0.iter().find_map(|(network, slots)| slots.contains(&slot).then_some(*network))
    }

    /// Who comes before a slot in the ring of a network and who after it, the slot itself left out; none in an empty one.
    fn around(&self, network: u16, slot: u32) -> Option<(u32, u32)> {
        let slots = self.0.get(&network)?;
        let mut before = slots.range(..slot).rev().chain(slots.range(slot..).rev()).filter(|other| **other != slot);
        let mut after = slots.range(slot..).chain(slots.range(..slot)).filter(|other| **other != slot);
        Some((*before.next()?, *after.next()?))
    }

    /// Takes a slot, which is in no other network, into the ring of this one; `write` lets a slot point to another. A newcomer
    /// points on before anybody points to it.
    fn join(&mut self, slot: u32, network: u16, mut write: impl FnMut(u32, u32) -> Result<()>) -> Result<()> {
        let (before, after) = self.around(network, slot).unwrap_or((slot, slot));
        write(slot, after)?;
        if before != slot {
            write(before, slot)?;
        }
        self.0.entry(network).or_default().insert(slot);
        Ok(())
    }

    /// Lets the ring pass by a slot, before its own pointer goes.
    fn leave(&mut self, slot: u32, mut write: impl FnMut(u32, u32) -> Result<()>) -> Result<()> {
        let Some(network) = self.network_of(slot) else { return Ok(()) };
        if let Some((before, after)) = self.around(network, slot) {
            write(before, after)?;
        }
        write(slot, 0)?;
        if let Some(slots) = self.0.get_mut(&network) {
            slots.remove(&slot);
        }
        Ok(())
    }
}

impl Engine {
    /// Takes an endpoint into the ring of its network.
    pub(super) fn join_members(&self, slot: u32, network: u16) -> Result<()> {
        let table = &self.datapath.maps.members;
        let mut members = self.members.lock().expect("no panic while it was held");
        if members.network_of(slot).is_some_and(|before| before != network) {
            drop(members);
            return self.follow_members();
        }
        members.join(slot, network, |slot, next| table.set(slot, next))
    }

    /// Lets the ring pass by an endpoint that is no more.
    pub(super) fn leave_members(&self, slot: u32) -> Result<()> {
        let table = &self.datapath.maps.members;
        let mut members = self.members.lock().expect("no panic while it was held");
        members.leave(slot, |slot, next| table.set(slot, next))
    }

    /// Lets the rings be those of the endpoints that there are. A newcomer points on before anybody points to it, and who
    /// has left is passed by before its own pointer goes: a walk never ends halfway.
    pub(super) fn follow_members(&self) -> Result<()> {
        let maps = &self.datapath.maps;
        let mut known = self.members.lock().expect("no panic while it was held");
        let members = Members::of(&maps.endpoints.entries()?);
        let wanted = rings(&members);
        let before: BTreeMap<u32, u32> = maps.members.entries()?.into_iter().filter(|(_, next)| *next != 0).collect();
        let (old, new): (Vec<_>, Vec<_>) = wanted.iter().partition(|(slot, _)| before.contains_key(slot));
        for (slot, next) in new.into_iter().chain(old) {
            if before.get(slot) != Some(next) {
                maps.members.set(*slot, *next)?;
            }
        }
        for slot in before.keys().filter(|slot| !wanted.contains_key(slot)) {
            maps.members.set(*slot, 0)?;
        }
        *known = members;
        Ok(())
    }
}

/// From each slot to the next of its network, and from the last to the first.
fn rings(members: &Members) -> BTreeMap<u32, u32> {
    let ring = |slots: &BTreeSet<u32>| {
        let next: Vec<u32> = slots.iter().cycle().skip(1).take(slots.len()).copied().collect();
        slots.iter().copied().zip(next).collect::<Vec<_>>()
    };
    members.0.values().flat_map(ring).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_network_is_a_ring_of_its_own() {
        let of = |network| Endpoint { generation: 1, network, ..Endpoint::default() };
        let endpoints =
            [(0, Endpoint::default()), (9, of(1)), (3, of(1)), (5, of(2)), (7, of(1)), (8, Endpoint::default())];
        let members = Members::of(&endpoints);
        assert_eq!(rings(&members), BTreeMap::from([(3, 7), (7, 9), (9, 3), (5, 5)]));
        assert!(rings(&Members::default()).is_empty());
        // The neighbours of those that are in it, and of one that comes.
        let around = |slot| members.around(1, slot);
        assert_eq!([3, 7, 9, 2, 8, 10].map(around), [(9, 7), (3, 9), (7, 3), (9, 3), (7, 9), (9, 3)].map(Some));
        assert_eq!((members.around(2, 5), members.around(2, 6), members.around(3, 1)), (None, Some((5, 5)), None));
        assert_eq!((members.network_of(5), members.network_of(8)), (Some(2), None));
    }

    /// Slots of the model, which are less than this.
    const SLOTS: u32 = 9;

    /// What the datapath meets that begins a walk at a slot, as `path::broadcast` walks; nothing if it comes to no end.
    fn walk(table: &BTreeMap<u32, u32>, slot: u32) -> Option<BTreeSet<u32>> {
        let step = |from| table.get(&from).copied().unwrap_or(0);
        let (first, mut next, mut met) = (step(slot), step(slot), BTreeSet::new());
        for turn in 0..=SLOTS {
            if next == slot || next == 0 || turn != 0 && next == first {
                return Some(met);
            }
            met.insert(next);
            next = step(next);
        }
        None
    }

    proptest! {
        /// After any comings and goings each reaches all others of its network, and at each write in between those who stay.
        #[test]
        fn whoever_comes_and_goes_the_rings_are_those_of_the_members(
            turns in prop::collection::vec((1..SLOTS, 1_u16..4, any::<bool>()), 0..60),
        ) {
            let (mut members, mut is_in) = (Members::default(), BTreeMap::new());
            let table = RefCell::new(BTreeMap::new());
            for (slot, network, comes) in turns {
                let stay: BTreeMap<u32, u16> = is_in.iter().map(|(s, n)| (*s, *n)).filter(|(s, _)| *s != slot).collect();
                let others = |of: u16, but: u32| -> BTreeSet<u32> {
                    stay.iter().filter(|(s, n)| **n == of && **s != but).map(|(s, _)| *s).collect()
                };
                let write = |at: u32, next: u32| {
                    table.borrow_mut().insert(at, next);
                    for (from, of) in &stay {
                        let met = walk(&table.borrow(), *from).expect("a walk ends");
                        assert!(met.is_superset(&others(*of, *from)), "{from} has met {met:?}: {table:?}");
                    }
                    Ok(())
                };
                if comes {
                    // Who changes networks leaves first, as a slot that is given anew was given back.
                    if is_in.get(&slot).is_some_and(|before| *before != network) {
                        continue;
                    }
                    members.join(slot, network, write).expect("written");
                    is_in.insert(slot, network);
                } else {
                    members.leave(slot, write).expect("written");
                    is_in.remove(&slot);
                }
                let endpoint = |(slot, network): (&u32, &u16)| {
                    (*slot, Endpoint { generation: 1, network: *network, ..Endpoint::default() })
                };
                let there: Vec<(u32, Endpoint)> = is_in.iter().map(endpoint).collect();
                let mut written = table.borrow().clone();
                written.retain(|_, next| *next != 0);
                prop_assert_eq!(&written, &rings(&members));
                prop_assert_eq!(&written, &rings(&Members::of(&there)));
                for (from, of) in &is_in {
                    let all = is_in.iter().filter(|(s, n)| *n == of && *s != from).map(|(s, _)| *s).collect();
                    prop_assert_eq!(walk(&written, *from), Some(all));
                }
            }
        }
    }
}
