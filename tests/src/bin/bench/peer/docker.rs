//! dockerd as Debian has it, in a network namespace with a data root, an exec root and a socket of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::http::request;
use netbpf_tests::wait::poll_for;
use netbpf_user::rig::{Namespace, Rig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Peer, conntrack_limit, memory_of};
use crate::cost::{self, Memory, Networked, Published, kib, millis};
use crate::results::grouped;
use crate::site::{DEVICE, LISTENED, Machines, OTHERS, PUBLISHED, Way, Ways, host_end, left_in, own_name, wire};

/// How long dockerd may take to start or end.
const PATIENCE: Duration = Duration::from_secs(30);
/// A process that dockerd has for each published port.
const PROXY: &str = "docker-proxy";
const IMAGE: &str = "bench";
/// A network that containers are connected to and disconnected from.
const SECOND: &str = "second";
/// How long it may take to publish some ports and to take them back.
const MOST_TIME: Duration = Duration::from_secs(300);

pub(super) struct Docker {
    ways: Ways,
    host: Namespace,
    /// Containers that wait to be connected to the second network.
    waiting: usize,
    /// Rules as dockerd has written them.
    rules: String,
    /// What the most ports that were published have come to.
    published: Option<Taken>,
    daemon: Daemon,
    _machines: Machines,
}

/// What some ports take of the machine.
struct Taken {
    ports: u16,
    /// Until they were published, and no longer were.
    time: Duration,
    kib: f64,
    threads: u64,
}

/// A running dockerd; it ends, with its containers, when dropped.
struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Docker {
    pub(super) fn start() -> Result<Self> {
        let mut machines = Machines::default();
        let (host, outside) = (machines.make("docker", "host")?, machines.make("docker", "outside")?);
        wire(&host, &outside)?;
        let daemon = Daemon::start(&host)?;
        daemon.import()?;
        let published = ["tcp", "udp"].map(|transport| format!("{PUBLISHED}:{LISTENED}/{transport}"));
        daemon.run("client", &[])?;
        daemon.run("server", &["-p", &published[0], "-p", &published[1]])?;
        daemon.docker(&["network", "create", SECOND])?;
        let mut named = |container: &str| {
            let name = own_name(&format!("docker-{container}"));
            let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", container])?;
            host.run("ip", &["netns", "attach", &name, pid.trim()])?;
            Ok::<_, anyhow::Error>(machines.take(&name))
        };
        let (c1, c2) = (named("client")?, named("server")?);
        let address = daemon.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server"])?;
        let device = host_end(&host, &c1)?;
        let rules = host.run("iptables-save", &[])?;
        Ok(Self {
            ways: Ways::all(
                Way::new(&c1, &c2, address.trim().parse()?, (&host, &device)),
                Way::new(&outside, &c2, Rig::HOST_IP, (&host, DEVICE)).published(),
                Way::new(&c1, &outside, Rig::EXT_IP, (&host, &device)),
            ),
            published: None,
            host,
            waiting: 0,
            rules,
            daemon,
            _machines: machines,
        })
    }

    /// The rules with those of further ports in front of the measured one's, as dockerd writes them.
    fn rules_with(&self, others: u16) -> String {
        let measured = [format!("--dport {PUBLISHED} -j DNAT"), format!("--dport {LISTENED} -j")];
        let mut rules = String::new();
        for line in self.rules.lines() {
            if line.contains("-p tcp") && measured.iter().any(|part| line.contains(part)) {
                for port in OTHERS..OTHERS + others {
                    let line = line.replace(&format!("--dport {PUBLISHED} "), &format!("--dport {port} "));
                    let line = line.replace(&format!("--dport {LISTENED} "), &format!("--dport {port} "));
                    rules += &line.replace(&format!(":{LISTENED}"), &format!(":{port}"));
                    rules.push('\n');
                }
            }
            rules += line;
            rules.push('\n');
        }
        rules
    }

    fn restore(&self, rules: &str) -> Result<()> {
        let status = self.host.enter(|| {
            let mut child = Command::new("iptables-restore").stdin(Stdio::piped()).spawn()?;
            child.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
            Ok::<_, anyhow::Error>(child.wait()?)
        })??;
        ensure!(status.success(), "iptables-restore does not take the rules ({status})");
        Ok(())
    }
}

