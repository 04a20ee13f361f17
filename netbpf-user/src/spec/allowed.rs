//! Whom a publish is for.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Reason;

/// Most prefixes and devices of one SPEC.
pub(super) const MOST_OPTIONS: usize = 256;

/// Whom a publish is for: everybody, unless a list says otherwise. With both lists who is on both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Allowed {
    /// Prefixes that clients have their addresses from; all when empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub allow: Vec<IpNet>,
    /// Devices of the host that clients come in by; all when empty.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

impl Allowed {
    /// Whether it leaves somebody out.
    pub fn is_restricted(&self) -> bool {
        !self.allow.is_empty() || !self.interfaces.is_empty()
    }

    /// Whether any client of a family can be on the lists.
    pub fn has_family(&self, is_ipv4: bool) -> bool {
        self.allow.is_empty() || self.prefixes(is_ipv4).next().is_some()
    }

    /// The prefixes of a family.
    pub fn prefixes(&self, is_ipv4: bool) -> impl Iterator<Item = IpNet> {
        self.allow.iter().copied().filter(move |prefix| prefix.addr().is_ipv4() == is_ipv4)
    }

    /// Reads what stands behind the first comma of a SPEC: `allow=10.0.0.0/8,interface=eth0`.
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let mut allowed = Self::default();
        for (number, option) in text.split(',').enumerate() {
            if number == MOST_OPTIONS {
                return Err(Reason::Options);
            }
            match option.split_once('=') {
                Some(("allow", prefix)) => add(&mut allowed.allow, parse_prefix(prefix)?, option)?,
                Some(("interface", name)) if is_device_name(name) => {
                    add(&mut allowed.interfaces, name.to_owned(), option)?;
                }
                Some(("interface", name)) => return Err(Reason::Interface(name.into())),
                _ => return Err(Reason::Option(option.into())),
            }
        }
        Ok(allowed)
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T, option: &str) -> Result<(), Reason> {
    if list.contains(&item) {
        return Err(Reason::Twice(option.into()));
    }
    list.push(item);
    Ok(())
}

/// A prefix, or an address alone.
fn parse_prefix(text: &str) -> Result<IpNet, Reason> {
    let prefix = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
    let prefix: IpNet = prefix.map_err(|_| Reason::Prefix(text.into()))?;
    match prefix.addr() {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => Err(Reason::Prefix(text.into())),
        _ if prefix.trunc() != prefix => Err(Reason::HostBits(prefix, prefix.trunc())),
        _ => Ok(prefix),
    }
}

/// As dev_valid_name() of the kernel has it, and without what separates options.
fn is_device_name(name: &str) -> bool {
    const LONGEST: usize = 15;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/:,".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_plain) && name != "." && name != ".."
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = self.allow.iter().map(|prefix| format!("allow={prefix}"));
        let devices = self.interfaces.iter().map(|name| format!("interface={name}"));
        f.write_str(&prefixes.chain(devices).collect::<Vec<_>>().join(","))
    }
}
