//! Which queues for filters (clsact qdiscs) an instance has added to devices that are not its own, to take them away again: the
//! kernel does not tell who has added one. Each is a directory on the instance's bpffs, named as a link of the hook would be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use aya::programs::tc::qdisc_add_clsact;

use super::filters::is_there;
use super::hook::Hook;
use super::links::names_in;
use crate::error::{Context as _, Result};
use crate::failpoint;

/// Where they are noted, below the instance's directory.
pub(super) const DIRECTORY: &str = "queues";

/// Those that are noted.
#[derive(Debug)]
pub(super) struct Queues {
    directory: PathBuf,
    /// By device, with the hook that the queue is for.
    noted: Mutex<BTreeMap<u32, Hook>>,
}

impl Queues {
    pub(super) fn open(instance: &Path) -> Self {
        let directory = instance.join(DIRECTORY);
        let hooks = names_in(&directory).into_iter().filter_map(|name| Hook::pinned_as(&name));
        Self { noted: Mutex::new(hooks.map(|hook| (hook.ifindex, hook)).collect()), directory }
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<u32, Hook>> {
        self.noted.lock().expect("no panic while it was held")
    }

    pub(super) fn hooks(&self) -> Vec<Hook> {
        self.noted().values().cloned().collect()
    }

    /// Sees to it that the device of a hook has one. Noted before it is there: who is killed between leaves nothing that nobody knows.
    pub(super) fn add(&self, hook: &Hook) -> Result<()> {
        let what = || format!("make a queue for filters on {}", hook.device);
        let is_new = hook.is_lent && self.note(hook).context(what)?;
        failpoint::before("make a queue for filters");
        let added = qdisc_add_clsact(&hook.device);
        if added.is_err() && is_new {
            self.forget(hook).context(what)?;
        }
        match added {
            Err(error) if !is_there(&error) => Err(error).context(what),
            _ => Ok(()),
        }
    }

    /// Notes that the queue of a device is for this hook; whether there was none.
    fn note(&self, hook: &Hook) -> io::Result<bool> {
        let mut noted = self.noted();
        let path = self.directory.join(hook.pin());
        let before = noted.get(&hook.ifindex);
        match before {
            Some(before) if before.program == hook.program => {}
            Some(before) => fs::rename(self.directory.join(before.pin()), path)?,
            None => fs::create_dir_all(path)?,
        }
        let is_new = before.is_none();
        noted.insert(hook.ifindex, hook.clone());
        Ok(is_new)
    }

    /// Notes that one is gone, or somebody else's.
    pub(super) fn forget(&self, hook: &Hook) -> io::Result<()> {
        self.noted().remove(&hook.ifindex);
        match fs::remove_dir(self.directory.join(hook.pin())) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Those whose note is not there.
    pub(super) fn lost(&self) -> Vec<String> {
        self.lost_of(&self.noted())
    }

    /// Notes again what was noted.
    pub(super) fn keep(&self) -> Result<()> {
        // Under the lock: what is forgotten meanwhile must not be noted again.
        let noted = self.noted();
        self.lost_of(&noted).iter().try_for_each(|name| {
            let note = self.directory.join(name);
            fs::create_dir_all(&note).context(|| format!("make {}", note.display()))
        })
    }

    fn lost_of(&self, noted: &BTreeMap<u32, Hook>) -> Vec<String> {
        let noted: BTreeSet<String> = noted.values().map(Hook::pin).collect();
        noted.difference(&names_in(&self.directory)).cloned().collect()
    }
}

/// Hooks on devices of others that an instance has added a queue to.
pub(crate) fn queues(instance: &Path) -> Vec<Hook> {
    Queues::open(instance).hooks()
}
