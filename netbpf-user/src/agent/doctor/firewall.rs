//! Rules of the host's firewall that packets between the host and its containers meet: those to the world and to published
//! ports never come by.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use super::ruleset::{Fate, Probe, Ruleset};
use super::subject::Subject;
use crate::agent::host::HOST_DEVICE;
use crate::api::types::Finding;
use crate::error::{Context as _, Error, Result};

const CHECK: &str = "firewall";

/// The rules of the calling thread's network namespace; none where there is no program to list them.
fn list() -> Result<Option<Value>> {
    let output = match Command::new("nft").args(["-j", "list", "ruleset"]).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output.context(|| "run nft".into())?,
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        return Err(Error::Internal(format!("nft -j list ruleset: {why}")));
    }
    serde_json::from_slice(&output.stdout).map(Some).context(|| "read what nft lists".into())
}

/// Tables of the older iptables, which nft does not list.
fn has_legacy_tables() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()))
}

/// Looks at the rules for every subnet.
pub(super) fn look(subject: &Subject) -> Result<Finding> {
    let Some(listed) = list()? else {
        return Ok(Finding::well(CHECK, "not looked at: the program nft is not installed"));
    };
    let fates = judge(&Ruleset::read(&listed), subject);
    Ok(finding(&fates, has_legacy_tables()))
}

/// What becomes of what the host and containers have to tell each other.
fn judge(ruleset: &Ruleset<'_>, subject: &Subject) -> Vec<(String, Fate)> {
    let mut fates = Vec::new();
    for net in &subject.nets {
        let (gateway, container) = (net.part.gateway, net.a_container());
        let virtual_address =
            subject.virtuals.iter().map(|net| net.addr()).find(|it| it.is_ipv4() == gateway.is_ipv4());
        let to_host = Probe {
            what: "",
            hooks: &["prerouting", "input"],
            device: HOST_DEVICE,
            source: container,
            destination: gateway,
            protocol: "udp",
            port: 0,
            is_reply: false,
        };
        let to_containers = Probe {
            hooks: &["output", "postrouting"],
            source: gateway,
            destination: container,
            protocol: "tcp",
            port: 80,
            ..to_host
        };
        let answer = Probe { protocol: "tcp", port: 80, is_reply: true, ..to_host };
        let question =
            subject.dns_port.map(|port| Probe { what: "questions of containers to the resolver", port, ..to_host });
        let by_virtual = virtual_address.map(|it: IpAddr| Probe {
            what: "the host's connections to published ports of its own",
            destination: it,
            ..to_containers
        });
        let probes = [
            question,
            Some(Probe { what: "the host's connections to containers", ..to_containers }),
            by_virtual,
            Some(Probe { what: "answers of containers to the host", ..answer }),
        ];
        for probe in probes.into_iter().flatten() {
            let fate = ruleset.fate(probe);
            if fate != Fate::Passes {
                fates.push((format!("{} ({}, {})", probe.what, net.network, net.part.subnet), fate));
            }
        }
    }
    fates
}

fn finding(fates: &[(String, Fate)], has_legacy_tables: bool) -> Finding {
    let dropped: Vec<String> = fates
        .iter()
        .filter_map(|(what, fate)| match fate {
            Fate::Dropped(place) => Some(format!("{place} drops {what}")),
            _ => None,
        })
        .collect();
    let unclear = fates.iter().find_map(|(what, fate)| match fate {
        Fate::Unclear(place) => Some(format!("{what} may end in {place}: rules before it cannot be read")),
        _ => None,
    });
    if !dropped.is_empty() {
        return Finding::amiss(
            CHECK,
            dropped.join("; "),
            format!(
                "let the firewall accept what comes in by {HOST_DEVICE} and goes out by it, before that: \
                 nft insert rule FAMILY TABLE CHAIN iifname {HOST_DEVICE} accept (oifname for what goes out)"
            ),
        );
    }
    let legacy = has_legacy_tables.then(|| "there are tables of iptables-legacy, which are not looked at".to_owned());
    let more: Vec<String> = unclear.into_iter().chain(legacy).collect();
    if more.is_empty() {
        return Finding::well(CHECK, "no rule of nftables drops what the host and containers tell each other");
    }
    Finding::well(CHECK, more.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(hook: &str, policy: &str) -> Value {
        json!({"nftables": [
            {"chain": {"family": "inet", "table": "f", "name": "c", "hook": hook, "prio": 0, "policy": policy}}
        ]})
    }

    #[test]
    fn a_host_that_drops_what_comes_in_is_told_what_containers_lose() {
        let listed = chain("input", "drop");
        let told = finding(&judge(&Ruleset::read(&listed), &Subject::example()), false);
        assert!(
            !told.ok && told.found.contains("inet f c (policy drop) drops questions of containers to the resolver")
        );
        assert!(told.found.contains("answers of containers") && told.advice.contains("netbpf0"), "{told:?}");
    }

    #[test]
    fn what_goes_out_is_looked_at_too() {
        let listed = chain("output", "drop");
        let told = finding(&judge(&Ruleset::read(&listed), &Subject::example()), false);
        assert!(told.found.contains("the host's connections to containers"), "{told:?}");
    }

    #[test]
    fn what_forwarded_packets_meet_is_nobodys_concern() {
        let listed = chain("forward", "drop");
        let told = finding(&judge(&Ruleset::read(&listed), &Subject::example()), true);
        assert!(told.ok && told.found.contains("iptables-legacy"), "{told:?}");
    }

    #[test]
    fn rules_that_cannot_be_read_are_said_to_be_so() {
        let told = finding(&[("questions".into(), Fate::Unclear("ip filter INPUT".into()))], false);
        assert!(told.ok && told.found.contains("may end in ip filter INPUT"), "{told:?}");
    }
}
