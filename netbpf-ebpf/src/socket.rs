//! The socket hooks: connect, sendmsg, recvmsg, getpeername and bind of the host's processes, for
//! IPv4 sockets and for IPv6 sockets, which may use v4-mapped addresses (RFC 4291 section 2.5.5.2).

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use netbpf_common::abi::Transport;
use netbpf_common::path::{V4, V6, socket};

use crate::ctx::{Called, Sock, Sock4, Sock6};
use crate::maps::{Maps, Tables};

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
fn lead<const IS_V6: bool>(sock: Sock<IS_V6>) -> i32 {
    let maps = sock.maps();
    if sock.is_of(&maps) {
        lead_in::<V4, IS_V6>(&maps, &sock);
        if IS_V6 {
            lead_in::<V6, IS_V6>(&maps, &sock);
        }
    }
    ALLOW
}

#[inline(always)]
fn lead_in<F: Called + Tables, const IS_V6: bool>(maps: &Maps, sock: &Sock<IS_V6>) {
    // A socket bound to loopback cannot leave it: connect() would fail, so it goes its own way.
    if let (Some(address), Some(transport)) = (F::address(sock), sock.transport())
        && !sock.is_bound_to_loopback::<F>()
        && let Some(led) = socket::lead::<F, Maps>(maps, address, transport, sock.port())
    {
        F::set_address(sock, led);
    }
}

/// Tells a socket the address it asked for instead of the virtual one.
#[inline(always)]
fn restore<const IS_V6: bool>(sock: Sock<IS_V6>) -> i32 {
    let maps = sock.maps();
    if sock.is_of(&maps) {
        restore_in::<V4, IS_V6>(&maps, &sock);
        if IS_V6 {
            restore_in::<V6, IS_V6>(&maps, &sock);
        }
    }
    ALLOW
}

#[inline(always)]
fn restore_in<F: Called + Tables, const IS_V6: bool>(maps: &Maps, sock: &Sock<IS_V6>) {
    if let Some(original) = F::address(sock).and_then(|address| socket::original::<F, Maps>(maps, address)) {
        F::set_address(sock, original);
    }
}

/// Keeps the host's processes from binding what is published.
#[inline(always)]
fn hold<const IS_V6: bool>(sock: Sock<IS_V6>) -> i32 {
    let maps = sock.maps();
    if sock.is_of(&maps)
        && let Some(transport) = sock.transport()
        && (is_held::<V4, IS_V6>(&maps, &sock, transport) || IS_V6 && is_held::<V6, IS_V6>(&maps, &sock, transport))
    {
        sock.fail_address_in_use();
        return REFUSE;
    }
    ALLOW
}

#[inline(always)]
fn is_held<F: Called + Tables, const IS_V6: bool>(maps: &Maps, sock: &Sock<IS_V6>, transport: Transport) -> bool {
    let claimed = if sock.is_for_all() { Some(F::Addr::default()) } else { F::address(sock) };
    claimed.is_some_and(|address| socket::is_held::<F, Maps>(maps, address, transport, sock.port()))
}
