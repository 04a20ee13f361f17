//! Typed handles of pinned maps.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::MapData;
use bytemuck::Pod;

use super::sys;
use crate::error::{Context as _, Error, Result};
use crate::failpoint;

/// Elements read per call: enough that the call's cost vanishes, small enough for the stack of memory they need.
const BATCH: usize = 4096;

/// A pinned map from `K` to `V`. For per-CPU maps `V` is the value of one CPU.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    map: MapData,
    cpus: usize,
    max_entries: u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens a map pinned in `directory`, if its keys and values are of these sizes.
    pub(super) fn open(directory: &Path, name: &'static str) -> Result<Self> {
        let map = MapData::from_pin(directory.join(name)).context(|| format!("open the pinned map {name}"))?;
        let info = map.info().context(|| format!("ask the kernel about the map {name}"))?;
        let per_cpu = matches!(
            info.map_type(),
            Ok(aya::maps::MapType::PerCpuArray | aya::maps::MapType::PerCpuHash | aya::maps::MapType::LruPerCpuHash)
        );
        let cpus = if per_cpu {
            // The kernel rounds the value of each CPU up to eight bytes; ours are multiples of eight.
            assert_eq!(size_of::<V>() % 8, 0);
            super::possible_cpus()?
        } else {
            1
        };
        if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
            return Err(super::foreign_layout(&format!("the map {name} has another layout")));
        }
        Ok(Self { name, cpus, max_entries: info.max_entries(), map, types: PhantomData })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Name of the map.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many elements it can hold.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value of a key.
    pub fn get(&self, key: K) -> Result<Option<V>> {
        debug_assert_eq!(self.cpus, 1);
        let mut value = [V::zeroed()];
        let found = sys::lookup(self.fd(), &key, &mut value).context(|| format!("read the map {}", self.name))?;
        Ok(found.then_some(value[0]))
    }

    /// The values of a key on every CPU.
    pub fn get_per_cpu(&self, key: K) -> Result<Vec<V>> {
        let mut values = vec![V::zeroed(); self.cpus];
        sys::lookup(self.fd(), &key, &mut values).context(|| format!("read the map {}", self.name))?;
        Ok(values)
    }

    /// Writes one element.
    pub fn set(&self, key: K, value: V) -> Result<()> {
        failpoint::before(self.name);
        sys::update(self.fd(), &key, &value).map_err(|error| self.cannot_write(&error))
    }

    /// Writes many elements.
    pub fn set_all(&self, keys: &[K], values: &[V]) -> Result<()> {
        failpoint::before(self.name);
        sys::update_batch(self.fd(), keys, values).map_err(|error| self.cannot_write(&error))
    }

    /// Deletes one element, if it is there.
    pub fn remove(&self, key: K) -> Result<()> {
        failpoint::before(self.name);
        sys::delete(self.fd(), &key).context(|| format!("delete from the map {}", self.name))
    }

    /// All elements, in no order. One that is written meanwhile may be missed or read twice.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.each(|keys, values| {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
            Ok(())
        })?;
        Ok(entries)
    }

    /// How many elements there are.
    pub fn count(&self) -> Result<usize> {
        let mut count = 0;
        self.each(|keys, _| {
            count += keys.len();
            Ok(())
        })?;
        Ok(count)
    }

    /// Looks at all elements, some thousand at a time: a table of millions is never in memory as a whole. As
    /// [`entries`](Self::entries) otherwise; `look` may delete what it sees.
    pub fn each(&self, mut look: impl FnMut(&[K], &[V]) -> Result<()>) -> Result<()> {
        debug_assert_eq!(self.cpus, 1);
        let mut batch = BATCH.min(self.max_entries as usize).max(1);
        let mut keys = vec![K::zeroed(); batch];
        let mut values = vec![V::zeroed(); batch];
        let mut position = None;
        loop {
            match sys::lookup_batch(self.fd(), position, &mut keys, &mut values) {
                Ok((count, next)) => {
                    look(&keys[..count], &values[..count])?;
                    match next {
                        Some(next) => position = Some(next),
                        None => return Ok(()),
                    }
                }
                // One bucket of the hash holds more than a batch.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    batch *= 2;
                    keys.resize(batch, K::zeroed());
                    values.resize(batch, V::zeroed());
                }
                Err(error) => return Err(error).context(|| format!("read the map {}", self.name)),
            }
        }
    }

    fn cannot_write(&self, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => {
                Error::Exhausted(format!("the map {} is full: it holds {} entries", self.name, self.max_entries))
            }
            _ => Error::Internal(format!("cannot write the map {}: {error}", self.name)),
        }
    }
}

impl<V: Pod> Table<u32, V> {
    /// The elements of an array that have these numbers, in their order: those that follow one another in one call.
    pub(crate) fn get_all(&self, indexes: &[u32]) -> Result<Vec<V>> {
        debug_assert_eq!(self.cpus, 1);
        let mut values = vec![V::zeroed(); indexes.len()];
        let mut read = 0;
        for run in indexes.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            let place = &mut values[read..read + run.len()];
            let count = sys::read_run(self.fd(), run[0], place).context(|| format!("read the map {}", self.name))?;
            if count != run.len() {
                return Err(Error::Internal(format!("the map {} ends before {}", self.name, run[run.len() - 1])));
            }
            read += run.len();
        }
        Ok(values)
    }
}
