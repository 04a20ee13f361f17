//! The links of an instance. Each is pinned, so that an agent that ends detaches nothing, and held by the agent, so that whoever
//! removes a pin, or the bpffs below all of them, does not either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use aya::programs::links::FdLink;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::hook;
use super::sys::{self, LinkInfo};
use crate::error::{Context as _, Result};
use crate::failpoint;

/// Links by the names of their pins.
#[derive(Debug)]
pub(super) struct Links {
    directory: PathBuf,
    held: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Links {
    /// Takes hold of all that are pinned in a directory.
    pub(super) fn open(directory: PathBuf) -> Result<Self> {
        let mut held = BTreeMap::new();
        for name in names_in(&directory) {
            let link = existing(&directory.join(&name)).context(|| format!("open the pin {name}"))?;
            // What is no link is nothing of ours.
            if let Some(link) = link.filter(|link| sys::link_info(link.as_fd()).is_ok()) {
                held.insert(name, link);
            }
        }
        Ok(Self { directory, held: Mutex::new(held) })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.held.lock().expect("no panic while it was held")
    }

    /// What the kernel says of a link.
    pub(super) fn info(&self, name: &str) -> io::Result<Option<LinkInfo>> {
        let info = self.held().get(name).map(|link| sys::link_info(link.as_fd())).transpose()?;
        Ok(info.map(|info| LinkInfo { target: target(name, info.target), ..info }))
    }

    /// The same of all. The kernel answers for each with its lock of devices, so that this may take some time.
    pub(super) fn infos(&self) -> Result<Vec<(String, LinkInfo)>> {
        let names: Vec<String> = self.held().keys().cloned().collect();
        let info = |name: String| {
            let info = self.info(&name).context(|| format!("look at the link {name}"));
            info.map(|info| info.map(|info| (name, info))).transpose()
        };
        names.into_iter().filter_map(info).collect()
    }

    /// Makes a link run another program, without a gap.
    pub(super) fn update(&self, name: &str, program: BorrowedFd<'_>) -> io::Result<()> {
        failpoint::before("replace a program");
        self.held().get(name).map_or(Ok(()), |link| sys::update_link(link.as_fd(), program))
    }

    /// Pins a new link and takes hold of it.
    pub(super) fn hold(&self, name: &str, link: OwnedFd) -> io::Result<()> {
        self.take(name, |pin| sys::pin(link.as_fd(), pin).map(|()| link))
    }

    /// The same of one of aya's, which gives no descriptor before it is pinned.
    pub(super) fn keep(&self, name: &str, link: FdLink) -> io::Result<()> {
        self.take(name, |pin| {
            let pinned = link.pin(pin).map_err(io::Error::other)?;
            let own = sys::open_pin(pin).or_else(|error| remove(pin).and(Err(error)));
            drop(pinned);
            own
        })
    }

    /// Takes hold of a new link that is pinned by a function, which returns its descriptor.
    fn take(&self, name: &str, pinned: impl FnOnce(&Path) -> io::Result<OwnedFd>) -> io::Result<()> {
        let mut held = self.held();
        let pin = self.directory.join(name);
        // Left under a bpffs that was away.
        remove(&pin)?;
        failpoint::before("pin a link");
        held.insert(name.to_owned(), pinned(&pin)?);
        Ok(())
    }

    /// Refuses to pin where nothing can be pinned.
    pub(super) fn check_directory(&self) -> io::Result<()> {
        let kind = statfs(&self.directory).map(|found| found.filesystem_type());
        if kind == Ok(BPF_FS_MAGIC) {
            return Ok(());
        }
        Err(io::Error::other(format!("{} is on no bpffs", self.directory.display())))
    }

    /// Detaches a link and removes its pin; one that is not there is removed.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        failpoint::before("remove the pin of a link");
        let (link, removed) = {
            let mut held = self.held();
            (held.remove(name), remove(&self.directory.join(name)))
        };
        // Another bpffs may have been mounted over the one that has its first pin.
        match link.map(|link| sys::detach_link(link.as_fd())) {
            Some(Err(error)) => Err(error),
            _ => removed,
        }
    }

    /// Detaches all of them and removes their pins.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        let names: Vec<String> = self.held().keys().cloned().collect();
        names.iter().try_for_each(|name| self.remove(name))
    }

    /// Names of pins that are not there.
    pub(super) fn lost_pins(&self) -> Vec<String> {
        // Under the lock, so that what is being pinned is there in both or in neither.
        let held = self.held();
        let there = names_in(&self.directory);
        held.keys().filter(|name| !there.contains(*name)).cloned().collect()
    }

    /// Pins again what has lost its pin.
    pub(super) fn keep_pins(&self) -> Result<()> {
        // Under the lock: what is removed meanwhile must not be pinned again.
        let held = self.held();
        let there = names_in(&self.directory);
        for (name, link) in held.iter().filter(|(name, _)| !there.contains(*name)) {
            let pin = self.directory.join(name);
            sys::pin(link.as_fd(), &pin).context(|| format!("pin {}", pin.display()))?;
        }
        Ok(())
    }
}

/// Pinned links to devices, with the ifindex of each, 0 for a device that is gone.
pub(super) fn device_links(directory: &Path) -> Result<Vec<(String, u64)>> {
    let links = Links::open(directory.to_owned())?.infos()?;
    Ok(links.into_iter().filter(|(name, _)| is_of_device(name)).map(|(name, info)| (name, info.target)).collect())
}

/// What a link hangs on, as the hook has it: the kernel names the container's end of a netkit.
fn target(name: &str, told: u64) -> u64 {
    match name.split_once('-') {
        Some((hook::NETKIT, own)) if told != 0 => own.parse().unwrap_or(0),
        _ => told,
    }
}

/// Pins of socket hooks bear no number.
pub(super) fn is_of_device(name: &str) -> bool {
    name.contains('-')
}

/// What is in a directory; nothing where there is none.
pub(super) fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn existing(pin: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::open_pin(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
