//! Sockets: opening one, saying why it cannot be, and closing it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netbpf_common::abi;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::message::Transport;
use super::service::Service;
use super::{tcp, udp};
use crate::net::sockets::{holder, open_sockets};
use crate::spec::Host;

/// Queries that may wait: a burst of all containers at once. The kernel grants less where it is set up so.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that is served.
pub(super) struct Listener {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Binds and serves a socket of the calling thread's network namespace.
    pub(super) fn open(gateway: IpAddr, transport: Transport, service: &Arc<Service>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let address = SocketAddr::new(gateway, service.options.port);
        let socket = bind(address, transport)?;
        let service = service.clone();
        let task = match transport {
            Transport::Udp => {
                let socket = UdpSocket::from_std(socket.into())?;
                tokio::spawn(udp::serve(socket, gateway, service, stopped))
            }
            Transport::Tcp => {
                socket.listen(BACKLOG)?;
                let listener = TcpListener::from_std(socket.into())?;
                tokio::spawn(tcp::serve(listener, gateway, service, stopped))
            }
        };
        Ok(Self { stop, task })
    }

    /// Whether it has ended by itself, which is a bug.
    pub(super) fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Closes the socket; it is closed afterwards, and can be bound again.
    pub(super) async fn close(self) {
        // An error is a task that has ended already.
        _ = self.stop.send(());
        _ = self.task.await;
    }
}

fn bind(address: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    // The gateway's address may come later than the network, and come and go with its device.
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    match transport {
        // For connections of a socket before this one. On UDP it would let others share the port.
        Transport::Tcp => socket.set_reuse_address(true)?,
        Transport::Udp => socket.set_recv_buffer_size(RECEIVE_BUFFER)?,
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One line for the user: what cannot be, why, and what to do. It looks through processes, and may take a while.
pub(super) fn describe(network: &str, gateway: IpAddr, transport: Transport, port: u16, error: &io::Error) -> String {
    let of_kernel = match transport {
        Transport::Udp => abi::Transport::Udp,
        Transport::Tcp => abi::Transport::Tcp,
    };
    let name = crate::spec::transport_name(of_kernel);
    let what = format!("network {network}: names are not answered at {}:{port}/{name}", Host(gateway));
    if error.kind() != io::ErrorKind::AddrInUse {
        return format!("{what}: {error}: it is tried again by itself");
    }
    let held = open_sockets().unwrap_or_default().into_iter().find(|held| {
        held.transport == of_kernel
            && held.port == port
            && held.address.is_ipv4() == gateway.is_ipv4()
            && (held.address == gateway || held.address.is_unspecified())
    });
    let (who, on) = match held.map(|held| (held.address, holder(held.inode))) {
        Some((address, Some((pid, command)))) => (format!("process {pid} ({command})"), address),
        Some((address, None)) => ("a socket of the kernel or of another PID namespace".into(), address),
        None => return format!("{what}: the port is in use: stop who holds it, it is tried again by itself"),
    };
    format!(
        "{what}: the port is held by {who} on {}: let that listen on other addresses alone, or stop it; it is tried again by itself",
        Host(on)
    )
}
