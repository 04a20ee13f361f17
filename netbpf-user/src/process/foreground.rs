//! A process in the foreground: its signals and its exit code are ours.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// `si_code` of a signal that the terminal sent: to the whole foreground group, so the child has it already.
const SI_KERNEL: i32 = 0x80;

const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// The signals that this process gets from now on, held back for a child.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Holds signals back. To be made before there is anything that a signal could leave half done.
    ///
    /// # Errors
    /// When the kernel has no descriptor to give.
    pub fn hold() -> io::Result<Self> {
        let mut held: SigSet = FORWARDED.into_iter().collect();
        held.add(Signal::SIGCHLD);
        held.thread_block()?;
        Ok(Self { signals: SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC)? })
    }

    /// Forwards signals to the child until it has ended.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let Some(info) = self.signals.read_signal()? else { continue };
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            if signal != Signal::SIGCHLD && info.ssi_code != SI_KERNEL {
                // It cannot be another process: the child has not been waited for.
                kill(Pid::from_raw(child.id() as i32), signal)?;
            }
        }
    }

    /// Exit code of a command as shells have it: 128 and the signal when one ended it.
    pub fn exit_code(status: ExitStatus) -> u8 {
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).map_or(1, |code| code as u8)
    }
}
