//! Sockets of the host: who holds a port already.

use procfs::process::{FDTarget, all_processes};

use crate::error::Error;
use crate::net::sockets::OpenSocket;
use crate::spec::transport_name;
use crate::store::RuleRecord;

/// The first of the host's sockets that is in the way of a publish. Connected ones are not: they keep their packets whatever
/// is published, since the datapath asks for them first.
pub(super) fn in_the_way<'a>(sockets: &'a [OpenSocket], rule: &RuleRecord) -> Option<&'a OpenSocket> {
    sockets.iter().find(|bound| {
        bound.transport == rule.transport
            && rule.ports().contains(&bound.port)
            && (rule.is_wildcard() || bound.address.is_unspecified() || bound.address == rule.host_ip)
    })
}

/// The refusal of a port, which names the process that holds it.
pub(super) fn refuse(held: &OpenSocket) -> Error {
    let who = match holder(held.inode) {
        Some((pid, command)) => format!("process {pid} ({command})"),
        None => "a socket of the kernel or of another PID namespace".into(),
    };
    Error::Conflict(format!(
        "port {}:{}/{} of the host is held by {who}: choose another host port, or stop that process",
        held.address,
        held.port,
        transport_name(held.transport)
    ))
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
    use std::net::Ipv4Addr;

    use netbpf_common::abi::Transport;

    use super::*;

    #[test]
    fn a_port_on_one_address_is_in_the_way_of_a_publish_there_and_everywhere() {
        let held = OpenSocket { transport: Transport::Tcp, address: Ipv4Addr::LOCALHOST, port: 8080, inode: 1 };
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
        let ports = crate::net::sockets::open_sockets().unwrap();
        let held = ports.iter().find(|bound| bound.transport == Transport::Tcp && bound.port == port).unwrap();
        assert!(refuse(held).to_string().contains(&format!("process {}", std::process::id())));
    }
}
