//! The socket of the API: made so that it is never reachable with the wrong mode, and never taken from a living agent.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Root and the socket's group.
const MODE: u32 = 0o660;

/// A listening socket of the file system; its file goes with it.
#[derive(Debug)]
pub struct Socket {
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
    pub fn check(path: &Path) -> Result<(), SocketError> {
        let failed = |source| SocketError::Io { path: path.into(), source };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if !metadata.file_type().is_socket() {
            return Err(SocketError::NotASocket(path.into()));
        }
        match UnixStream::connect(path) {
            Ok(_) => Err(SocketError::InUse(path.into())),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Listens on the path; what a dead agent left there is replaced.
    ///
    /// # Errors
    /// As [`Socket::check`], and when the file system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::check(path)?;
        let failed = |source| SocketError::Io { path: path.into(), source };
        // Bound under another name and renamed when its mode is right: at no time can anybody else connect.
        let unready = path.with_extension(format!("{}", std::process::id()));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let listener = UnixListener::bind(&unready).map_err(failed)?;
        let ready =
            fs::set_permissions(&unready, Permissions::from_mode(MODE)).and_then(|()| fs::rename(&unready, path));
        if let Err(error) = ready {
            _ = fs::remove_file(&unready);
            return Err(failed(error));
        }
        Ok(Self { listener, file: SocketFile(path.into()) })
    }

    pub(super) fn split(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

#[cfg(test)]
mod tests {
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
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
        let (listener, file) = first.split();
        drop(listener);
        // As after SIGKILL: the file is there, and nobody behind it.
        std::mem::forget(file);
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        let path = scratch.0.join("netbpf.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
