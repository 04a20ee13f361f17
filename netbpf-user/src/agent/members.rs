//! Who gets the broadcasts of whom: the endpoints of each network in a ring, which the datapath walks.

use std::collections::BTreeMap;

use netbpf_common::abi::Endpoint;

use super::Engine;
use crate::error::Result;

impl Engine {
    /// Lets the rings be those of the endpoints that there are. A newcomer points on before anybody points to it, and who
    /// has left is passed by before its own pointer goes: a walk never ends halfway.
    pub(super) fn follow_members(&self) -> Result<()> {
        let maps = &self.datapath.maps;
        let wanted = rings(&maps.endpoints.entries()?);
        let before: BTreeMap<u32, u32> = maps.members.entries()?.into_iter().filter(|(_, next)| *next != 0).collect();
        let (known, new): (Vec<_>, Vec<_>) = wanted.iter().partition(|(slot, _)| before.contains_key(slot));
        for (slot, next) in new.into_iter().chain(known) {
            if before.get(slot) != Some(next) {
                maps.members.set(*slot, *next)?;
            }
        }
        for slot in before.keys().filter(|slot| !wanted.contains_key(slot)) {
            maps.members.set(*slot, 0)?;
        }
        Ok(())
    }
}

/// From each slot to the next of its network, and from the last to the first.
fn rings(endpoints: &[(u32, Endpoint)]) -> BTreeMap<u32, u32> {
    let mut networks: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for (slot, endpoint) in endpoints.iter().filter(|(_, endpoint)| *endpoint != Endpoint::default()) {
        networks.entry(endpoint.network).or_default().push(*slot);
    }
    let ring = |mut slots: Vec<u32>| {
        slots.sort_unstable();
        let next: Vec<u32> = slots.iter().cycle().skip(1).take(slots.len()).copied().collect();
        slots.into_iter().zip(next)
    };
    networks.into_values().flat_map(ring).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_a_ring_of_its_own() {
        let of = |network| Endpoint { generation: 1, network, ..Endpoint::default() };
        let endpoints =
            [(0, Endpoint::default()), (9, of(1)), (3, of(1)), (5, of(2)), (7, of(1)), (8, Endpoint::default())];
        assert_eq!(rings(&endpoints), BTreeMap::from([(3, 7), (7, 9), (9, 3), (5, 5)]));
        assert!(rings(&[]).is_empty());
    }
}
