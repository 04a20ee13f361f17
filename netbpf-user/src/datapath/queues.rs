//! Which queues for filters (clsact qdiscs) an instance has added to devices that are not its own, to take them away again: the
//! kernel does not tell who has added one. Each is a directory on the instance's bpffs, named as a link of the hook would be.

use std::collections::BTreeSet;
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
    noted: Mutex<BTreeSet<String>>,
}

impl Queues {
    pub(super) fn open(instance: &Path) -> Self {
        let directory = instance.join(DIRECTORY);
        Self { noted: Mutex::new(names_in(&directory)), directory }
    }

    fn noted(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.noted.lock().expect("no panic while it was held")
    }

    pub(super) fn hooks(&self) -> Vec<Hook> {
        self.noted().iter().filter_map(|name| Hook::pinned_as(name)).collect()
    }

    pub(super) fn has(&self, hook: &Hook) -> bool {
        self.noted().contains(&hook.pin())
    }

    /// Sees to it that the device of a hook has one. Noted before it is there: who is killed between leaves nothing that nobody knows.
    pub(super) fn add(&self, hook: &Hook) -> Result<()> {
        let what = || format!("make a queue for filters on {}", hook.device);
        let is_new = hook.is_lent && !self.has(hook);
        if is_new {
            fs::create_dir_all(self.directory.join(hook.pin())).context(what)?;
            self.noted().insert(hook.pin());
        }
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

    /// Notes that one is gone, or somebody else's.
    pub(super) fn forget(&self, hook: &Hook) -> io::Result<()> {
        self.noted().remove(&hook.pin());
        match fs::remove_dir(self.directory.join(hook.pin())) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Those whose note is not there.
    pub(super) fn lost(&self) -> Vec<String> {
        let noted = self.noted();
        noted.difference(&names_in(&self.directory)).cloned().collect()
    }

    /// Notes again what was noted.
    pub(super) fn keep(&self) -> Result<()> {
        self.lost().iter().try_for_each(|name| {
            let note = self.directory.join(name);
            fs::create_dir_all(&note).context(|| format!("make {}", note.display()))
        })
    }
}

/// Hooks on devices of others that an instance has added a queue to.
pub(crate) fn queues(instance: &Path) -> Vec<Hook> {
    Queues::open(instance).hooks()
}
