//! The files of a container: what its process sees in /etc, and its log.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

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
            fs::write(self.etc().join(name), text)?;
        }
        Ok(())
    }

    /// What is mounted over files of /etc, by `ip netns exec` too.
    pub(crate) fn etc(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// Standard output and error of a detached process.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
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
