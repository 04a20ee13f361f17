//! What of the host can get in the way: looked at when somebody asks, never changed.
//!
//! Each file reads one subject and judges it. Judging is pure; what was read is a parameter.

mod express;
mod features;
mod firewall;
mod hooks;
mod ipv6;
mod kernel;
mod names;
mod netkit;
mod places;
mod ports;
mod process;
mod routes;
mod ruleset;
mod subject;
mod tables;
mod world;

use std::time::Instant;

use super::Engine;
use super::host::{ROUTE_DEVICE, forwarding_of_route_device};
use super::state::State;
use crate::api::types::{Finding, Status};
use crate::config::Settings;
use crate::datapath::Datapath;
use crate::error::{Context as _, Error, Result};
use crate::net::namespace::Namespace;
use crate::net::{Netlink, sysctl};
use names::Asker;
use subject::Subject;
pub(super) use tables::Recent;

/// Containers whose routes are looked at: a thousand of them would take seconds.
const SOME_CONTAINERS: usize = 32;

/// Everything that is looked at, in the order in which it is told. Where no agent runs some are left out.
pub const CHECKS: [&str; 28] = [
    "agent",
    "status",
    "limits",
    "kernel",
    "kernel-bpf",
    "kernel-features",
    "netkit",
    "jit",
    "bpffs",
    "cgroup",
    "tc-programs",
    "tc-filters",
    "xdp-programs",
    "cgroup-programs",
    "xdp-uplinks",
    "uplinks",
    "mtu",
    "routes",
    "route-device",
    "firewall",
    "names",
    "nat-ports",
    "nat-port-sockets",
    "ipv6-host",
    "ipv6-devices",
    "ipv6-source",
    "tables",
    "drops",
];

impl Finding {
    /// All is well.
    fn well(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.into(), ok: true, found: found.into(), advice: String::new() }
    }

    /// Something is in the way.
    fn amiss(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), ok: false, found: found.into(), advice: advice.into() }
    }

    /// What keeps us from looking is in the way too.
    fn unseen(check: &str, error: &Error) -> Self {
        Self::amiss(
            check,
            format!("could not be looked at: {error}"),
            "run it as root, in the network namespace of the agent",
        )
    }
}

impl Engine {
    /// Looks at all of it.
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        let status = self.status().await?;
        let (subject, asker, namespaces, switches) = {
            let state = self.state.lock().await;
            let switches: Vec<String> = forwarding_of_route_device(&state.networks).collect();
            (Subject::of_agent(self, &state), Asker::choose(&state), own_namespaces(&state), switches)
        };
        let counters = self.counters()?;
        let route_mtus = route_mtus(namespaces).await;
        let mut findings =
            vec![standing(&status), process::look(), route_device(&switches), tables::tables(&status.maps)];
        {
            let recent = self.recent.lock().expect("no panic while it was held");
            findings.push(tables::drops(&recent, Instant::now(), &counters));
        }
        findings.extend(look(subject.clone(), &self.netlink, &route_mtus).await?);
        findings.push(names::look(&subject, asker).await);
        findings.extend(self.ipv6_findings().await);
        Ok(in_order(findings))
    }
}

impl Engine {
    /// Keeps the counters, to tell later what has grown.
    pub(super) fn note_counters(&self) -> Result<()> {
        let counters = self.counters()?;
        self.recent.lock().expect("no panic while it was held").note(Instant::now(), counters);
        Ok(())
    }

    fn counters(&self) -> Result<tables::Counters> {
        let counters = self.datapath.maps.counters.get_per_cpu(0)?;
        Ok(std::array::from_fn(|place| counters.iter().map(|cpu| cpu[place]).sum()))
    }
}

/// Looks at what can be looked at where no agent answers.
///
/// # Errors
/// When the kernel tells nothing at all.
pub async fn doctor_without_agent(settings: &Settings, socket: &std::path::Path) -> Result<Vec<Finding>> {
    let subject = Subject::of_settings(settings);
    let netlink = Netlink::open()?;
    let has_datapath = Datapath::is_pinned(settings);
    let mut findings = vec![process::no_agent(socket, has_datapath)];
    // Without a datapath there are no ways to it yet.
    let subject = if has_datapath { subject } else { Subject { nets: Vec::new(), virtuals: Vec::new(), ..subject } };
    if netlink.device_named(ROUTE_DEVICE).await?.is_some() {
        findings.push(route_device(&[format!("ipv4/conf/{ROUTE_DEVICE}/forwarding")]));
    }
    findings.extend(look(subject, &netlink, &[]).await?);
    Ok(in_order(findings))
}

