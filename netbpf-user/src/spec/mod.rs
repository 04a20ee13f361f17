//! SPEC: what a user publishes, in Docker's words.
//!
//! `[HOST_IP:][HOST_PORT[-HOST_PORT]]:CONTAINER_PORT[-CONTAINER_PORT][/tcp|/udp|/sctp]`, or
//! `CONTAINER_PORT` alone. An IPv6 HOST_IP stands in brackets. Behind it may stand whom it is for:
//! `,allow=CIDR` and `,interface=NAME`, each as often as needed.

mod allowed;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use netbpf_common::abi::Transport;

pub use self::allowed::Allowed;

/// One SPEC: a range of container ports and where the host offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    /// Address of the host, unspecified for every address of its family; every address of both when absent.
    pub host_ip: Option<IpAddr>,
    /// First and last host port; free ones are chosen when absent.
    pub host_port: Option<(u16, u16)>,
    /// First and last container port: as many as there are host ports.
    pub container_port: (u16, u16),
    /// Protocol of all of them.
    pub transport: Transport,
    /// Whom it is for.
    pub allowed: Allowed,
}

impl PublishSpec {
    /// Number of ports.
    pub fn count(&self) -> u32 {
        u32::from(self.container_port.1 - self.container_port.0) + 1
    }

    /// Parses what `-P` takes: container ports alone (`80`, `53/udp`, `8000-8010`), to be published on free host ports.
    ///
    /// # Errors
    /// When the text is not that.
    pub fn exposed(text: &str) -> Result<Self, SpecError> {
        if text.contains(':') {
            return Err(SpecError { spec: text.into(), reason: Reason::Host });
        }
        text.parse()
    }
}

/// Name of a transport in SPEC, in listings and in the API.
pub const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    }
}

/// The transport of a name; upper case as well, as Docker takes it.
pub fn transport_named(name: &str) -> Option<Transport> {
    Transport::ALL.into_iter().find(|&transport| name.eq_ignore_ascii_case(transport_name(transport)))
}

/// Why a text is not a SPEC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("publish {spec:?}: {reason}")]
pub struct SpecError {
    spec: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error(
        "nothing to publish; write it as [HOST_IP:][HOST_PORT]:CONTAINER_PORT[/tcp|/udp|/sctp], for example 8080:80"
    )]
    Empty,
    #[error("the container port is missing; write it after the last colon, for example 8080:80")]
    NoContainerPort,
    #[error("{0} is an address, not a port; to choose a free port on it write {0}::PORT")]
    NoHostPort(String),
    #[error("{0:?} is not a port; a port is a number from 1 to 65535")]
    Port(String),
    #[error("the range {0}-{1} runs backwards; write the lower port first")]
    Backwards(u16, u16),
    #[error("{host} host ports for {container} container ports; make both ranges the same length")]
    Lengths { host: u32, container: u32 },
    #[error("unknown protocol {0:?}; use tcp, udp or sctp")]
    Protocol(String),
    #[error("{0:?} is not an address of the host; write an IPv4 one, or an IPv6 one in brackets")]
    Address(String),
    #[error("an IPv6 address stands in brackets; write it as in [::1]:8080:80")]
    Brackets,
    #[error("{0} is an IPv4 address in another form; write {1}")]
    Mapped(Ipv6Addr, IpAddr),
    #[error("there is no option {0:?}; there are allow=CIDR and interface=NAME")]
    Option(String),
    #[error("more than {} options are too many; publish to a larger prefix", allowed::MOST_OPTIONS)]
    Options,
    #[error("{0:?} is no prefix; write one as in allow=10.0.0.0/8 or allow=2001:db8::/32")]
    Prefix(String),
    #[error("{0} has bits behind its length; write allow={1}")]
    HostBits(IpNet, IpNet),
    #[error("{0:?} is not the name of a device")]
    Interface(String),
    #[error("{0} stands there twice; leave one out")]
    Twice(String),
    #[error("a host address or port does not belong here; write container ports alone, for example 80 or 53/udp")]
    Host,
}

impl FromStr for PublishSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        parse(text).map_err(|reason| SpecError { spec: text.into(), reason })
    }
}

