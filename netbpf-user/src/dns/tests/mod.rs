//! The server over real sockets of the loopback, whose addresses are all the machine's: each test has a network of its own there.

mod changes;
mod client;
mod decisions;
mod failures;
mod forwarding;
mod limits;
mod names;
mod upstream;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Member, Network, Options, Server, Snapshot, Status};
use client::Client;

/// Below the ports that the kernel gives out, and not those of another process that runs these tests.
fn port() -> u16 {
    12_000 + (std::process::id() % 8_000) as u16
}

fn upstream_port() -> u16 {
    port() + 8_000
}

/// Nothing here takes as long, unless it never comes.
const NEVER: Duration = Duration::from_secs(30);

/// A server, and a piece of the loopback for what is around it.
struct World {
    net: [u8; 2],
    snapshots: watch::Sender<Arc<Snapshot>>,
    server: Server,
    files: TempDir,
}

impl World {
    /// With the network `front`, in which there are `web`, `api` and `lone`; the latter two are both `app`.
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With other options than the default ones.
    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let net = [128, NEXT.fetch_add(1, Ordering::Relaxed)];
        let files = tempfile::tempdir().unwrap();
        let mut options = Options {
            port: port(),
            upstream_port: upstream_port(),
            resolv_conf: files.path().join("resolv.conf"),
            resolved_conf: files.path().join("behind"),
            ..Options::default()
        };
        change(&mut options);
        let (snapshots, receiver) = watch::channel(Arc::default());
        let mut world = Self { net, snapshots, server: Server::start(options, receiver), files };
        let front = world.front();
        world.send(vec![front]).await;
        world
    }

    /// An address of this world: gateways end in 1, upstream servers in 200 and more.
    fn address(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.net[0], self.net[1], last).into()
    }

    fn member(&self, container: &str, last: u8, aliases: &[&str]) -> Member {
        Member {
            container: container.into(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            addresses: vec![self.address(last)],
            ..Member::default()
        }
    }

    fn front(&self) -> Network {
        let members = [("web", 2, &[][..]), ("api", 3, &["app"]), ("lone", 4, &["app"])];
        Network {
            name: "front".into(),
            gateways: vec![self.address(1)],
            subnets: vec![format!("{}/25", self.address(0)).parse().unwrap()],
            members: members.map(|(name, last, aliases)| self.member(name, last, aliases)).to_vec(),
            ..Network::default()
        }
    }

    /// Changes the networks, and waits until the server acts on it.
    async fn send(&mut self, networks: Vec<Network>) -> Status {
        let generation = self.snapshots.borrow().generation + 1;
        self.snapshots.send_replace(Arc::new(Snapshot { generation, networks }));
        self.wait(|status| status.generation == Some(generation)).await
    }

    async fn wait(&self, condition: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.server.status();
        let status = timeout(NEVER, status.wait_for(condition)).await.expect("the server acts").unwrap();
        status.clone()
    }

    /// Makes these the host's resolvers.
    fn resolvers(&self, servers: &[IpAddr]) {
        let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        std::fs::write(self.files.path().join("new"), text).unwrap();
        std::fs::rename(self.files.path().join("new"), self.files.path().join("resolv.conf")).unwrap();
    }

    /// A process of the container with this address.
    async fn client(&self, last: u8) -> Client {
        Client::new(self.address(last), (self.address(1), port()).into()).await
    }
}

/// A query for a name.
fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Code and data of an answer.
fn shown(answer: &[u8]) -> String {
    let answer = Message::from_vec(answer).unwrap();
    assert_eq!(answer.message_type, MessageType::Response);
    let data = answer.answers.iter().map(|record| record.data.to_string());
    [format!("{:?}", answer.response_code)].into_iter().chain(data).collect::<Vec<_>>().join(" ")
}
