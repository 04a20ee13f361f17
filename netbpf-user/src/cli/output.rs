//! What verbs print: tables for people, JSON for programs.

use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use netbpf_user::api::ClientError;
use netbpf_user::api::types::{Container, PortMapping};
use netbpf_user::spec::{Allowed, Host};
use serde::Serialize;

use super::Global;

/// Mappings that a cell of a table shows.
const CELL_MAPPINGS: usize = 6;

/// Prints a line, or several. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        _ => Ok(()),
    }
}

/// Prints lines, of which there may be thousands, in few writes.
fn print_lines(mut lines: impl Iterator<Item = impl std::fmt::Display>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match lines.try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// A table with these headings.
pub(super) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

/// Prints a table without the blanks at the ends of its lines.
pub(super) fn print_table(table: &Table) -> anyhow::Result<()> {
    print(table.trim_fmt())
}

/// `0.0.0.0:8080->80/tcp` or `[::]:8080->80/tcp`, as Docker writes it.
pub(super) fn mapping(port: &PortMapping) -> String {
    let (host, container) = (range(port.host_port, port.count), range(port.container_port, port.count));
    format!("{}:{host}->{container}/{}{}", Host(port.host_ip), port.protocol, lists(&port.allowed))
}

/// Whom a publish is for, behind what it is; nothing when it is for everybody.
fn lists(allowed: &Allowed) -> String {
    if allowed.is_restricted() { format!(" {allowed}") } else { String::new() }
}

/// Mappings in one cell of a table: neighbours as one range, and no more than a line of a terminal holds.
pub(super) fn mappings_cell(ports: &[PortMapping]) -> String {
    let mut merged: Vec<PortMapping> = Vec::new();
    // A publish of both families is two mappings, and its neighbours of either come next but one.
    let of_v4 = |port: &&PortMapping| port.host_ip.is_ipv4();
    for port in ports.iter().filter(of_v4).chain(ports.iter().filter(|port| !of_v4(port))) {
        match merged.last_mut() {
            Some(last) if continues(last, port) => last.count += port.count,
            _ => merged.push(port.clone()),
        }
    }
    let mut shown: Vec<String> = merged.iter().take(CELL_MAPPINGS).map(mapping).collect();
    if merged.len() > CELL_MAPPINGS {
        shown.push(format!("and {} more", merged.len() - CELL_MAPPINGS));
    }
    shown.join(", ")
}

fn continues(last: &PortMapping, next: &PortMapping) -> bool {
    let follows = |last_first: u16, next_first: u16| u32::from(last_first) + last.count == u32::from(next_first);
    (last.host_ip, &last.protocol, &last.allowed) == (next.host_ip, &next.protocol, &next.allowed)
        && follows(last.host_port, next.host_port)
        && follows(last.container_port, next.container_port)
}

/// `80`, or `8000-8010`.
pub(super) fn range(first: u16, count: u32) -> String {
    match count {
        0 | 1 => first.to_string(),
        // The ports of a mapping are ports: their last one is one too.
        _ => format!("{first}-{}", u32::from(first) + count - 1),
    }
}

/// One line per port: `80/tcp -> 0.0.0.0:32768`.
pub(super) fn single_ports(ports: &[PortMapping]) -> impl Iterator<Item = SinglePort> + '_ {
    ports.iter().flat_map(|port| {
        (0..port.count).map(|nth| SinglePort {
            container_port: u32::from(port.container_port) + nth,
            protocol: port.protocol.clone(),
            host_ip: port.host_ip,
            host_port: u32::from(port.host_port) + nth,
            allowed: port.allowed.clone(),
        })
    })
}

/// One published port.
#[derive(Serialize)]
pub(super) struct SinglePort {
    pub(super) container_port: u32,
    pub(super) protocol: String,
    host_ip: IpAddr,
    host_port: u32,
    #[serde(flatten)]
    allowed: Allowed,
}

impl std::fmt::Display for SinglePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { container_port, protocol, host_ip, host_port, allowed } = self;
        write!(f, "{container_port}/{protocol} -> {}:{host_port}{}", Host(*host_ip), lists(allowed))
    }
}

/// Prints single ports.
pub(super) fn single_port_list(global: &Global, ports: &[SinglePort]) -> anyhow::Result<()> {
    if global.json {
        return json(&ports);
    }
    print_lines(ports.iter())
}

/// Prints mappings, one a line.
pub(super) fn mappings(global: &Global, ports: &[PortMapping]) -> anyhow::Result<()> {
    if global.json {
        return json(&ports);
    }
    print_lines(ports.iter().map(mapping))
}

/// Addresses in one cell of a table.
pub(super) fn addresses_cell(addresses: impl Iterator<Item = IpAddr>) -> String {
    let shown: Vec<String> = addresses.map(|address| address.to_string()).collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

/// Prints the container that was made: its name.
pub(super) fn made(global: &Global, container: &Container) -> anyhow::Result<ExitCode> {
    if global.json {
        json(container)?
    } else {
        print(&container.name)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes things by their names, and prints those that were. One that cannot be removed does not keep the others.
pub(super) fn removed(
    global: &Global,
    names: &[String],
    remove: impl Fn(&str) -> Result<(), ClientError>,
) -> anyhow::Result<ExitCode> {
    let mut removed = Vec::new();
    let mut failed = false;
    for name in names {
        match remove(name) {
            Ok(()) if global.json => removed.push(name),
            Ok(()) => print(name)?,
            Err(error) => {
                eprintln!("netbpf: {error}");
                failed = true;
            }
        }
    }
    if global.json {
        json(&removed)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How long ago, in the largest unit that tells something.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Seconds since a Unix time.
pub(super) fn seconds_since(unix: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(unix)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_mapping_is_written_as_docker_does() {
        let mut port = PortMapping {
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 8080,
            container_port: 80,
            count: 1,
            protocol: "tcp".into(),
            allowed: Allowed::default(),
        };
        assert_eq!(mapping(&port), "0.0.0.0:8080->80/tcp");
        assert_eq!(single_ports(&[port.clone()]).next().unwrap().to_string(), "80/tcp -> 0.0.0.0:8080");
        port.count = 3;
        assert_eq!(mapping(&port), "0.0.0.0:8080-8082->80-82/tcp");
        let next = PortMapping { host_port: 8083, container_port: 83, count: 1, ..port.clone() };
        let apart = PortMapping { host_port: 9000, ..next.clone() };
        assert_eq!(mappings_cell(&[port.clone(), next, apart]), "0.0.0.0:8080-8083->80-83/tcp, 0.0.0.0:9000->83/tcp");
        let v6 = |of: &PortMapping| PortMapping { host_ip: Ipv6Addr::UNSPECIFIED.into(), count: 1, ..of.clone() };
        let one = PortMapping { count: 1, ..port.clone() };
        let two = PortMapping { host_port: 8081, container_port: 81, ..one.clone() };
        let both = [one.clone(), v6(&one), two.clone(), v6(&two)];
        assert_eq!(mappings_cell(&both), "0.0.0.0:8080-8081->80-81/tcp, [::]:8080-8081->80-81/tcp");
        assert_eq!(single_ports(&[v6(&one)]).next().unwrap().to_string(), "80/tcp -> [::]:8080");
        assert_eq!(single_ports(&[port]).last().unwrap().to_string(), "82/tcp -> 0.0.0.0:8082");
    }
}
