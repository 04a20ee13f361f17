//! Address families as the datapath has tables for them: one struct, two instances.

use std::net::IpAddr;
use std::path::Path;

use netbpf_common::abi::{Flow, FlowKey, PublishKey, PublishedPort, Visitors, map, program};
use netbpf_common::wire::{Address, V4Addr, V6Addr};

use super::Maps;
use super::table::Table;
use crate::error::Result;

/// The maps that one address family has of its own.
#[derive(Debug)]
pub struct FamilyMaps<A> {
    /// Slots by address.
    pub addresses: Table<A, u32>,
    /// Virtual indexes by address of the host.
    pub locals: Table<A, u32>,
    /// Addresses of the host by virtual index.
    pub virtuals: Table<u32, A>,
    /// What ports are published as.
    pub ports: Table<u32, PublishedPort>,
    /// Rules of publishes on single addresses.
    pub published: Table<PublishKey<A>, u32>,
    /// Whom restricted publishes let in.
    pub allowed: Table<Visitors<A>, u32>,
    /// The flow table.
    pub flows: Table<FlowKey<A>, Flow<A>>,
}

impl<A: InFamily> FamilyMaps<A> {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let map::OfFamily { addresses, locals, virtuals, ports, published, allowed, flows, .. } = A::NAMES;
        Ok(Self {
            addresses: Table::open(directory, addresses)?,
            locals: Table::open(directory, locals)?,
            virtuals: Table::open(directory, virtuals)?,
            ports: Table::open(directory, ports)?,
            published: Table::open(directory, published)?,
            allowed: Table::open(directory, allowed)?,
            flows: Table::open(directory, flows)?,
        })
    }
}

/// An address of a family that the datapath has tables for.
pub trait InFamily: Address + Into<IpAddr> {
    /// Names of the family's maps.
    const NAMES: map::OfFamily;
    /// The program that deletes its flows.
    const COLLECT: &'static str;

    /// An address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// The family's maps.
    fn maps(maps: &Maps) -> &FamilyMaps<Self>;
}

impl InFamily for V4Addr {
    const NAMES: map::OfFamily = map::V4;
    const COLLECT: &'static str = program::COLLECT_V4;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn maps(maps: &Maps) -> &FamilyMaps<Self> {
        &maps.v4
    }
}

impl InFamily for V6Addr {
    const NAMES: map::OfFamily = map::V6;
    const COLLECT: &'static str = program::COLLECT_V6;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.into()),
        }
    }

    fn maps(maps: &Maps) -> &FamilyMaps<Self> {
        &maps.v6
    }
}

impl Maps {
    /// Lets packets for an address find the endpoint in a slot.
    pub(crate) fn set_address(&self, address: IpAddr, slot: u32) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.v4.addresses.set(address.into(), slot),
            IpAddr::V6(address) => self.v6.addresses.set(address.into(), slot),
        }
    }

    /// Lets packets for an address find no endpoint any more.
    pub(crate) fn remove_address(&self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.v4.addresses.remove(address.into()),
            IpAddr::V6(address) => self.v6.addresses.remove(address.into()),
        }
    }

    /// The slot of the endpoint that packets for an address find.
    pub(crate) fn slot_of(&self, address: IpAddr) -> Result<Option<u32>> {
        match address {
            IpAddr::V4(address) => self.v4.addresses.get(address.into()),
            IpAddr::V6(address) => self.v6.addresses.get(address.into()),
        }
    }

    /// Tells the programs of an address of the host, and of its virtual index; 0 for none.
    pub(crate) fn set_local(&self, address: IpAddr, index: u32) -> Result<()> {
        match address {
            IpAddr::V4(address) => set_local(&self.v4, address.into(), index),
            IpAddr::V6(address) => set_local(&self.v6, address.into(), index),
        }
    }

    /// Tells the programs that an address is the host's no more.
    pub(crate) fn remove_local(&self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.v4.locals.remove(address.into()),
            IpAddr::V6(address) => self.v6.locals.remove(address.into()),
        }
    }

    /// All endpoints' addresses and their slots.
    pub(crate) fn addresses(&self) -> Result<impl Iterator<Item = (IpAddr, u32)>> {
        Ok(of_both(self.v4.addresses.entries()?, self.v6.addresses.entries()?))
    }

    /// All addresses of the host and their virtual indexes.
    pub(crate) fn locals(&self) -> Result<impl Iterator<Item = (IpAddr, u32)>> {
        Ok(of_both(self.v4.locals.entries()?, self.v6.locals.entries()?))
    }
}

/// The place of a virtual address before what leads to it.
fn set_local<A: InFamily>(maps: &FamilyMaps<A>, address: A, index: u32) -> Result<()> {
    if index != 0 {
        maps.virtuals.set(index, address)?;
    }
    maps.locals.set(address, index)
}

fn of_both<T>(v4: Vec<(V4Addr, T)>, v6: Vec<(V6Addr, T)>) -> impl Iterator<Item = (IpAddr, T)> {
    let v4 = v4.into_iter().map(|(address, value)| (address.into(), value));
    v4.chain(v6.into_iter().map(|(address, value)| (address.into(), value)))
}
