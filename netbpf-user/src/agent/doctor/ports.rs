//! Ports that masquerading gives out, and the host too.

use crate::api::types::Finding;
use crate::config::PortRange;
use crate::error::{Error, Result};
use crate::net::sockets::open_sockets;
use crate::net::sysctl;
use crate::spec::transport_name;

/// The setting that two of the checks are about.
const HOST_RANGE: &str = "net.ipv4.ip_local_port_range";

/// Whether the host gives out ports that masquerading does as well.
pub(super) fn ranges(nat_ports: PortRange) -> Finding {
    let unseen = |error: Error| Finding::unseen("nat-ports", &error);
    sysctl::ephemeral_ports().map_or_else(unseen, |host| judge_ranges(nat_ports, host))
}

/// Whether services of the host have such ports.
pub(super) fn sockets(nat_ports: PortRange, own: Option<u16>) -> Finding {
    judge_sockets(nat_ports, own).unwrap_or_else(|error| Finding::unseen("nat-port-sockets", &error))
}

/// Whether the kernel gives the host's sockets ports that masquerading gives out: it asks no hook then.
fn judge_ranges(nat_ports: PortRange, (first, last): (u16, u16)) -> Finding {
    let ok = !nat_ports.overlaps(first, last);
    let advice = format!(
        "keep them apart: set nat_ports in netbpf's settings, or {HOST_RANGE} of the host; until then a connection of the \
         host may take a port that a container has towards the same machine"
    );
    Finding {
        check: "nat-ports".into(),
        ok,
        found: format!("masquerading gives out ports {nat_ports}, the host {first}-{last} ({HOST_RANGE})"),
        advice: if ok { String::new() } else { advice },
    }
}

/// Whether services of the host have ports that masquerading gives out. It leaves those alone, one by one. The port of the
/// resolver is one by itself.
fn judge_sockets(nat_ports: PortRange, own: Option<u16>) -> Result<Finding> {
    let sockets = open_sockets()?;
    let mut held: Vec<String> = sockets
        .iter()
        .filter(|socket| nat_ports.overlaps(socket.port, socket.port) && Some(socket.port) != own)
        .map(|socket| format!("{}/{}", socket.port, transport_name(socket.transport)))
        .collect();
    held.sort();
    held.dedup();
    let ok = held.is_empty();
    Ok(Finding {
        check: "nat-port-sockets".into(),
        ok,
        found: match &held[..] {
            [] => format!("no service of the host has a port of {nat_ports}"),
            held => format!("services of the host have ports of {nat_ports}: {}", held.join(", ")),
        },
        advice: if ok {
            String::new()
        } else {
            "nothing breaks, containers get the other ports; to have all of them move the services or nat_ports".into()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_told_with_what_to_do() {
        let ours = PortRange { first: 16_384, last: 32_767 };
        assert!(judge_ranges(ours, (32_768, 60_999)).ok);
        for host in [(32_767, 60_999), (1024, 65_535), (20_000, 20_001), (1024, 16_384)] {
            let finding = judge_ranges(ours, host);
            assert!(!finding.ok && finding.advice.contains("nat_ports"), "{host:?}");
        }
    }
}
