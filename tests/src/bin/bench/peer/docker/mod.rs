//! dockerd as Debian has it, in a network namespace with a data root, an exec root and a socket of its own.

mod daemon;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netbpf_tests::http::request;
use netbpf_user::rig::{Namespace, Rig};

pub(super) use self::daemon::sweep;
use self::daemon::{Daemon, Taken};
use super::{Peer, conntrack_limit};
use crate::cost::{self, Memory, Networked, Published, kib};
use crate::results::grouped;
use crate::site::{DEVICE, LISTENED, Machines, OTHERS, PUBLISHED, Way, Ways, host_end, own_name, wire};

/// A network that containers are connected to and disconnected from.
const SECOND: &str = "second";
/// Ports that dockerd takes back in a moment.
const FEW_PORTS: u16 = 100;
/// How long it may take to publish some ports.
const MOST_TIME: Duration = Duration::from_secs(300);

pub(super) struct Docker {
    ways: Ways,
    host: Namespace,
    /// Containers that wait to be connected to the second network.
    waiting: usize,
    /// Rules as dockerd has written them.
    rules: String,
    /// What the most ports that were published have come to.
    published: Option<(u16, Taken)>,
    daemon: Daemon,
    _machines: Machines,
}

impl Docker {
    pub(super) fn start() -> Result<Self> {
        let mut machines = Machines::default();
        let (host, outside) = (machines.make("docker", "host")?, machines.make("docker", "outside")?);
        wire(&host, &outside)?;
        let daemon = Daemon::start(&host, "docker")?;
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

/// The number behind a word in a file of the kernel's; 0 where there is none.
fn number_in(path: &str, word: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.split_once(word).map_or("", |(_, rest)| rest).trim_start();
    rest.split(|it: char| !it.is_ascii_digit()).next().and_then(|it| it.parse().ok()).unwrap_or(0)
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
        let (fewer, taken) = self.published.as_ref().filter(|(most, _)| *most < ports)?;
        let times = f64::from(ports) / f64::from(*fewer);
        let threads = (taken.threads as f64 * times) as u64;
        let free = number_in("/proc/sys/kernel/pid_max", "").saturating_sub(number_in("/proc/loadavg", "/"));
        let mib = taken.kib * times / 1024.0;
        let available = number_in("/proc/meminfo", "MemAvailable:") as f64 / 1024.0;
        let time = taken.time.mul_f64(times);
        let of = format!("by what {} ports take", grouped((*fewer).into()));
        if threads > free {
            Some(format!("{of}, {threads} threads of docker-proxy; the machine has numbers for {free} more"))
        } else if mib > available / 2.0 {
            Some(format!("{of}, {mib:.0} MiB for docker-proxy; the machine has {available:.0}"))
        } else if time > MOST_TIME {
            Some(format!("{of}, {} s; the bound is {} s", time.as_secs(), MOST_TIME.as_secs()))
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
        let (published, taken) = if ports <= FEW_PORTS {
            let published = self.daemon.publish(&flags)?;
            self.daemon.docker(&["rm", "-f", "with", "without"])?;
            published
        } else {
            // Taking many back takes dockerd minutes. This one ends with them.
            let mut machines = Machines::default();
            let mut daemon = Daemon::start(&machines.make("publish", "host")?, "publish")?;
            daemon.ends_at_once = true;
            daemon.import()?;
            daemon.publish(&flags)?
        };
        if self.published.as_ref().is_none_or(|(most, _)| *most <= ports) {
            self.published = Some((ports, taken));
        }
        Ok(Some(published))
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
        Ok(vec![kib("memory of the daemon (PSS)", self.daemon.memory())])
    }
}
