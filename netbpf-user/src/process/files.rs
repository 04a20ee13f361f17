//! The files of a container: what its process sees in /etc, and its log.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::failpoint;

/// A directory per container below the instance's run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files of the container of this name.
    pub fn of(run_dir: &Path, name: &str) -> Self {
        Self { directory: Self::all(run_dir).join(name) }
    }

    /// The directory of the directories of an instance's containers.
    pub fn all(run_dir: &Path) -> PathBuf {
        run_dir.join("containers")
    }

    /// Writes hosts, hostname and resolv.conf. Files that are there keep their place on disk: processes have them mounted.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn write(&self, contents: &Contents) -> io::Result<()> {
        fs::create_dir_all(self.etc())?;
        let Contents { hosts, hostname, resolv_conf } = contents;
        for (name, text) in [("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolv_conf)] {
            failpoint::before("write a file of a container");
            overwrite(&self.etc().join(name), 0o644)?.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// What is mounted over files of /etc, by `ip netns exec` too.
    pub(crate) fn etc(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// A new log: standard output and error of a detached process.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create_log(&self) -> io::Result<File> {
        // What a process prints is for who has started it.
        overwrite(&self.directory.join("log"), 0o600)
    }

    /// Each file, and the one of the host that it is mounted over.
    pub fn places(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
            .into_iter()
            .map(|(name, place)| (self.etc().join(name), place))
    }

    /// Removes them; none is no error.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        failpoint::before("remove the files of a container");
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// An empty file, in the place of the one that was there; never where a link leads. A new one has this mode.
fn overwrite(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.mode(mode).write(true).create(true).truncate(true).custom_flags(OFlag::O_NOFOLLOW.bits());
    options.open(path)
}

/// What stands in the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// /etc/hosts.
    pub(crate) hosts: String,
    /// /etc/hostname.
    pub(crate) hostname: String,
    /// /etc/resolv.conf.
    pub(crate) resolv_conf: String,
}
