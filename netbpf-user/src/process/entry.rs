//! The way into a container, seen from the process that goes it.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};

use super::Files;

/// First argument of a process on its way; the second is an [`Entry`] in JSON, the rest is the command.
pub const ENTER: &str = "enter-container";

/// Where a process is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The container's network namespace.
    pub netns: PathBuf,
    /// The other namespaces.
    pub namespaces: Namespaces,
    /// A session of its own: it outlives the terminal.
    pub session: bool,
    /// The pipes to who started it; none when it is its own starter.
    pub pipes: Option<Pipes>,
}

/// Mount and UTS namespace of a process in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Namespaces {
    /// New ones, with this hostname and these files below /etc.
    New {
        /// Hostname.
        hostname: String,
        /// What is mounted over the files in /etc.
        files: Files,
    },
    /// Those of this process, which `run` started.
    Of(u32),
    /// The host's.
    Host,
}

/// Descriptors that the process has inherited.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pipes {
    /// Read end: one byte says go, an end of file says that the starter is gone.
    pub gate: i32,
    /// Write end: a [`Failure`], or nothing when the command runs.
    pub report: i32,
}

/// Why a command does not run.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{line}")]
pub struct Failure {
    /// Exit code, as shells have it: 127 not found, 126 not executable, 1 anything else.
    pub code: u8,
    /// The one clear line.
    pub line: String,
}

impl Failure {
    /// A failure on the way, before the command.
    pub fn underway(doing: &str, error: impl std::fmt::Display) -> Self {
        Self { code: 1, line: format!("cannot {doing}: {error}") }
    }
}

/// Goes the way that the arguments describe. Returns only when the command does not run.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let entry: Option<Entry> = arguments.next().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let Some(entry) = entry else {
        eprintln!("netbpf: {ENTER} is how netbpf calls itself; use `netbpf run` or `netbpf exec`");
        return ExitCode::from(2);
    };
    let command: Vec<OsString> = arguments.collect();
    match &entry.pipes {
        None => {
            let failure = entry.go(|| Ok(()), &command);
            eprintln!("netbpf: {failure}");
            ExitCode::from(failure.code)
        }
        Some(pipes) => match (own(pipes.gate, false), own(pipes.report, true)) {
            (Ok(mut gate), Ok(mut report)) => {
                let failure = entry.go(|| gate.read_exact(&mut [0]), &command);
                // Nobody reads it when the starter is gone.
                _ = report.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
                ExitCode::from(failure.code)
            }
            _ => ExitCode::FAILURE,
        },
    }
}

/// Opens an inherited pipe anew, closed on exec, and closes the inherited descriptor: the end of the pipe must vanish
/// when the command starts.
fn own(descriptor: i32, write: bool) -> io::Result<File> {
    let file = File::options().read(!write).write(write).open(format!("/proc/self/fd/{descriptor}"))?;
    nix::unistd::close(descriptor)?;
    Ok(file)
}

impl Entry {
    fn go(&self, wait: impl FnOnce() -> io::Result<()>, command: &[OsString]) -> Failure {
        if let Err(failure) = self.enter_namespaces() {
            return failure;
        }
        if let Err(error) = wait() {
            return Failure::underway("start: netbpf ended before it said go", error);
        }
        let Some((program, arguments)) = command.split_first() else {
            return Failure::underway("start", "no command was given");
        };
        let error = Command::new(program).args(arguments).exec();
        match error.kind() {
            ErrorKind::NotFound => {
                let line =
                    format!("cannot run {}: command not found; give its full path, or set PATH", program.display());
                Failure { code: 127, line }
            }
            _ => Failure { code: 126, line: format!("cannot run {}: {error}", program.display()) },
        }
    }

    fn enter_namespaces(&self) -> Result<(), Failure> {
        let failed = |doing: String| move |error| Failure::underway(&doing, error);
        SigSet::empty().thread_set_mask().map_err(failed("unblock signals".into()))?;
        if self.session {
            nix::unistd::setsid().map_err(failed("begin a session".into()))?;
        }
        match &self.namespaces {
            Namespaces::New { hostname, files } => {
                self.enter_network()?;
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
                    .map_err(failed("make namespaces of its own (root is needed)".into()))?;
                nix::unistd::sethostname(hostname).map_err(failed(format!("set the hostname {hostname}")))?;
                // What the host mounts later shows up inside; what is mounted inside stays there.
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
                    .map_err(failed("separate the mounts".into()))?;
                for (file, place) in files.places() {
                    // A host without the file has nothing to mount over, and no program that reads it.
                    if Path::new(place).exists() {
                        mount(Some(&file), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                            .map_err(failed(format!("mount {} over {place}", file.display())))?;
                    }
                }
                Ok(())
            }
            Namespaces::Of(pid) => self.join(*pid),
            Namespaces::Host => self.enter_network(),
        }
    }

    fn enter_network(&self) -> Result<(), Failure> {
        let failed = |error| Failure::underway(&format!("enter {}", self.netns.display()), error);
        let namespace = File::open(&self.netns).map_err(failed)?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))
    }

    fn join(&self, pid: u32) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::underway(&format!("enter the namespaces of process {pid}"), error);
        let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).map_err(failed);
        let (network, mounts, uts) = (open("net")?, open("mnt")?, open("uts")?);
        // The number may have gone to another process meanwhile.
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let expected = fs::metadata(&self.netns).map(identity).map_err(failed)?;
        if network.metadata().map(identity).map_err(failed)? != expected {
            return Err(failed(io::Error::new(ErrorKind::NotFound, "it has ended")));
        }
        let directory = env::current_dir();
        setns(network, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
        setns(uts, CloneFlags::CLONE_NEWUTS).map_err(|error| failed(error.into()))?;
        setns(mounts, CloneFlags::CLONE_NEWNS).map_err(|error| failed(error.into()))?;
        // Entering a mount namespace puts a process at its root.
        directory.and_then(env::set_current_dir).or_else(|_| env::set_current_dir("/")).map_err(failed)
    }
}
