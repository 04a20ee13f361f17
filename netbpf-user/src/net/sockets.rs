//! Sockets of a network namespace, as the kernel lists them over NETLINK_SOCK_DIAG (sock_diag(7)).
//!
//! /proc/net/tcp would do, but there the kernel walks the whole table of connections, some milliseconds for an empty one,
//! and does not tell whether a socket on `::` takes IPv4 too.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_common::abi::Transport;
use procfs::process::{FDTarget, all_processes};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket as Netlink, SocketAddr};

use crate::error::{Error, Result};

/// A socket that takes packets from anybody: a listening one of TCP, an unconnected one of UDP. One on `::` that takes
/// IPv4 as well counts as two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenSocket {
    /// Transport.
    pub(crate) transport: Transport,
    /// The address it is bound to; unspecified for all of its family.
    pub(crate) address: IpAddr,
    /// Its port.
    pub(crate) port: u16,
    /// Number of its inode, by which its process is found.
    pub(crate) inode: u64,
}

// include/uapi/linux/sock_diag.h, inet_diag.h and netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// States of include/net/tcp_states.h, as bits.
const CLOSE: u32 = 1 << 7;
const LISTEN: u32 = 1 << 10;

/// What takes packets from anybody in the network namespace of the calling thread.
pub(crate) fn open_sockets() -> Result<Vec<OpenSocket>> {
    let list = || -> io::Result<Vec<OpenSocket>> {
        let mut sockets = Vec::new();
        let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
        netlink.connect(&SocketAddr::new(0, 0))?;
        for (transport, states) in [(Transport::Tcp, LISTEN), (Transport::Udp, CLOSE)] {
            for family in [libc::AF_INET, libc::AF_INET6] {
                netlink.send(&request(family as u8, transport, states), 0)?;
                receive(&mut netlink, transport, &mut sockets)?;
            }
        }
        Ok(sockets)
    };
    list().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Unsupported(
            "the kernel cannot list the host's sockets: it needs CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG and \
             CONFIG_INET_UDP_DIAG (modules tcp_diag and udp_diag)"
                .into(),
        ),
        _ => Error::Internal(format!("cannot list the host's sockets: {error}")),
    })
}

/// The process that has a socket open.
pub(crate) fn holder(inode: u64) -> Option<(i32, String)> {
    all_processes().ok()?.filter_map(std::result::Result::ok).find_map(|process| {
        let holds =
            process.fd().ok()?.flatten().any(|fd| matches!(fd.target, FDTarget::Socket(found) if found == inode));
        holds.then(|| (process.pid(), process.stat().map(|stat| stat.comm).unwrap_or_default()))
    })
}

fn request(family: u8, transport: Transport, states: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, transport.protocol(), 0, 0]);
    request.extend(states.to_ne_bytes());
    request.resize(HEADER + REQUEST, 0);
    request
}

fn receive(netlink: &mut Netlink, transport: Transport, sockets: &mut Vec<OpenSocket>) -> io::Result<()> {
    loop {
        let (datagram, _) = netlink.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some((kind, body, next)) = split(rest) {
            match kind {
                // Both end the list, and both bear what went wrong.
                NLMSG_DONE | NLMSG_ERROR => {
                    return match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                SOCK_DIAG_BY_FAMILY => sockets.extend(socket(transport, body).into_iter().flatten()),
                _ => {}
            }
            rest = next;
        }
    }
}

/// The first message: its type, its body, and what follows.
fn split(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
    let body = datagram.get(HEADER..length)?;
    Some((kind, body, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// A `struct inet_diag_msg`: what the socket takes.
fn socket(transport: Transport, message: &[u8]) -> Option<impl Iterator<Item = OpenSocket> + use<>> {
    let fixed = message.get(..MESSAGE)?;
    let (first, second): (IpAddr, Option<IpAddr>) = match i32::from(fixed[0]) {
        libc::AF_INET => (Ipv4Addr::from(*fixed[8..].first_chunk::<4>()?).into(), None),
        _ => match Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?) {
            any if any.is_unspecified() && !takes_ipv6_alone(&message[MESSAGE..]) => {
                (Ipv4Addr::UNSPECIFIED.into(), Some(any.into()))
            }
            other => (other.to_canonical(), None),
        },
    };
    let port = u16::from_be_bytes(*fixed[4..].first_chunk()?);
    let inode = u32::from_ne_bytes(*fixed[68..].first_chunk()?).into();
    let addresses = [Some(first), second].into_iter().flatten();
    Some(addresses.map(move |address| OpenSocket { transport, address, port, inode }))
}

fn takes_ipv6_alone(mut attributes: &[u8]) -> bool {
    while let Some(&[a, b, c, d]) = attributes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([a, b])).max(4);
        if u16::from_ne_bytes([c, d]) == INET_DIAG_SKV6ONLY {
            return attributes.get(4).is_some_and(|only| *only != 0);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_is_bound_is_listed() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let sockets = open_sockets().unwrap();
        let listed = |transport, address: Ipv4Addr, port| {
            sockets.iter().any(|it| (it.transport, it.address, it.port) == (transport, address.into(), port))
        };
        assert!(listed(Transport::Tcp, Ipv4Addr::LOCALHOST, tcp.local_addr().unwrap().port()));
        assert!(listed(Transport::Udp, Ipv4Addr::UNSPECIFIED, udp.local_addr().unwrap().port()));
    }

    #[test]
    fn a_socket_of_ipv6_takes_ipv4_as_well_only_on_all_addresses_and_unless_it_says_so() {
        let mut message = [0; MESSAGE + 8];
        message[0] = libc::AF_INET6 as u8;
        message[4..6].copy_from_slice(&80_u16.to_be_bytes());
        let addresses = |message: &[u8]| -> Vec<String> {
            socket(Transport::Tcp, message).unwrap().map(|it| format!("{} {}", it.address, it.port)).collect()
        };
        assert_eq!(addresses(&message[..MESSAGE]), ["0.0.0.0 80", ":: 80"]);
        message[MESSAGE..]
            .copy_from_slice(&[&5_u16.to_ne_bytes()[..], &INET_DIAG_SKV6ONLY.to_ne_bytes(), &[1; 4]].concat());
        assert_eq!(addresses(&message), [":: 80"]);
        let mut on = |address: &str| {
            message[8..24].copy_from_slice(&address.parse::<Ipv6Addr>().unwrap().octets());
            addresses(&message[..MESSAGE])
        };
        assert_eq!(on("fd00::1"), ["fd00::1 80"]);
        assert_eq!(on("::ffff:10.0.0.1"), ["10.0.0.1 80"]);
    }
}