/// Whether the agent is of the version of the command that asks.
pub fn compare_versions(status: &Status) -> Finding {
    process::agent(status.pid, &status.version, env!("CARGO_PKG_VERSION"))
}

/// What needs no agent.
async fn look(subject: Subject, netlink: &Netlink, route_mtus: &[(String, bool, u32)]) -> Result<Vec<Finding>> {
    let devices = netlink.devices().await?;
    let mut findings = match hooks::look(&subject, netlink, &devices).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::unseen("tc-programs", &error)],
    };
    findings.push(express::look(&subject, &devices));
    findings.push(features::look(netlink).await);
    findings.push(netkit::look(&subject, netlink).await);
    findings.extend(world::look(&subject, netlink, &devices, route_mtus).await?);
    if !subject.nets.is_empty() {
        findings.push(
            routes::look(&subject, netlink, &devices).await.unwrap_or_else(|error| Finding::unseen("routes", &error)),
        );
    }
    let blocking = move || {
        let mut findings = kernel::look(&subject);
        findings.extend(places::look(&subject));
        findings.push(ports::ranges(subject.nat_ports));
        findings.push(ports::sockets(subject.nat_ports, subject.dns_port));
        findings.push(firewall::look(&subject).unwrap_or_else(|error| Finding::unseen("firewall", &error)));
        findings
    };
    findings.extend(tokio::task::spawn_blocking(blocking).await.context(|| "look at the host".into())?);
    Ok(findings)
}

/// In the order of [`CHECKS`]; what `CHECKS` does not name comes last.
fn in_order(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| CHECKS.iter().position(|check| *check == finding.check).unwrap_or(CHECKS.len()));
    findings
}

/// Whether `netbpf status` has something to say.
fn standing(status: &Status) -> Finding {
    match &status.problems[..] {
        [] => Finding::well("status", format!("{} programs are attached as desired", status.programs.len())),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            Finding::amiss("status", format!("{first}{more}"), "`netbpf status` shows all that is not as desired")
        }
    }
}

/// Whether the device that route lookups name forwards.
fn route_device(switches: &[String]) -> Finding {
    const CHECK: &str = "route-device";
    let off: Vec<String> = switches
        .iter()
        .filter(|path| sysctl::read(path).as_deref() != Some("1"))
        .map(|path| format!("net/{path}"))
        .collect();
    if off.is_empty() {
        return Finding::well(CHECK, format!("{ROUTE_DEVICE} forwards, as route lookups ask"));
    }
    Finding::amiss(
        CHECK,
        format!("off: {}", off.join(", ")),
        "containers reach no world until the agent has set it right, some seconds from now: whatever writes net.ipv4.ip_forward \
         or net.ipv6.conf.all.forwarding again and again switches it off",
    )
}

/// Namespaces of containers that have ends of ours, by name.
fn own_namespaces(state: &State) -> Vec<(String, Namespace)> {
    let ours = state.containers.values().filter(|record| {
        !record.is_host
            && record.endpoints.iter().any(|endpoint| !endpoint.is_tap && state.networks.of(endpoint).is_ours())
    });
    ours.take(SOME_CONTAINERS)
        .filter_map(|record| Some((record.name.clone(), Namespace::open(record.netns()).ok()?)))
        .collect()
}

/// What these containers believe that their default routes carry; whether by IPv4.
async fn route_mtus(namespaces: Vec<(String, Namespace)>) -> Vec<(String, bool, u32)> {
    let mut mtus = Vec::new();
    for (name, namespace) in namespaces {
        let Ok(inside) = namespace.run(Netlink::open).await else { continue };
        for is_ipv4 in [true, false] {
            if let Ok(Some(mtu)) = inside.default_mtu(is_ipv4).await {
                mtus.push((name.clone(), is_ipv4, mtu));
            }
        }
    }
    mtus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_told_once_and_in_order() {
        let found =
            in_order(vec![Finding::well("tables", ""), Finding::well("kernel", ""), Finding::well("agent", "")]);
        assert_eq!(found.iter().map(|finding| &*finding.check).collect::<Vec<_>>(), ["agent", "kernel", "tables"]);
        let mut names = CHECKS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }
}
