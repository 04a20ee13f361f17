//! The names of a rig, and from them alone: how it is removed.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::error::{Doing as _, RigError};
use super::namespace::{DIRECTORY, Namespace};

const PREFIX: &str = "nbt";
/// How long the processes of a rig may take to be gone after SIGKILL.
const KILLED: Duration = Duration::from_secs(5);

/// The cgroup, directories and names of a rig; removes them, and all that lives in them, when dropped.
#[derive(Debug)]
pub(super) struct Layout {
    /// `nbt-PID-N`.
    prefix: String,
    /// Where the cgroup2 hierarchy is mounted.
    cgroups: PathBuf,
    program: PathBuf,
}

impl Layout {
    pub(super) fn make(program: &Path) -> Result<Self, RigError> {
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let layout = Self {
            prefix: format!("{PREFIX}-{}-{number}", process::id()),
            cgroups: cgroup_mount()?,
            program: program.into(),
        };
        for directory in [layout.directory(), layout.cgroup(), layout.bpf_mount()] {
            fs::create_dir(&directory).doing(|| format!("make {}", directory.display()))?;
        }
        // Before the agent and outside of it: pins must not end with whoever made them.
        mount(Some("bpf"), &layout.bpf_mount(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .doing(|| format!("mount a bpffs on {} (root is needed)", layout.bpf_mount().display()))?;
        Ok(layout)
    }

    pub(super) fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(&self.prefix)
    }

    fn bpf_mount(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    pub(super) fn cgroup(&self) -> PathBuf {
        self.cgroups.join(&self.prefix)
    }

    pub(super) fn cgroups(&self) -> &Path {
        &self.cgroups
    }

    pub(super) fn bpffs(&self) -> PathBuf {
        self.bpf_mount().join("netbpf")
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.directory().join("state")
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.directory().join("run")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory().join("agent.log")
    }

    pub(super) fn notify_socket(&self) -> PathBuf {
        self.directory().join("notify")
    }

    pub(super) fn instance_flags(&self) -> Vec<OsString> {
        [
            ("--state-dir", self.state_dir()),
            ("--run-dir", self.run_dir()),
            ("--bpffs", self.bpffs()),
            ("--cgroup", self.cgroup()),
        ]
        .into_iter()
        .flat_map(|(flag, path)| [flag.into(), path.into_os_string()])
        .collect()
    }

    /// Removes what is there; what is not, or will not go, keeps nothing else from going.
    fn remove(&self) {
        // Containers have namespaces of their own names, which the instance alone knows.
        let host = Namespace::named(&self.namespace("host"));
        if self.directory().exists() {
            _ = host.enter(|| {
                Command::new(&self.program)
                    .arg("uninstall")
                    .args(self.instance_flags())
                    .env_remove("NETBPF_SOCKET")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
            });
        }
        self.kill_processes();
        remove_cgroup(&self.cgroup());
        for machine in ["host", "ext"] {
            _ = Namespace::named(&self.namespace(machine)).delete();
        }
        // Also those that were mounted over it.
        while umount2(&self.bpf_mount(), MntFlags::MNT_DETACH).is_ok() {}
        _ = fs::remove_dir_all(self.directory());
    }

    fn kill_processes(&self) {
        _ = fs::write(self.cgroup().join("cgroup.kill"), "1");
        let deadline = Instant::now() + KILLED;
        let populated = || {
            fs::read_to_string(self.cgroup().join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
        };
        while populated() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes a cgroup and those that its processes have made in it. What else is in their directories is the kernel's.
fn remove_cgroup(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    _ = fs::remove_dir(directory);
}

/// Removes the rigs of processes that have ended without doing so.
pub(super) fn sweep(program: &Path) {
    let Ok(cgroups) = cgroup_mount() else { return };
    let names = [PathBuf::from(DIRECTORY), std::env::temp_dir(), cgroups.clone()]
        .into_iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut stale: Vec<String> = names.filter_map(|name| stale_prefix(&name)).collect();
    stale.sort();
    stale.dedup();
    for prefix in stale {
        drop(Layout { prefix, cgroups: cgroups.clone(), program: program.into() });
    }
}

/// The prefix in a rig's name, when the process that made it is gone.
fn stale_prefix(name: &str) -> Option<String> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?;
    let number = rest.split('-').next()?;
    let pid: i32 = pid.parse().ok()?;
    let gone = kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH);
    gone.then(|| format!("{PREFIX}-{pid}-{number}"))
}

fn cgroup_mount() -> Result<PathBuf, RigError> {
    let doing = || "find the cgroup2 mount in /proc/self/mounts".to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").doing(doing)?;
    mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find_map(|fields| (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1])))
        .ok_or_else(|| std::io::Error::new(ErrorKind::NotFound, "none is mounted; mount -t cgroup2 none DIR"))
        .doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rigs_of_living_processes_are_never_stale() {
        assert_eq!(stale_prefix(&format!("nbt-{}-0-host", process::id())), None);
        assert_eq!(stale_prefix("nbt-1-0"), None);
        assert_eq!(stale_prefix("nbt-x-0"), None);
        assert_eq!(stale_prefix("other-4194304-0-host"), None);
        // PID_MAX_LIMIT is 2^22: no process has this number.
        assert_eq!(stale_prefix("nbt-4194305-7-host").as_deref(), Some("nbt-4194305-7"));
    }
}
