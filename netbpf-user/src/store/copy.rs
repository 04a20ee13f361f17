//! A second copy of what is stored, in the run directory: gone with the kernel's state at a reboot, there when the database is damaged.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;

use super::database::encode;
use super::{Encoded, InstanceRecord, Stored, VERSION};
use crate::error::{Context as _, Error, Result};
use crate::failpoint;

/// The directory below the run directory.
const DIRECTORY: &str = "records";
const INSTANCE: &str = "instance";
/// Names the state directory that it is a copy from.
const ORIGIN: &str = "of";
const NETWORKS: &str = "networks";
const CONTAINERS: &str = "containers";

/// One file for each record. The instance's tells that all others are there.
#[derive(Debug)]
pub(super) struct Copy {
    directory: PathBuf,
    /// The state directory.
    origin: PathBuf,
    /// It could not follow once: it is none until the next start.
    is_lost: AtomicBool,
}

impl Copy {
    /// That of the database in a state directory.
    pub(super) fn in_run_dir(run_dir: &Path, state_dir: &Path) -> Self {
        let origin = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.into());
        Self { directory: run_dir.join(DIRECTORY), origin, is_lost: AtomicBool::new(false) }
    }

    /// Refuses a copy of another instance's database.
    pub(super) fn check_own(&self) -> Result<()> {
        let file = self.directory.join(ORIGIN);
        match fs::read(&file) {
            Ok(origin) if origin != self.origin.as_os_str().as_encoded_bytes() => Err(Error::Conflict(format!(
                "the run directory has the records of the instance in {}, not of that in {}: give this one a --run-dir of its own, or, if \
                 its state directory was moved, remove {}",
                String::from_utf8_lossy(&origin),
                self.origin.display(),
                self.directory.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether there is one.
    pub(super) fn exists(&self) -> bool {
        self.directory.join(INSTANCE).exists()
    }

    /// Lets the copy be of this and nothing else.
    pub(super) fn replace(&self, stored: &Stored) -> Result<()> {
        let replace = || -> io::Result<()> {
            self.keep_only(NETWORKS, &stored.networks.keys().collect())?;
            self.keep_only(CONTAINERS, &stored.containers.keys().collect())?;
            stored.networks.iter().try_for_each(|(name, record)| self.put(NETWORKS, name, &encode(record)))?;
            stored.containers.iter().try_for_each(|(name, record)| self.put(CONTAINERS, name, &encode(record)))?;
            self.put_instance(&stored.instance)
        };
        replace().context(|| format!("write {}", self.directory.display()))
    }

    /// Writes the instance.
    pub(super) fn write_instance(&self, instance: &InstanceRecord) {
        if !self.is_lost.load(Ordering::Relaxed) {
            self.or_none(self.make(&self.directory).and_then(|()| self.put_instance(instance)));
        }
    }

    /// Follows the database.
    pub(super) fn write(&self, Encoded { networks, containers, changes }: &Encoded<'_>) {
        let follow = || -> io::Result<()> {
            networks.iter().try_for_each(|(name, record)| self.put(NETWORKS, name, record))?;
            changes.removed_networks.iter().try_for_each(|name| remove(&self.directory.join(NETWORKS).join(name)))?;
            containers.iter().try_for_each(|(name, record)| self.put(CONTAINERS, name, record))?;
            changes.removed_containers.iter().try_for_each(|name| remove(&self.directory.join(CONTAINERS).join(name)))
        };
        self.or_none(follow());
    }

    /// What it says; nothing where there is none.
    pub(super) fn read(&self) -> Result<Option<Stored>> {
        if !self.exists() {
            return Ok(None);
        }
        let instance: InstanceRecord = get(&self.directory.join(INSTANCE))?;
        if instance.version != VERSION {
            return Err(Error::Unsupported(format!(
                "the database is damaged, and its copy in {} has layout {}, this netbpf knows {VERSION}: use the version of netbpf that \
                 wrote it",
                self.directory.display(),
                instance.version
            )));
        }
        Ok(Some(Stored {
            instance,
            networks: self.get_all(NETWORKS)?.into_iter().collect(),
            containers: self.get_all(CONTAINERS)?.into_iter().collect(),
        }))
    }

    fn put_instance(&self, instance: &InstanceRecord) -> io::Result<()> {
        fs::write(self.directory.join(ORIGIN), self.origin.as_os_str().as_encoded_bytes())?;
        put(&self.directory.join(INSTANCE), &encode(instance))
    }

    /// A copy that lags behind is worse than none.
    fn or_none(&self, followed: io::Result<()>) {
        if let Err(error) = followed {
            tracing::warn!(
                "there is no copy of the database any more: cannot write {}: {error}",
                self.directory.display()
            );
            self.is_lost.store(true, Ordering::Relaxed);
            _ = fs::remove_file(self.directory.join(INSTANCE));
        }
    }

    fn make(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }

    fn put(&self, kind: &str, name: &str, record: &[u8]) -> io::Result<()> {
        let directory = self.directory.join(kind);
        self.make(&directory)?;
        put(&directory.join(name), record)
    }

    fn keep_only(&self, kind: &str, names: &BTreeSet<&String>) -> io::Result<()> {
        let directory = self.directory.join(kind);
        self.make(&directory)?;
        let is_known = |name: &OsStr| names.iter().any(|known| OsStr::new(known) == name);
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !is_known(&entry.file_name()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn get_all<R: DeserializeOwned>(&self, kind: &str) -> Result<Vec<(String, R)>> {
        let directory = self.directory.join(kind);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(|| format!("read {}", directory.display()))?,
        };
        let is_whole = |path: &PathBuf| path.extension().is_none_or(|extension| extension != UNREADY);
        let paths = entries.flatten().map(|entry| entry.path()).filter(is_whole);
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        paths.map(|path| Ok((name(&path), get(&path)?))).collect()
    }
}

/// The directories of a copy in a run directory, from above.
pub(super) fn directories(run_dir: &Path) -> [PathBuf; 3] {
    let directory = run_dir.join(DIRECTORY);
    [directory.clone(), directory.join(NETWORKS), directory.join(CONTAINERS)]
}

/// Removes a copy, whosever it is.
pub(super) fn remove_all(run_dir: &Path) -> Result<()> {
    let directory = run_dir.join(DIRECTORY);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// What a file is called before all of it is written: names of records have no tilde.
const UNREADY: &str = "unready~";

fn put(path: &Path, record: &[u8]) -> io::Result<()> {
    let is_as_long = fs::metadata(path).is_ok_and(|there| there.len() == record.len() as u64);
    if is_as_long && fs::read(path).is_ok_and(|there| there == record) {
        return Ok(());
    }
    failpoint::before("write the copy of a record");
    let mut unready = path.as_os_str().to_owned();
    unready.push(".");
    unready.push(UNREADY);
    fs::write(&unready, record)?;
    fs::rename(unready, path)
}

fn get<R: DeserializeOwned>(path: &Path) -> Result<R> {
    let damaged = |error: &dyn std::fmt::Display| {
        Error::Internal(format!(
            "the database is damaged, and so is its copy ({}: {error}): restore the database from a backup, or remove it together \
             with the instance (`netbpf uninstall`)",
            path.display()
        ))
    };
    let bytes = fs::read(path).map_err(|error| damaged(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(&error))
}

fn remove(path: &Path) -> io::Result<()> {
    failpoint::before("remove the copy of a record");
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
