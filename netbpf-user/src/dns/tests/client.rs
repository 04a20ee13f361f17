//! Who asks: bytes over a socket, and the resolver of hickory.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{NEVER, query, shown};
use crate::dns::frames::{self, Frames};

/// A UDP socket of a container.
pub(super) struct Client {
    socket: UdpSocket,
    source: IpAddr,
    gateway: SocketAddr,
}

impl Client {
    pub(super) async fn new(source: IpAddr, gateway: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).await.unwrap();
        socket.connect(gateway).await.unwrap();
        Self { socket, source, gateway }
    }

    pub(super) async fn send(&self, message: &[u8]) {
        self.socket.send(message).await.unwrap();
    }

    pub(super) async fn receive(&self) -> Vec<u8> {
        let mut answer = vec![0; 65_535];
        let length = timeout(NEVER, self.socket.recv(&mut answer)).await.expect("an answer").unwrap();
        answer.truncate(length);
        answer
    }

    /// Whether nothing has come.
    pub(super) fn is_silent(&self) -> bool {
        let nothing = self.socket.try_recv(&mut [0; 512]);
        nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The answer to a query, which bears its identifier.
    pub(super) async fn ask(&self, message: &Message) -> Vec<u8> {
        self.send(&message.to_vec().unwrap()).await;
        let answer = self.receive().await;
        assert_eq!(answer[..2], message.id.to_be_bytes());
        answer
    }

    /// Code and data of what a name has.
    pub(super) async fn look_up(&self, name: &str, kind: RecordType) -> String {
        shown(&self.ask(&query(name, kind)).await)
    }

    /// A TCP connection of the same container.
    pub(super) async fn connect(&self) -> Connection {
        let socket = if self.source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind((self.source, 0).into()).unwrap();
        let stream = timeout(NEVER, socket.connect(self.gateway)).await.expect("a connection").unwrap();
        Connection { stream, frames: Frames::default() }
    }

    /// A resolver of the same container, over UDP and TCP where it has to, or over TCP alone.
    pub(super) fn resolver(&self, over_tcp: bool) -> TokioResolver {
        let connections = if over_tcp {
            vec![ConnectionConfig::tcp()]
        } else {
            vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]
        };
        let connections = connections.into_iter().map(|mut connection| {
            connection.port = self.gateway.port();
            connection.bind_addr = Some((self.source, 0).into());
            connection
        });
        let server = NameServerConfig::new(self.gateway.ip(), true, connections.collect());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.os_port_selection = true;
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        builder.build().unwrap()
    }
}

/// A TCP connection of a container.
pub(super) struct Connection {
    stream: TcpStream,
    frames: Frames,
}

impl Connection {
    pub(super) async fn send(&mut self, message: &[u8]) {
        frames::send(&mut self.stream, message).await.unwrap();
    }

    /// `None` when the server has closed it.
    pub(super) async fn receive(&mut self) -> Option<Vec<u8>> {
        match timeout(NEVER, self.frames.next(&mut self.stream)).await.expect("an answer") {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn look_up(&mut self, name: &str, kind: RecordType) -> Option<String> {
        // The other side may have closed it already.
        _ = frames::send(&mut self.stream, &query(name, kind).to_vec().unwrap()).await;
        Some(shown(&self.receive().await?))
    }
}