fn parse(text: &str) -> Result<PublishSpec, Reason> {
    let (text, allowed) = match text.split_once(',') {
        Some((text, options)) => (text, Allowed::parse(options)?),
        None => (text, Allowed::default()),
    };
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    let (ports, transport) = match text.split_once('/') {
        Some((ports, name)) => (ports, transport_named(name).ok_or_else(|| Reason::Protocol(name.into()))?),
        None => (text, Transport::Tcp),
    };
    let (host_ip, ports) = match ports.strip_prefix('[') {
        Some(rest) => bracketed(rest)?,
        None if ports.matches(':').count() > 2 => return Err(Reason::Brackets),
        None => (None, ports),
    };
    let (host, container_port) = match ports.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, ports),
    };
    if container_port.is_empty() {
        return Err(Reason::NoContainerPort);
    }
    let (host_ip, host_port) = match (host_ip, host) {
        (Some(address), Some(port)) => (Some(address), port),
        // An address without a second colon: the container port is taken for that of the host.
        (Some(address), None) => return Err(Reason::NoHostPort(format!("[{address}]"))),
        (None, None) => (None, ""),
        (None, Some(host)) => match host.split_once(':') {
            Some((address, port)) => (Some(parse_address(address)?), port),
            // Here it looks like a port that is none: say what is really wrong.
            None if host.parse::<IpAddr>().is_ok() => return Err(Reason::NoHostPort(host.into())),
            None => (None, host),
        },
    };
    let container_port = parse_range(container_port)?;
    let host_port = if host_port.is_empty() { None } else { Some(parse_range(host_port)?) };
    if let Some(host_port) = host_port
        && length(host_port) != length(container_port)
    {
        return Err(Reason::Lengths { host: length(host_port), container: length(container_port) });
    }
    Ok(PublishSpec { host_ip, host_port, container_port, transport, allowed })
}

fn length((first, last): (u16, u16)) -> u32 {
    u32::from(last - first) + 1
}

/// The address before a closing bracket, and what follows the colon behind it.
fn bracketed(text: &str) -> Result<(Option<IpAddr>, &str), Reason> {
    let (address, rest) = text.split_once(']').ok_or(Reason::Brackets)?;
    let address: Ipv6Addr = address.parse().map_err(|_| Reason::Address(address.into()))?;
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Err(Reason::Mapped(address, mapped.into()));
    }
    let ports =
        rest.strip_prefix(':').ok_or(if rest.is_empty() { Reason::NoContainerPort } else { Reason::Brackets })?;
    Ok((Some(address.into()), ports))
}

fn parse_address(text: &str) -> Result<IpAddr, Reason> {
    match text.parse() {
        Ok(address @ IpAddr::V4(_)) => Ok(address),
        _ => Err(Reason::Address(text.into())),
    }
}

fn parse_range(text: &str) -> Result<(u16, u16), Reason> {
    let Some((first, last)) = text.split_once('-') else {
        let port = parse_port(text)?;
        return Ok((port, port));
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return Err(Reason::Backwards(first, last));
    }
    Ok((first, last))
}

fn parse_port(text: &str) -> Result<u16, Reason> {
    // `u16::from_str` takes a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if port != 0 && digits => Ok(port),
        _ => Err(Reason::Port(text.into())),
    }
}

/// Writes the shortest form that parses back to the same.
impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{}:", Host(address))?;
        }
        if let Some(range) = self.host_port {
            write_range(f, range)?;
        }
        if self.host_ip.is_some() || self.host_port.is_some() {
            f.write_str(":")?;
        }
        write_range(f, self.container_port)?;
        match self.transport {
            Transport::Tcp => {}
            transport => write!(f, "/{}", transport_name(transport))?,
        }
        if self.allowed.is_restricted() { write!(f, ",{}", self.allowed) } else { Ok(()) }
    }
}

/// An address as it stands before a colon and a port.
#[derive(Clone, Copy, Debug)]
pub struct Host(pub IpAddr);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

