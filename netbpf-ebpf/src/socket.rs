//! The socket hooks: connect, sendmsg, recvmsg, getpeername and bind of the host's processes, for
//! IPv4 sockets and for IPv6 sockets that use v4-mapped addresses (RFC 4291 section 2.5.5.2).

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use netbpf_common::path::{V4, socket};

use crate::ctx::{Sock, Sock4, Sock6};
use crate::maps::Maps;

/// Let the call go on.
const ALLOW: i32 = 1;
/// Fail it with the error that was set.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    lead(Sock4::new(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    lead(Sock6::new(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    lead(Sock4::new(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    lead(Sock6::new(&ctx))
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(Sock4::new(&ctx))
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(Sock6::new(&ctx))
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore(Sock4::new(&ctx))
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore(Sock6::new(&ctx))
}

#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    hold(Sock4::new(&ctx))
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    hold(Sock6::new(&ctx))
}

/// Leads a socket of the host that wants a published port to the port's virtual address.
#[inline(always)]
fn lead<const MAPPED: bool>(sock: Sock<MAPPED>) -> i32 {
    let maps = sock.maps();
    // A socket bound to loopback cannot leave it: connect() would fail, so it goes its own way.
    if !sock.is_of(&maps) || sock.is_bound_to_loopback() {
        return ALLOW;
    }
    if let (Some(address), Some(transport)) = (sock.v4(), sock.transport())
        && let Some(led) = socket::lead::<V4, Maps>(&maps, address, transport, sock.port())
    {
        sock.set_v4(led);
    }
    ALLOW
}

/// Tells a socket the address it asked for instead of the virtual one.
#[inline(always)]
fn restore<const MAPPED: bool>(sock: Sock<MAPPED>) -> i32 {
    let maps = sock.maps();
    if !sock.is_of(&maps) {
        return ALLOW;
    }
    if let Some(original) = sock.v4().and_then(|address| socket::original::<V4, Maps>(&maps, address)) {
        sock.set_v4(original);
    }
    ALLOW
}

/// Keeps the host's processes from binding what is published.
#[inline(always)]
fn hold<const MAPPED: bool>(sock: Sock<MAPPED>) -> i32 {
    let maps = sock.maps();
    if !sock.is_of(&maps) {
        return ALLOW;
    }
    match (sock.claimed_v4(), sock.transport()) {
        (Some(address), Some(transport)) if socket::is_held::<V4, Maps>(&maps, address, transport, sock.port()) => {
            sock.fail_address_in_use();
            REFUSE
        }
        _ => ALLOW,
    }
}
