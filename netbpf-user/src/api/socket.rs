//! The socket of the API: made so that it is never reachable with the wrong mode, and never taken from a living agent.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};
use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;

/// Root and the socket's group.
const MODE: u32 = 0o660;

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// A listening socket of the file system; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing depends on it: a stale file is removed by the next agent.
        _ = fs::remove_file(&self.0);
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("another agent answers at {0}; stop it, or give this one a --run-dir of its own")]
    InUse(PathBuf),
    /// A file that no agent made.
    #[error("{0} is not a socket; remove it, or choose another --run-dir")]
    NotASocket(PathBuf),
    /// A socket that no agent of this user made.
    #[error("{path} belongs to user {owner}; remove it, or choose another --run-dir")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The file system refused.
    #[error("cannot listen on {path}: {source}; check --run-dir")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Refuses a path that is in use, without changing anything.
    ///
    /// # Errors
    /// When an agent answers there or the file is none of ours.
    pub(super) fn check(path: &Path) -> Result<(), SocketError> {
        let failed = |source| SocketError::Io { path: path.into(), source };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if !metadata.file_type().is_socket() {
            return Err(SocketError::NotASocket(path.into()));
        }
        if metadata.uid() != Uid::effective().as_raw() {
            return Err(SocketError::Foreign { path: path.into(), owner: metadata.uid() });
        }
        match UnixStream::connect(path) {
            Ok(_) => Err(SocketError::InUse(path.into())),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes what a dead agent has left.
    ///
    /// # Errors
    /// As [`Socket::check`], and when the file system refuses.
    pub(super) fn remove_stale(path: &Path) -> Result<(), SocketError> {
        Self::check(path)?;
        match fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(SocketError::Io { path: path.into(), source }),
            _ => Ok(()),
        }
    }

    /// Listens on the path, for the owner and this group; what a dead agent left there is replaced.
    ///
    /// # Errors
    /// As [`Socket::check`], and when the file system refuses.
    pub(super) fn bind(path: &Path, group: Option<Gid>) -> Result<Self, SocketError> {
        Self::check(path)?;
        let failed = |source| SocketError::Io { path: path.into(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let unready = unready(path);
        Self::remove_stale(&unready)?;
        let ready = listen(&unready, group).and_then(|listener| {
            fs::rename(&unready, path)?;
            UnixListener::from_std(listener)
        });
        match ready {
            Ok(listener) => Ok(Self { listener, file: SocketFile(path.into()) }),
            Err(error) => {
                _ = fs::remove_file(&unready);
                Err(failed(error))
            }
        }
    }

    pub(super) fn split(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// What a socket is called before anybody may connect to it.
pub(crate) fn unready(path: &Path) -> PathBuf {
    path.with_extension("unready")
}

/// A socket that nobody can connect to before its owner, its group and its mode are right: until it listens, connections to it are
/// refused.
fn listen(path: &Path, group: Option<Gid>) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // A directory can give its group to what is made in it: that of the socket is always said.
    lchown(path, None, Some(group.unwrap_or_else(Gid::effective).as_raw()))?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A directory of the test's own, removed with all that is in it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("netbpf-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_living_agent_keeps_its_socket_and_a_dead_one_leaves_it() {
        let scratch = Scratch::new("socket");
        let path = scratch.0.join("run/netbpf.sock");
        let first = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::InUse(_))));
        let (listener, file) = first.split();
        drop(listener);
        // As after SIGKILL: the file is there, and nobody behind it.
        std::mem::forget(file);
        assert!(path.exists());
        drop(Socket::bind(&path, None).unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn at_no_time_has_the_socket_another_mode() {
        const TIMES: usize = 200;
        let scratch = Scratch::new("mode");
        let path = scratch.0.join("netbpf.sock");
        let (is_over, mut last) = (AtomicBool::new(false), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seen = 0;
                while seen == 0 || !is_over.load(Ordering::Relaxed) {
                    let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                    assert_eq!(metadata.mode() & 0o7777, MODE);
                    assert_eq!(metadata.gid(), Gid::effective().as_raw());
                    seen += 1;
                }
            });
            for _ in 0..TIMES {
                drop(last.take());
                // The last one stays until it was seen.
                last = Some(Socket::bind(&path, None).unwrap());
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        let path = scratch.0.join("netbpf.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
