//! A dockerd in a network namespace, with a data root, an exec root and a socket of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::wait::poll_for;
use netbpf_user::rig::Namespace;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::memory_of;
use super::number_in;
use crate::cost::{Published, millis};
use crate::site::{left_in, own_name};

/// How long dockerd may take to start or end.
const PATIENCE: Duration = Duration::from_secs(30);
/// A process that dockerd has for each published port.
const PROXY: &str = "docker-proxy";
const IMAGE: &str = "bench";

/// What some ports take of the machine.
pub(super) struct Taken {
    pub(super) time: Duration,
    pub(super) kib: f64,
    pub(super) threads: u64,
}

/// A running dockerd; it ends, with its containers, when dropped.
pub(super) struct Daemon {
    process: Child,
    directory: PathBuf,
    /// Killed, with all that it holds.
    pub(super) ends_at_once: bool,
}

impl Daemon {
    pub(super) fn start(host: &Namespace, name: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(own_name(name));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let log = fs::File::create(directory.join("log"))?;
        let at = |name: &str| directory.join(name);
        let process = host.enter(|| {
            Command::new("dockerd")
                .arg("--data-root")
                .arg(at("data"))
                .arg("--exec-root")
                .arg(at("exec"))
                .arg("--pidfile")
                .arg(at("pid"))
                .arg("--host")
                .arg(format!("unix://{}", at("socket").display()))
                // Layers of one small image: none needs the kernel's help.
                .args(["--storage-driver", "vfs"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        })?;
        let mut daemon = Self { process: process.context("cannot start dockerd")?, directory, ends_at_once: false };
        let answers = poll_for(PATIENCE, || {
            let ended = daemon.process.try_wait().is_ok_and(|status| status.is_some());
            if ended { Some(false) } else { daemon.docker(&["version"]).is_ok().then_some(true) }
        });
        ensure!(answers == Some(true), "dockerd does not come up: {}", daemon.last_words());
        Ok(daemon)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or("it has said nothing").to_owned()
    }

    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String> {
        let socket = format!("unix://{}", self.socket().display());
        let output = Command::new("docker").args(["--host", &socket]).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An image of busybox alone: there is no registry to ask.
    pub(super) fn import(&self) -> Result<()> {
        let root = self.directory.join("root");
        fs::create_dir_all(root.join("bin"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let busybox = std::env::split_paths(&path).map(|place| place.join("busybox")).find(|path| path.is_file());
        fs::copy(busybox.context("busybox is missing")?, root.join("bin/busybox"))?;
        let archive = self.directory.join("image.tar");
        let (archive, root) = (archive.to_str().context("a path of our own")?, root.to_str().context("too")?);
        let status = Command::new("tar").args(["-C", root, "-cf", archive, "."]).status()?;
        ensure!(status.success(), "tar failed ({status})");
        self.docker(&["import", archive, IMAGE])?;
        Ok(())
    }

    /// Makes a container of a process that waits.
    fn create(&self, name: &str, flags: &[&str]) -> Result<()> {
        let command = [IMAGE, "/bin/busybox", "sleep", "1000000"];
        self.docker(&[&["create", "--name", name][..], flags, &command].concat())?;
        Ok(())
    }

    pub(super) fn run(&self, name: &str, flags: &[&str]) -> Result<()> {
        self.create(name, flags)?;
        self.docker(&["start", name])?;
        Ok(())
    }

    /// How long a container takes to start, in milliseconds; it is removed by the caller.
    fn started(&self, name: &str, flags: &[&str]) -> Result<f64> {
        self.create(name, flags)?;
        let started = Instant::now();
        self.docker(&["start", name])?;
        Ok(millis(started))
    }

    /// Starts a container without ports and one with, and tells what the ports are to its user and to the machine.
    pub(super) fn publish(&self, flags: &[&str]) -> Result<(Published, Taken)> {
        let without = self.started("without", &[])?;
        let before = self.children(PROXY);
        let with = self.started("with", flags)?;
        let proxies: Vec<u32> = self.children(PROXY).into_iter().filter(|pid| !before.contains(pid)).collect();
        let kib = proxies.iter().filter_map(|pid| memory_of(*pid)).sum();
        let threads = proxies.iter().map(|pid| number_in(&format!("/proc/{pid}/status"), "Threads:")).sum();
        let millis = (with - without).max(0.0);
        let taken = Taken { time: Duration::from_secs_f64(millis / 1e3), kib, threads };
        Ok((Published { millis, processes: proxies.len(), kib: Some(kib), kib_at_first: None }, taken))
    }

    /// Memory in KiB of dockerd and its containerd.
    pub(super) fn memory(&self) -> f64 {
        self.children("containerd").into_iter().chain([self.process.id()]).filter_map(memory_of).sum()
    }

    /// Processes of a name that dockerd has started.
    fn children(&self, name: &str) -> Vec<u32> {
        processes(|pid| stat_of(pid).is_some_and(|(command, parent)| command == name && parent == self.process.id()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ends_at_once {
            // Its proxies end with it, and what else it leaves is removed with the directory.
            _ = self.process.kill();
        } else {
            if let Ok(containers) = self.docker(&["ps", "-aq"]) {
                let containers: Vec<&str> = containers.split_whitespace().collect();
                // What fails here is removed with the directory too.
                _ = self.docker(&[&["rm", "-f"][..], &containers].concat());
            }
            end(self.process.id());
        }
        _ = self.process.wait();
        remove(&self.directory);
    }
}

/// Lets a dockerd end, and with it its containerd.
fn end(pid: u32) {
    let pid = Pid::from_raw(pid as i32);
    _ = kill(pid, Signal::SIGTERM);
    let is_gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    };
    if poll_for(PATIENCE, is_gone).is_none() {
        _ = kill(pid, Signal::SIGKILL);
    }
}

/// Removes the directory of a dockerd that has ended, with what one that had to be killed has left: containers and mounts.
fn remove(directory: &Path) {
    let Some(path) = directory.to_str() else { return };
    let keepers = processes(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&format!("\0{path}/exec/"))
    });
    for pid in processes(|pid| keepers.contains(&pid) || parent_of(pid).is_some_and(|parent| keepers.contains(&parent)))
    {
        _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|it| it.starts_with(&format!("{path}/")));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        _ = umount2(mount, MntFlags::MNT_DETACH);
    }
    _ = fs::remove_dir_all(directory);
}

fn processes(is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_wanted(*pid)).collect()
}

/// Name and parent of a process.
fn stat_of(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'))?;
    Some((name.to_owned(), rest.split_whitespace().nth(1)?.parse().ok()?))
}

fn parent_of(pid: u32) -> Option<u32> {
    stat_of(pid).map(|(_, parent)| parent)
}

/// Ends what runs that are gone have left.
pub(in super::super) fn sweep() {
    let temporary = std::env::temp_dir();
    for name in left_in(&temporary) {
        let directory = temporary.join(name);
        let pid = fs::read_to_string(directory.join("pid")).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        if let Some(pid) = pid
            && fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"))
                .is_ok_and(|it| it.trim() == "dockerd")
        {
            end(pid);
        }
        remove(&directory);
    }
}
