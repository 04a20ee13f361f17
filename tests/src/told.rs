//! What the kernel tells a socket of the ICMP errors that reach it (IP_RECVERR, ip(7); IPV6_RECVERR, ipv6(7)).

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::{self, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, sock_extended_err, sockaddr_in6};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use crate::version::Version;
use crate::wait::poll_for;

/// One error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Type of the ICMP message.
    pub kind: u8,
    /// Code of the ICMP message.
    pub code: u8,
    /// What send(2) or recv(2) fails with.
    pub errno: i32,
    /// The MTU, when it is about a packet that is too big.
    pub info: u32,
    /// Who sent the ICMP message; none when the error is the machine's own.
    pub offender: Option<IpAddr>,
}

/// Asks the kernel to keep errors for this socket.
///
/// # Panics
/// When the kernel refuses.
pub fn listen_for_errors(socket: &UdpSocket) {
    let set = match version(socket) {
        Version::V4 => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
        Version::V6 => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
    };
    set.expect("an option");
}

/// Allows everybody on the way to fragment what this socket sends: in IPv6 the sender alone, and for its own device.
///
/// # Panics
/// When the kernel refuses.
pub fn always_fragment(socket: &UdpSocket) {
    let set = match version(socket) {
        Version::V4 => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT),
        Version::V6 => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT),
    };
    set.expect("an option");
}

/// The MTU of the way to the peer of a connected socket.
///
/// # Panics
/// When it is not connected.
pub fn path_mtu(socket: &UdpSocket) -> u32 {
    let mtu = match version(socket) {
        Version::V4 => ip_mtu(socket),
        Version::V6 => ipv6_mtu(socket),
    };
    mtu.expect("it is connected")
}

fn version(socket: &UdpSocket) -> Version {
    Version::of(socket.local_addr().expect("a socket").ip())
}

/// The next error the socket is told of within `time`.
///
/// # Panics
/// When the kernel does not answer.
pub fn next_error(socket: &UdpSocket, time: Duration) -> Option<Told> {
    poll_for(time, || {
        let mut byte = [0];
        let mut space = cmsg_space!(sock_extended_err, sockaddr_in6);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags).ok()?;
        message.cmsgs().expect("the space is large enough").find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                let offender = offender.filter(|offender| i32::from(offender.sin_family) == libc::AF_INET);
                let address = offender.map(|offender| Ipv4Addr::from(u32::from_be(offender.sin_addr.s_addr)).into());
                Some(told(error, address))
            }
            ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                let offender = offender.filter(|offender| i32::from(offender.sin6_family) == libc::AF_INET6);
                Some(told(error, offender.map(|offender| Ipv6Addr::from(offender.sin6_addr.s6_addr).into())))
            }
            _ => None,
        })
    })
}

fn told(error: sock_extended_err, offender: Option<IpAddr>) -> Told {
    let by_icmp = matches!(error.ee_origin, SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6);
    debug_assert!(by_icmp || error.ee_origin == SO_EE_ORIGIN_LOCAL, "no other is asked for");
    Told {
        kind: error.ee_type,
        code: error.ee_code,
        errno: error.ee_errno as i32,
        info: error.ee_info,
        offender: offender.filter(|_| by_icmp),
    }
}
