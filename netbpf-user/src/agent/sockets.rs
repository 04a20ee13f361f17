//! Sockets of the host: who holds a port already.

use std::net::{IpAddr, Ipv4Addr};

use netbpf_common::abi::Transport;
use procfs::net::{TcpState, UdpState};
use procfs::process::{FDTarget, all_processes};

use crate::error::{Context as _, Error, Result};
use crate::spec::transport_name;
use crate::store::RuleRecord;

/// A port of the host that a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoundPort {
    transport: Transport,
    /// `None`: on every IPv4 address.
    address: Option<Ipv4Addr>,
    port: u16,
    inode: u64,
}

/// Ports that processes of the host hold, in the agent's network namespace: listening TCP sockets and unconnected UDP
/// sockets. Connected ones keep their packets whatever is published, since the datapath asks for them first.
pub(super) fn bound_ports() -> Result<Vec<BoundPort>> {
    let what = || "list the host's sockets".to_owned();
    let mut ports = Vec::new();
    let mut add = |transport, local: std::net::SocketAddr, inode| {
        let address = match local.ip() {
            IpAddr::V4(address) => Some(address),
            // Without IPV6_V6ONLY, which /proc does not show, [::] takes IPv4 too.
            IpAddr::V6(address) if address.is_unspecified() => Some(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(address) => address.to_ipv4_mapped(),
        };
        if let Some(address) = address {
            let address = (!address.is_unspecified()).then_some(address);
            ports.push(BoundPort { transport, address, port: local.port(), inode });
        }
    };
    // Without IPv6 the kernel shows no such files.
    let tcp = procfs::net::tcp().context(what)?.into_iter().chain(procfs::net::tcp6().unwrap_or_default());
    for socket in tcp.filter(|socket| socket.state == TcpState::Listen) {
        add(Transport::Tcp, socket.local_address, socket.inode);
    }
    let udp = procfs::net::udp().context(what)?.into_iter().chain(procfs::net::udp6().unwrap_or_default());
    for socket in udp.filter(|socket| socket.state == UdpState::Close) {
        add(Transport::Udp, socket.local_address, socket.inode);
    }
    Ok(ports)
}

/// The first of the ports that is in the way of a publish.
pub(super) fn in_the_way<'a>(ports: &'a [BoundPort], rule: &RuleRecord) -> Option<&'a BoundPort> {
    ports.iter().find(|bound| {
        bound.transport == rule.transport
            && rule.ports().contains(&bound.port)
            && (rule.is_wildcard() || bound.address.is_none_or(|address| address == rule.host_ip))
    })
}

impl BoundPort {
    /// The refusal that names the process.
    pub(super) fn refuse(&self) -> Error {
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let who = match holder(self.inode) {
            Some((pid, command)) => format!("process {pid} ({command})"),
            None => "a socket of the kernel or of another PID namespace".into(),
        };
        Error::Conflict(format!(
            "port {address}:{}/{} of the host is held by {who}: choose another host port, or stop that process",
            self.port,
            transport_name(self.transport)
        ))
    }
}

/// The process that has a socket open.
fn holder(inode: u64) -> Option<(i32, String)> {
    all_processes().ok()?.filter_map(std::result::Result::ok).find_map(|process| {
        let holds =
            process.fd().ok()?.flatten().any(|fd| matches!(fd.target, FDTarget::Socket(found) if found == inode));
        holds.then(|| (process.pid(), process.stat().map(|stat| stat.comm).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_one_address_is_in_the_way_of_a_publish_there_and_everywhere() {
        let held = BoundPort { transport: Transport::Tcp, address: Some(Ipv4Addr::LOCALHOST), port: 8080, inode: 1 };
        let rule = |host_ip| RuleRecord {
            rule: 1,
            host_ip,
            host_port: 8000,
            container_port: 80,
            more: 99,
            transport: Transport::Tcp,
        };
        assert!(in_the_way(&[held], &rule(Ipv4Addr::UNSPECIFIED)).is_some());
        assert!(in_the_way(&[held], &rule(Ipv4Addr::LOCALHOST)).is_some());
        assert!(in_the_way(&[held], &rule(Ipv4Addr::new(10, 0, 0, 1))).is_none());
        assert!(
            in_the_way(&[held], &RuleRecord { transport: Transport::Udp, ..rule(Ipv4Addr::UNSPECIFIED) }).is_none()
        );
    }

    #[test]
    fn a_listening_socket_is_found_with_its_process() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports = bound_ports().unwrap();
        let held = ports.iter().find(|bound| bound.transport == Transport::Tcp && bound.port == port).unwrap();
        assert!(held.refuse().to_string().contains(&format!("process {}", std::process::id())));
    }
}
