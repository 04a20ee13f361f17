//! What a namespace has, seen from a thread in it.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::error::{Context as _, Result};

/// Devices, addresses and default routes of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Names of the devices that are up.
    pub(crate) up: BTreeSet<String>,
    /// Addresses, with the names of their devices.
    pub(crate) addresses: BTreeSet<(String, IpAddr)>,
    /// Whether some route leads everywhere, by IPv4 and by IPv6.
    pub(crate) leads_out: [bool; 2],
}

impl Seen {
    /// What the namespace of the calling thread has.
    pub(crate) fn here() -> Result<Self> {
        let mut seen = Self::default();
        for entry in getifaddrs().context(|| "list the addresses of a namespace".into())? {
            if entry.flags.contains(InterfaceFlags::IFF_UP) {
                seen.up.insert(entry.interface_name.clone());
            }
            let address = entry.address.and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            });
            seen.addresses.extend(address.map(|address| (entry.interface_name, address)));
        }
        let read = |table: &str| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        seen.leads_out = [leads_out_v4(&read("route")), leads_out_v6(&read("ipv6_route"))];
        Ok(seen)
    }
}

/// Whether a table as in `/proc/net/route` has a default: device, destination, gateway, flags, ..., and the mask as the eighth.
fn leads_out_v4(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}

/// The same of `/proc/net/ipv6_route`: destination and its length, ..., and the device last. A namespace has a refusal of its own
/// for what no route leads to, on lo.
fn leads_out_v6(table: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        is_default && fields.get(1) == Some(&"00") && fields.last() != Some(&"lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_told_from_others() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let subnet = "eth0\t00001EAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let default = "eth0\t00000000\t01001EAC\t0003\t0\t0\t0\t00000000\t1500\t0\t0\n";
        assert!(!leads_out_v4(&format!("{head}{subnet}")));
        assert!(leads_out_v4(&format!("{head}{subnet}{default}")));
        let zero = "0".repeat(32);
        let line = |length: &str, device: &str| {
            format!("{zero} {length} {zero} 00 {zero} 00000400 00000001 00000000 00200003     {device}\n")
        };
        assert!(!leads_out_v6(&(line("00", "lo") + &line("40", "eth0"))));
        assert!(leads_out_v6(&(line("00", "lo") + &line("00", "eth0"))));
    }
}
