//! Sockets of the host: who holds a port already.

use super::publishes::meet;
use crate::error::Error;
use crate::net::sockets::{OpenSocket, holder};
use crate::spec::{Host, transport_name};
use crate::store::RuleRecord;

/// The first of the host's sockets that is in the way of a publish. Connected ones are not: they keep their packets whatever
/// is published, since the datapath asks for them first.
pub(super) fn in_the_way<'a>(sockets: &'a [OpenSocket], rule: &RuleRecord) -> Option<&'a OpenSocket> {
    sockets.iter().find(|bound| {
        bound.transport == rule.transport && rule.ports().contains(&bound.port) && meet(bound.address, rule.host_ip)
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
        Host(held.address),
        held.port,
        transport_name(held.transport)
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use netbpf_common::abi::Transport;

    use super::*;
    use crate::store::Audience;

    #[test]
    fn a_port_on_one_address_is_in_the_way_of_a_publish_there_and_everywhere() {
        let address = Ipv4Addr::LOCALHOST.into();
        let held = OpenSocket { transport: Transport::Tcp, address, port: 8080, inode: 1 };
        let rule = |host_ip: Ipv4Addr| RuleRecord {
            rule: 1,
            host_ip: host_ip.into(),
            host_port: 8000,
            container_port: 80,
            more: 99,
            transport: Transport::Tcp,
            allowed: Audience::default(),
        };
        assert!(in_the_way(&[held], &rule(Ipv4Addr::UNSPECIFIED)).is_some());
        assert!(in_the_way(&[held], &rule(Ipv4Addr::LOCALHOST)).is_some());
        assert!(in_the_way(&[held], &rule(Ipv4Addr::new(10, 0, 0, 1))).is_none());
        assert!(
            in_the_way(&[held], &RuleRecord { transport: Transport::Udp, ..rule(Ipv4Addr::UNSPECIFIED) }).is_none()
        );
    }

    #[test]
    fn a_port_of_one_family_is_not_in_the_way_of_the_other() {
        let any_v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let held = OpenSocket { transport: Transport::Tcp, address: any_v6, port: 80, inode: 1 };
        let rule = |host_ip| RuleRecord {
            rule: 1,
            host_ip,
            host_port: 80,
            container_port: 80,
            more: 0,
            transport: Transport::Tcp,
            allowed: Audience::default(),
        };
        assert!(in_the_way(&[held], &rule(Ipv4Addr::UNSPECIFIED.into())).is_none());
        for address in [any_v6, Ipv6Addr::LOCALHOST.into()] {
            let line = refuse(in_the_way(&[held], &rule(address)).unwrap()).to_string();
            assert!(line.contains("[::]:80/tcp"), "{line}");
        }
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
