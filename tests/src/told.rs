//! What the kernel tells a socket of the ICMP errors that reach it (IP_RECVERR, ip(7)).

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::{self, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_LOCAL, sock_extended_err, sockaddr_in};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, getsockopt, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

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
    pub offender: Option<Ipv4Addr>,
}

/// Asks the kernel to keep errors for this socket.
///
/// # Panics
/// When the kernel refuses.
pub fn listen_for_errors(socket: &UdpSocket) {
    setsockopt(socket, sockopt::Ipv4RecvErr, &true).expect("an option");
}

/// Allows everybody on the way to fragment what this socket sends.
///
/// # Panics
/// When the kernel refuses.
pub fn always_fragment(socket: &UdpSocket) {
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT).expect("an option");
}

/// Forbids the fragmentation of what this socket sends, whatever it takes the way to bear.
///
/// # Panics
/// When the kernel refuses.
pub fn never_fragment(socket: &UdpSocket) {
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO).expect("an option");
}

/// The MTU of the way to the peer of a connected socket.
///
/// # Panics
/// When it is not connected.
pub fn path_mtu(socket: &UdpSocket) -> i32 {
    getsockopt(socket, sockopt::IpMtu).expect("it is connected")
}

/// The next error the socket is told of within `time`.
///
/// # Panics
/// When the kernel does not answer.
pub fn next_error(socket: &UdpSocket, time: Duration) -> Option<Told> {
    poll_for(time, || {
        let mut byte = [0];
        let mut space = cmsg_space!(sock_extended_err, sockaddr_in);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags).ok()?;
        message.cmsgs().expect("the space is large enough").find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => Some(told(error, offender)),
            _ => None,
        })
    })
}

fn told(error: sock_extended_err, offender: Option<sockaddr_in>) -> Told {
    let by_icmp = error.ee_origin == SO_EE_ORIGIN_ICMP;
    debug_assert!(by_icmp || error.ee_origin == SO_EE_ORIGIN_LOCAL, "no other is asked for");
    let address = |offender: sockaddr_in| Ipv4Addr::from(u32::from_be(offender.sin_addr.s_addr));
    let is_ip = |offender: &sockaddr_in| i32::from(offender.sin_family) == libc::AF_INET;
    Told {
        kind: error.ee_type,
        code: error.ee_code,
        errno: error.ee_errno as i32,
        info: error.ee_info,
        offender: offender.filter(|offender| by_icmp && is_ip(offender)).map(address),
    }
}
