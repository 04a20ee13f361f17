//! Starting a command in a container, seen from who starts it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;

use super::entry::{ENTER, Entry, Failure, Pipes};

/// The running binary, also when another has taken its place on disk.
const THIS_BINARY: &str = "/proc/self/exe";

/// A process that has its id already, and waits at the gate before it becomes the command.
#[derive(Debug)]
pub struct Launch {
    child: Child,
    gate: File,
    report: File,
}

impl Launch {
    /// Starts the process. With a log it reads nothing and writes there; else it shares our terminal.
    ///
    /// # Errors
    /// When the kernel has no process or descriptor to give.
    pub fn start(mut entry: Entry, command: &[OsString], log: Option<&File>) -> io::Result<Self> {
        let (gate_inside, gate) = pipe2(OFlag::O_CLOEXEC)?;
        let (report, report_inside) = pipe2(OFlag::O_CLOEXEC)?;
        entry.pipes = Some(Pipes { gate: gate_inside.as_raw_fd(), report: report_inside.as_raw_fd() });
        for inherited in [&gate_inside, &report_inside] {
            keep_on_exec(inherited)?;
        }
        let mut process = itself(&entry, command)?;
        if let Some(log) = log {
            process.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        }
        Ok(Self { child: process.spawn()?, gate: gate.into(), report: report.into() })
    }

    /// Process id, which the command will have.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens the gate. The command runs when this returns well.
    ///
    /// # Errors
    /// When the command could not be run; the process has ended then.
    pub fn go(mut self) -> Result<Child, Failure> {
        // A process that has failed already has closed the gate, and its report says why.
        _ = self.gate.write_all(&[1]);
        let mut report = Vec::new();
        let read = self.report.read_to_end(&mut report);
        if read.is_ok() && report.is_empty() {
            return Ok(self.child);
        }
        self.child.wait().map_err(|error| Failure::underway("wait for the command", error))?;
        Err(serde_json::from_slice(&report).unwrap_or_else(|error| Failure::underway("start the command", error)))
    }

    /// Ends the process without letting it become the command.
    pub fn abandon(self) {
        let Self { mut child, gate, report } = self;
        // The end of the gate is what ends it.
        drop((gate, report));
        _ = child.wait();
    }
}

/// Becomes the command, inside the container. Returns only when that fails.
pub fn replace(entry: &Entry, command: &[OsString]) -> io::Error {
    itself(entry, command).map_or_else(|error| error, |mut process| process.exec())
}

fn itself(entry: &Entry, command: &[OsString]) -> io::Result<Command> {
    let mut process = Command::new(THIS_BINARY);
    process.arg(ENTER).arg(serde_json::to_string(entry)?).args(command);
    Ok(process)
}

fn keep_on_exec(descriptor: &OwnedFd) -> nix::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
}
