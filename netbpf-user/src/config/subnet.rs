//! What the subnet of a network can be. `name` is that of the setting or flag which says it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::error::{Error, Result};

/// Lengths of an IPv4 subnet.
const PREFIXES_V4: RangeInclusive<u8> = 8..=29;

/// Lengths of an IPv6 subnet: a /64 as everybody has it (RFC 7421), smaller ones, and up to a whole site.
const PREFIXES_V6: RangeInclusive<u8> = 48..=120;

/// Longest prefix that is translated one to one: what makes up for it in the checksum lies behind (RFC 6296 section 3.1).
pub(super) const LONGEST_TRANSLATED: u8 = 64;

/// The least that a link must carry for IPv6 (RFC 8200 section 5).
const LEAST_MTU_V6: u32 = 1280;

/// The most that a link can carry.
pub(crate) const LARGEST_MTU: u32 = 65_535;

pub(super) fn invalid(line: String) -> Result<()> {
    Err(Error::Invalid(line))
}

/// Refuses what is no subnet of addresses that machines have.
pub(crate) fn check_net(name: &str, net: IpNet) -> Result<()> {
    if net.network() != net.addr() {
        return invalid(format!("{name} {net} has host bits set: write {}", net.trunc()));
    }
    let what = match net.addr() {
        IpAddr::V4(address) if matches!(address.octets()[0], 0 | 127 | 224..) => "no unicast",
        // Below 100::/8 lie ::, ::1, mapped and translated addresses (RFC 4291 section 2.4).
        IpAddr::V6(address) if address.octets()[0] == 0 => "reserved",
        IpAddr::V6(address) if address.is_multicast() => "multicast",
        IpAddr::V6(address) if address.is_unicast_link_local() => "link-local",
        _ => return Ok(()),
    };
    let advice = if net.addr().is_ipv4() {
        "take one of RFC 1918"
    } else {
        "take unique local ones (fd00::/8), or global ones of yours"
    };
    invalid(format!("{name} {net} is of {what} addresses: {advice}"))
}

/// Refuses what is no subnet for containers.
pub(crate) fn check_subnet(name: &str, subnet: IpNet) -> Result<()> {
    check_net(name, subnet)?;
    let (prefixes, usual) = if subnet.addr().is_ipv4() { (PREFIXES_V4, "") } else { (PREFIXES_V6, "a /64, or ") };
    if prefixes.contains(&subnet.prefix_len()) {
        return Ok(());
    }
    let (shortest, longest) = (prefixes.start(), prefixes.end());
    invalid(format!("{name} {subnet} is of a size that is no use: take {usual}a prefix from /{shortest} to /{longest}"))
}

/// Refuses what cannot be the gateway of a subnet.
pub(crate) fn check_gateway(name: &str, gateway: IpAddr, subnet: IpNet) -> Result<()> {
    let is_broadcast = gateway.is_ipv4() && gateway == subnet.broadcast();
    if subnet.contains(&gateway) && gateway != subnet.network() && !is_broadcast {
        return Ok(());
    }
    invalid(format!("{name} {gateway} is no host address of {subnet}: choose another"))
}

/// Refuses what is no part of a subnet with room for containers.
pub(crate) fn check_range(name: &str, range: IpNet, subnet: IpNet) -> Result<()> {
    if range.network() != range.addr() {
        return invalid(format!("{name} {range} has host bits set: write {}", range.trunc()));
    }
    let longest = range.max_prefix_len() - 2;
    if subnet.contains(&range) && range.prefix_len() <= longest {
        return Ok(());
    }
    invalid(format!(
        "{name} {range} is no part of subnet {subnet} with room for containers: choose one inside, up to /{longest}"
    ))
}

/// Refuses a prefix that a subnet of this length cannot be translated to one to one.
pub(crate) fn check_external(name: &str, external: IpNet, length: u8) -> Result<()> {
    check_net(name, external)?;
    if length > LONGEST_TRANSLATED {
        return invalid(format!(
            "a subnet with a prefix of /{length} cannot be translated one to one (RFC 6296): take a /{LONGEST_TRANSLATED} or a \
             shorter one for the mode \"prefix\""
        ));
    }
    if external.prefix_len() != length {
        return invalid(format!(
            "{name} {external} is not as long as the subnet (/{length}): addresses are translated one to one"
        ));
    }
    Ok(())
}

/// Refuses an MTU that no link of such a network can have.
pub(crate) fn check_mtu(mtu: u32, has_ipv6: bool) -> Result<()> {
    if !(576..=LARGEST_MTU).contains(&mtu) {
        return invalid(format!("mtu {mtu} is out of range: choose 576 to {LARGEST_MTU}"));
    }
    if has_ipv6 && mtu < LEAST_MTU_V6 {
        return invalid(format!("mtu {mtu} is too small for IPv6: choose at least {LEAST_MTU_V6}, or leave IPv6 out"));
    }
    Ok(())
}
