//! The host's own sockets: led to published ports at connect() and sendmsg(), kept from binding
//! them. Ports are in host order.
//!
//! A socket that wants a published port of the host is given a virtual address instead, which is
//! routed to netbpf0; there [`host`](super::host()) makes an ordinary flow of it. So a client
//! follows a replaced container, and no packet needs a proxy.

use super::{Env, Family, publish};
use crate::abi::{LOOPBACK_INDEX, Transport};
use crate::wire::Address;

/// Where a socket that wants `address` and `port` is led; nothing: it goes its own way. The
/// unspecified address means the loopback address, as connect() has it; what is published on 127.0.0.1 alone is not on the
/// rest of 127.0.0.0/8.
#[inline(always)]
pub fn lead<F: Family, E: Env<F>>(env: &E, address: F::Addr, transport: Transport, port: u16) -> Option<F::Addr> {
    let published = env.published(transport.port_index(port));
    if published.wildcard == 0 && published.specific == 0 {
        return None;
    }
    let any = address == F::Addr::default();
    let index = if any || address.is_loopback() { LOOPBACK_INDEX } else { env.virtual_index(address) };
    if index == 0 {
        return None;
    }
    let led = env.virtual_address(index);
    // Of a family that is off nothing is behind it.
    let behind = env.behind_virtual(led)?;
    let meant = if any { behind } else { address };
    publish::find(env, meant, transport, port)?;
    Some(led)
}

/// The address that a socket was led away from: what getpeername() and recvmsg() shall tell.
#[inline(always)]
pub fn original<F: Family, E: Env<F>>(env: &E, address: F::Addr) -> Option<F::Addr> {
    env.behind_virtual(address)
}

/// Whether a process of the host may not bind `port` on `address`, because it is published.
#[inline(always)]
pub fn is_held<F: Family, E: Env<F>>(env: &E, address: F::Addr, transport: Transport, port: u16) -> bool {
    publish::is_held(env, address, transport, port)
}