impl Daemon {
    fn start(host: &Namespace) -> Result<Self> {
        let directory = std::env::temp_dir().join(own_name("docker"));
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
        let mut daemon = Self { process: process.context("cannot start dockerd")?, directory };
        let answers = poll_for(PATIENCE, || {
            let ended = daemon.process.try_wait().is_ok_and(|status| status.is_some());
            if ended { Some(false) } else { daemon.docker(&["version"]).is_ok().then_some(true) }
        });
        ensure!(answers == Some(true), "dockerd does not come up: {}", daemon.last_words());
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or("it has said nothing").to_owned()
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        let socket = format!("unix://{}", self.socket().display());
        let output = Command::new("docker").args(["--host", &socket]).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An image of busybox alone: there is no registry to ask.
    fn import(&self) -> Result<()> {
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

    fn run(&self, name: &str, flags: &[&str]) -> Result<()> {
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

    /// Processes of a name that dockerd has started.
    fn children(&self, name: &str) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((command, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
                return false;
            };
            let parent = rest.split_whitespace().nth(1).and_then(|parent| parent.parse::<u32>().ok());
            command == name && parent == Some(self.process.id())
        };
        pids.filter(is_ours).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(containers) = self.docker(&["ps", "-aq"]) {
            let containers: Vec<&str> = containers.split_whitespace().collect();
            // What fails here is killed along with containerd, or found by the next run.
            _ = self.docker(&[&["rm", "-f"][..], &containers].concat());
        }
        end(self.process.id());
        _ = self.process.wait();
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// The number behind a word in a file of the kernel's; 0 where there is none.
fn number_in(path: &str, word: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.split_once(word).map_or("", |(_, rest)| rest).trim_start();
    rest.split(|it: char| !it.is_ascii_digit()).next().and_then(|it| it.parse().ok()).unwrap_or(0)
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

/// Ends what runs that are gone have left.
pub(super) fn sweep() {
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
        _ = fs::remove_dir_all(directory);
    }
}

impl Peer for Docker {
    fn ways(&self) -> &Ways {
        &self.ways
    }

    fn set_ports(&mut self, total: u32) -> Result<bool> {
        self.restore(&self.rules_with(u16::try_from(total - 1)?))?;
        Ok(true)
    }

    fn most_flows(&self) -> u32 {
        conntrack_limit()
    }

    /// By what fewer ports have taken: one process each, and what they are made of.
    fn cannot_publish(&self, ports: u16) -> Option<String> {
        let taken = self.published.as_ref().filter(|taken| taken.ports < ports)?;
        let times = f64::from(ports) / f64::from(taken.ports);
        let threads = (taken.threads as f64 * times) as u64;
        let free = number_in("/proc/sys/kernel/pid_max", "").saturating_sub(number_in("/proc/loadavg", "/"));
        let mib = taken.kib * times / 1024.0;
        let available = number_in("/proc/meminfo", "MemAvailable:") as f64 / 1024.0;
        let time = taken.time.mul_f64(times);
        let of = format!("by what {} ports take", grouped(taken.ports.into()));
        if threads > free {
            Some(format!("{of}, {threads} threads of docker-proxy; the machine has numbers for {free} more"))
        } else if mib > available / 2.0 {
            Some(format!("{of}, {mib:.0} MiB for docker-proxy; the machine has {available:.0}"))
        } else if time > MOST_TIME {
            Some(format!(
                "{of}, {} s to publish and to take back; the bound is {} s",
                time.as_secs(),
                MOST_TIME.as_secs()
            ))
        } else {
            None
        }
    }

    fn publish(&mut self, ports: u16, one_by_one: bool) -> Result<Option<Published>> {
        let last = OTHERS + ports - 1;
        let specs = if one_by_one {
            (OTHERS..=last).map(|port| format!("--publish={port}:{port}")).collect()
        } else {
            vec![format!("--publish={OTHERS}-{last}:{OTHERS}-{last}")]
        };
        let flags: Vec<&str> = specs.iter().map(String::as_str).collect();
        let without = self.daemon.started("without", &[])?;
        let before = self.daemon.children(PROXY);
        let started = Instant::now();
        let with = self.daemon.started("with", &flags)?;
        let proxies: Vec<u32> = self.daemon.children(PROXY).into_iter().filter(|pid| !before.contains(pid)).collect();
        let kib = proxies.iter().filter_map(|pid| memory_of(*pid)).sum();
        let threads = proxies.iter().map(|pid| number_in(&format!("/proc/{pid}/status"), "Threads:")).sum();
        self.daemon.docker(&["rm", "-f", "with", "without"])?;
        if self.published.as_ref().is_none_or(|taken| taken.ports <= ports) {
            self.published = Some(Taken { ports, time: started.elapsed(), kib, threads });
        }
        Ok(Some(Published { millis: (with - without).max(0.0), processes: proxies.len(), kib: Some(kib) }))
    }

    fn network(&mut self, at_once: usize) -> Result<Option<Networked>> {
        while self.waiting < at_once {
            self.daemon.run(&format!("waiting{}", self.waiting), &[])?;
            self.waiting += 1;
        }
        let ask = |verb: &str, which: usize| {
            let body = format!(r#"{{"Container":"waiting{which}"}}"#);
            let path = format!("/networks/{SECOND}/{verb}");
            let (code, answer) = request(&self.daemon.socket(), "POST", &path, body.as_bytes())?;
            ensure!(code == 200, "docker network {verb}: {}", String::from_utf8_lossy(&answer));
            Ok(())
        };
        cost::network(at_once, |which| ask("connect", which), |which| ask("disconnect", which)).map(Some)
    }

    fn memory(&mut self, _: u16, _: u16) -> Result<Memory> {
        let containerd = self.daemon.children("containerd");
        let all = containerd.into_iter().chain([self.daemon.process.id()]).filter_map(memory_of).sum();
        Ok(vec![kib("memory of the daemon (PSS)", all)])
    }
}
