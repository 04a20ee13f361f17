//! The agent of a rig.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Doing as _, RigError};
use super::layout::Layout;
use super::{Options, in_cgroup};

/// How long an agent may take to start, on a machine that runs many rigs, or is emulated.
const START: Duration = Duration::from_secs(240);
/// How long an agent may take to end.
const END: Duration = Duration::from_secs(20);
/// How often a wait looks whether the process is still there.
const GLANCE: Duration = Duration::from_millis(10);

/// A running agent; killed when dropped.
#[derive(Debug)]
pub(super) struct Agent {
    process: Child,
}

impl Agent {
    /// Starts an agent in the network namespace of the calling thread, and waits until it says that it is ready.
    pub(super) fn start(options: &Options, layout: &Layout) -> Result<Self, RigError> {
        let doing = || "start the agent".to_owned();
        let log = File::options().create(true).append(true).open(layout.log()).doing(doing)?;
        // The agent tells a service manager that it is ready: here, us.
        let notifications = layout.notify_socket();
        _ = std::fs::remove_file(&notifications);
        let ready = UnixDatagram::bind(&notifications).doing(doing)?;
        ready.set_read_timeout(Some(GLANCE)).doing(doing)?;
        let process = in_cgroup(&layout.cgroup(), options.program.as_os_str())
            .arg("agent")
            .args(layout.instance_flags())
            .args(&options.agent_flags)
            .env("NOTIFY_SOCKET", &notifications)
            .env_remove("NETBPF_SOCKET")
            .envs(options.agent_variables.iter().cloned())
            // A Ctrl-C at the terminal is for who holds the rig.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing(doing)?;
        let mut agent = Self { process };
        agent.wait_ready(&ready, layout)?;
        Ok(agent)
    }

    fn wait_ready(&mut self, ready: &UnixDatagram, layout: &Layout) -> Result<(), RigError> {
        let deadline = Instant::now() + START;
        let mut message = [0; 256];
        loop {
            match ready.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(RigError::new("hear from the agent", error)),
            }
            if self.process.try_wait().doing(|| "wait for the agent".into())?.is_some() {
                let log = std::fs::read_to_string(layout.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it ended without a word");
                return Err(RigError::new("start the agent", last.trim_start_matches("netbpf: ")));
            }
            if Instant::now() > deadline {
                return Err(RigError::new("start the agent", format!("not ready after {} s", START.as_secs())));
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn stop(mut self) -> Result<(), RigError> {
        let doing = || "stop the agent".to_owned();
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).doing(doing)?;
        self.wait_end()
    }

    /// Waits for an agent that was told to end; one that does not is killed by the drop.
    fn wait_end(&mut self) -> Result<(), RigError> {
        let deadline = Instant::now() + END;
        while self.process.try_wait().doing(|| "wait for the agent".into())?.is_none() {
            if Instant::now() > deadline {
                return Err(RigError::new("stop the agent", format!("it still runs after {} s", END.as_secs())));
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    pub(super) fn kill(mut self) -> Result<(), RigError> {
        let doing = || "kill the agent".to_owned();
        self.process.kill().doing(doing)?;
        self.process.wait().doing(doing).map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
