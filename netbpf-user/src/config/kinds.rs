//! The kinds of values that settings have.

use std::fmt;
use std::str::FromStr;

use ipnet::Ipv4Net;
use netbpf_common::abi;
use serde::{Deserialize, Serialize, de};

/// Whether uplinks are served by XDP in their drivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// By TC alone.
    #[default]
    Off,
    /// Those whose driver has XDP; the others in the stack, with a warning. By TC: the kernel's own generic XDP is slower than that,
    /// and what it passes on reaches TC without its Ethernet header (seen on 6.18).
    Generic,
    /// Those whose driver has XDP. One that is named among the uplinks must have it.
    Native,
}

/// What the devices of containers are made as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A veth pair.
    #[default]
    Veth,
    /// A netkit pair where the kernel has them (Linux 6.7), whose driver runs the program of what a container sends; else a veth pair.
    Netkit,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
        })
    }
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let kind = [Self::Veth, Self::Netkit].into_iter().find(|kind| kind.to_string() == text);
        kind.ok_or_else(|| format!("bad device '{}': there are veth and netkit", text.escape_debug()))
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people, or for the journal where that reads them.
    #[default]
    Text,
    /// An object of JSON per line.
    Json,
}

/// Level of the datapath's own log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathLog {
    /// None.
    #[default]
    Off,
    /// Defects.
    Error,
    /// And what an administrator should look into.
    Warn,
    /// And what is made and ends.
    Info,
    /// And single packets.
    Debug,
}

/// Addresses that subnets of networks are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPool {
    /// All of them.
    pub base: Ipv4Net,
    /// Prefix length of a subnet.
    pub size: u8,
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Whether any port of `first..=last` is in the range.
    pub fn overlaps(&self, first: u16, last: u16) -> bool {
        first <= self.last && last >= self.first
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        match range {
            Some(range) if range.first != 0 && range.first <= range.last => Ok(range),
            _ => Err(format!("bad port range '{text}': write FIRST-LAST, as in 16384-32767")),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A group of users, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct GroupName(pub String);

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected the name or the number of a group")]
        enum Written {
            Number(u32),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self(number.to_string())),
            // What getgrnam(3) cannot be asked for.
            Written::Name(name) if name.is_empty() || name.contains(['\0', '\n', ':']) => {
                Err(de::Error::custom("expected the name or the number of a group"))
            }
            Written::Name(name) => Ok(Self(name)),
        }
    }
}

/// How containers of one family reach the world, and the world them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMode {
    /// Under the uplink's address; the world reaches published ports.
    #[default]
    Masquerade,
    /// Under their own addresses, by which the world reaches them.
    Routed,
    /// IPv6: under addresses of an external prefix, translated one to one (RFC 6296), by which the world reaches them.
    Prefix,
    /// Under their own addresses, where the world reaches published ports alone.
    Plain,
    /// Not at all.
    Closed,
}

impl GatewayMode {
    /// Whether containers are known outside by addresses of their own.
    pub fn is_reachable(self) -> bool {
        matches!(self, Self::Routed | Self::Prefix | Self::Plain)
    }
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Masquerade => "masquerade",
            Self::Routed => "routed",
            Self::Prefix => "prefix",
            Self::Plain => "plain",
            Self::Closed => "closed",
        })
    }
}

impl FromStr for GatewayMode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Masquerade, Self::Routed, Self::Prefix, Self::Plain, Self::Closed];
        all.into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| format!("bad mode '{text}': there are {}", all.map(|mode| mode.to_string()).join(", ")))
    }
}

impl From<GatewayMode> for abi::GatewayMode {
    fn from(mode: GatewayMode) -> Self {
        match mode {
            GatewayMode::Masquerade => Self::Masquerade,
            GatewayMode::Routed => Self::Routed,
            GatewayMode::Prefix => Self::Prefix,
            GatewayMode::Plain => Self::Plain,
            GatewayMode::Closed => Self::Closed,
        }
    }
}
