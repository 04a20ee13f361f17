//! Network namespaces, named as `ip netns` names them.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, Statfs, fstatfs, statfs};
use tokio::runtime::Handle;

use crate::error::{Context as _, Error, Result};
use crate::failpoint;
use crate::trust;

/// Where `ip netns` looks for names.
const DIRECTORY: &str = "/run/netns";

/// Magic number of nsfs (include/uapi/linux/magic.h), which nix does not name.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The path of a named namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

impl Namespace {
    /// Makes a named namespace. A name in use is a conflict.
    pub(crate) async fn make(name: &str) -> Result<()> {
        let path = reserve(name)?;
        let made = in_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context(|| "make a network namespace".into())?;
            failpoint::before("mount a namespace");
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .context(|| format!("mount a network namespace on {}", path.display()))
        })
        .await;
        if made.is_err()
            && let Err(error) = remove(name)
        {
            tracing::warn!("{error}");
        }
        made
    }

    /// Makes one without a name, which ends with this value.
    pub(crate) async fn make_unnamed() -> Result<Self> {
        let what = || "make a network namespace".to_owned();
        let made = in_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context(what)?;
            File::open("/proc/thread-self/ns/net").context(what)
        });
        Ok(Self { file: made.await? })
    }

    /// Opens a namespace by a path that leads to one.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cannot = |error: &dyn Display| {
            Error::Invalid(format!("cannot open the network namespace {}: {error}", path.display()))
        };
        // Not opened before it is known to be one: there are devices that do things when they are.
        let found = statfs(path).map_err(|error| cannot(&std::io::Error::from(error)))?;
        let mut options = File::options();
        // It may be a pipe by now, which nobody writes to.
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let is_namespace = |fs: &Statfs| fs.filesystem_type() == NSFS_MAGIC;
        let file = is_namespace(&found).then(|| options.open(path)).transpose().map_err(|error| cannot(&error))?;
        // SAFETY of meaning, not of memory: setns() below checks that it is a *network* namespace.
        let Some(file) = file.filter(|file| fstatfs(file).is_ok_and(|fs| is_namespace(&fs))) else {
            return Err(Error::Invalid(format!(
                "{} is no network namespace: give a path as /run/netns/NAME or /proc/PID/ns/net",
                path.display()
            )));
        };
        Ok(Self { file })
    }

    /// Runs `inside` in the namespace, on a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.file.try_clone().context(|| "use a network namespace".into())?;
        in_thread(move || {
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| {
                let hint = if error == Errno::EINVAL { ": it is a namespace, but not of the network" } else { "" };
                Error::Invalid(format!("cannot enter the network namespace ({error}){hint}"))
            })?;
            inside()
        })
        .await
    }
}

/// A thread of its own that goes from namespace to namespace, which costs less than a thread for each.
#[derive(Debug)]
pub(crate) struct Visitor(());

impl Visitor {
    /// Runs `work` on such a thread.
    pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        in_thread(move || work(&Self(()))).await
    }

    /// Runs `inside` in the namespace at a path.
    pub(crate) fn visit<T>(&self, path: &Path, inside: impl FnOnce() -> Result<T>) -> Result<T> {
        let there = Namespace::open(path)?;
        setns(&there.file, CloneFlags::CLONE_NEWNET).context(|| format!("enter {}", path.display()))?;
        inside()
    }
}

/// Gives a name to a namespace that exists: from then on it outlives its processes. A name in use is a conflict.
pub(crate) fn name(existing: &Path, name: &str) -> Result<()> {
    let path = reserve(name)?;
    failpoint::before("mount a namespace");
    let named = mount(Some(existing), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context(|| format!("mount the network namespace {} on {}", existing.display(), path.display()));
    if named.is_err()
        && let Err(error) = remove(name)
    {
        tracing::warn!("{error}");
    }
    named
}

/// Makes the file that a namespace is to be mounted on.
fn reserve(name: &str) -> Result<PathBuf> {
    share_directory()?;
    let path = path(name);
    failpoint::before("make the name of a namespace");
    File::options().write(true).create_new(true).open(&path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => in_use(name),
        _ => Error::Internal(format!("cannot make {}: {error}", path.display())),
    })?;
    Ok(path)
}

/// Removes a named namespace. What still runs in it keeps it alive, unnamed.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path(name);
    failpoint::before("unmount a namespace");
    match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // No mount on it, or no such file.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).context(|| format!("unmount {}", path.display())),
    }
    failpoint::before("remove the name of a namespace");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The refusal of a name that is taken.
pub(crate) fn in_use(name: &str) -> Error {
    Error::Conflict(format!(
        "the network namespace {} exists already: choose another name, or remove it with `ip netns del {name}`",
        path(name).display()
    ))
}

/// Whether a path still leads to a network namespace.
pub(crate) fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}

/// Runs on a new thread, which takes its changed namespace with it when it ends. The runtime is entered there.
async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let runtime = Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let _entered = runtime.enter();
            // Nobody waits any more when the request was dropped; the work is done all the same.
            _ = sender.send(work());
        })
        .context(|| "start a thread".into())?;
    receiver.await.unwrap_or_else(|_| Err(Error::Internal("a thread in a network namespace has panicked".into())))
}

/// Makes the directory of names a shared mount, as `ip netns add` does: names then appear in every mount namespace that
/// was cloned from this one, and their removal too.
fn share_directory() -> Result<()> {
    let directory = Path::new(DIRECTORY);
    trust::directory(directory)?;
    fs::create_dir_all(directory).context(|| format!("make {DIRECTORY}"))?;
    let share = || mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(directory), directory, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
                .context(|| format!("share the mounts of {DIRECTORY}"))
        }
        other => other.context(|| format!("share the mounts of {DIRECTORY}")),
    }
}