fn write_range(f: &mut fmt::Formatter<'_>, (first, last): (u16, u16)) -> fmt::Result {
    if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    type Case = (&'static str, Option<IpAddr>, Option<(u16, u16)>, (u16, u16), Transport);

    #[test]
    fn every_form_is_understood_and_written_back() {
        let address = Some(Ipv4Addr::new(10, 0, 0, 5).into());
        let v6 = |text: &str| Some(text.parse().unwrap());
        let cases: &[Case] = &[
            ("80", None, None, (80, 80), Transport::Tcp),
            ("53/udp", None, None, (53, 53), Transport::Udp),
            ("8000-8010", None, None, (8000, 8010), Transport::Tcp),
            ("8080:80", None, Some((8080, 8080)), (80, 80), Transport::Tcp),
            ("1-65535:1-65535/sctp", None, Some((1, 65535)), (1, 65535), Transport::Sctp),
            ("8000-8010:9000-9010/udp", None, Some((8000, 8010)), (9000, 9010), Transport::Udp),
            ("10.0.0.5::80", address, None, (80, 80), Transport::Tcp),
            ("10.0.0.5:8080:80", address, Some((8080, 8080)), (80, 80), Transport::Tcp),
            ("0.0.0.0:8080:80", Some(Ipv4Addr::UNSPECIFIED.into()), Some((8080, 8080)), (80, 80), Transport::Tcp),
            ("[::]:8080:80", v6("::"), Some((8080, 8080)), (80, 80), Transport::Tcp),
            ("[::1]:8000-8010:9000-9010/udp", v6("::1"), Some((8000, 8010)), (9000, 9010), Transport::Udp),
            ("[fd00::1]::80", v6("fd00::1"), None, (80, 80), Transport::Tcp),
        ];
        for &(text, host_ip, host_port, container_port, transport) in cases {
            let spec: PublishSpec = text.parse().unwrap();
            let allowed = Allowed::default();
            assert_eq!(spec, PublishSpec { host_ip, host_port, container_port, transport, allowed }, "{text}");
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn longer_forms_mean_the_same() {
        for (long, short) in [(":80", "80"), ("8080:80/tcp", "8080:80"), ("80-80", "80"), ("53/UDP", "53/udp")] {
            assert_eq!(long.parse::<PublishSpec>().unwrap().to_string(), short);
        }
    }

    #[test]
    fn every_refusal_is_one_line_that_says_why() {
        let cases = [
            ("", "nothing to publish"),
            (":", "container port is missing"),
            ("8080:", "container port is missing"),
            ("/udp", "container port is missing"),
            ("0", "\"0\" is not a port"),
            ("8080:0", "\"0\" is not a port"),
            ("0:80", "\"0\" is not a port"),
            ("65536:80", "\"65536\" is not a port"),
            ("+80", "\"+80\" is not a port"),
            ("8080:80 ", "\"80 \" is not a port"),
            ("http:80", "\"http\" is not a port"),
            ("80-", "\"\" is not a port"),
            ("10.0.0.5:80", "10.0.0.5::PORT"),
            ("8010-8000:80", "runs backwards"),
            ("8000-8010:80", "11 host ports for 1 container ports"),
            ("80/icmp", "unknown protocol \"icmp\""),
            ("80/", "unknown protocol \"\""),
            ("80/tcp/udp", "unknown protocol \"tcp/udp\""),
            ("10.0.0:8080:80", "not an address"),
            (":8080:80", "not an address"),
            ("::1:8080:80", "brackets"),
            ("fd00::1:8080:80", "brackets"),
            ("[::1:8080:80", "brackets"),
            ("[::1]8080:80", "brackets"),
            ("[fe80::1%eth0]:8080:80", "not an address"),
            ("[10.0.0.5]:8080:80", "not an address"),
            ("[]:8080:80", "not an address"),
            ("[::1]", "container port is missing"),
            ("[::1]:", "container port is missing"),
            ("[::1]:80", "[::1]::PORT"),
            ("[::1]:1:2:3", "\"1:2\" is not a port"),
            ("[::ffff:10.0.0.5]:8080:80", "write 10.0.0.5"),
            ("80,", "no option \"\""),
            (",allow=10.0.0.0/8", "nothing to publish"),
            ("80,deny=10.0.0.0/8", "allow=CIDR and interface=NAME"),
            ("80,allow=", "\"\" is no prefix"),
            ("80,allow=10.0.0.0/33", "is no prefix"),
            ("80,allow=ten", "is no prefix"),
            ("80,allow=10.0.0.1/8", "write allow=10.0.0.0/8"),
            ("80,allow=::ffff:10.0.0.0/104", "is no prefix"),
            ("80,allow=10.0.0.0/8,allow=10.0.0.0/8", "stands there twice"),
            ("80,interface=", "not the name of a device"),
            ("80,interface=a/b", "not the name of a device"),
            ("80,interface=sixteencharacter", "not the name of a device"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<PublishSpec>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn behind_a_comma_stands_whom_it_is_for() {
        let text = "8080:80/udp,allow=10.0.0.0/8,allow=2001:db8::/32,interface=eth0,interface=wg0";
        let spec: PublishSpec = text.parse().unwrap();
        assert_eq!((spec.host_port, spec.transport), (Some((8080, 8080)), Transport::Udp));
        assert!(spec.allowed.has_family(true) && spec.allowed.has_family(false) && spec.allowed.is_restricted());
        assert_eq!(spec.allowed.prefixes(true).map(|prefix| prefix.to_string()).collect::<Vec<_>>(), ["10.0.0.0/8"]);
        assert_eq!(spec.allowed.interfaces, ["eth0", "wg0"]);
        assert_eq!(spec.to_string(), text);
        let one: PublishSpec = "80,allow=10.0.0.5".parse().unwrap();
        assert_eq!(one.to_string(), "80,allow=10.0.0.5/32");
        assert!(!one.allowed.has_family(false));
        assert!("80,interface=eth0".parse::<PublishSpec>().unwrap().allowed.has_family(false));
    }

    #[test]
    fn exposed_ports_name_no_host() {
        assert_eq!(PublishSpec::exposed("53/udp").unwrap().transport, Transport::Udp);
        assert!(PublishSpec::exposed("8080:80").unwrap_err().to_string().contains("container ports alone"));
    }
}
