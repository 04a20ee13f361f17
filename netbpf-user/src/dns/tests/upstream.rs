//! A small upstream server that does what a test tells it to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NEVER, upstream_port};
use crate::dns::frames::{self, Frames};
use crate::dns::message::Transport;

/// What is sent back for a query: any number of messages.
type Behaviour = dyn Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync;

/// A query that has come.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) bytes: Vec<u8>,
    pub(super) source: SocketAddr,
    pub(super) transport: Transport,
}

/// A server at an address. Dropping it ends it.
pub(super) struct Upstream {
    seen: watch::Receiver<Vec<Seen>>,
    socket: Arc<UdpSocket>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(super) async fn new(
        address: IpAddr,
        behaviour: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let address = SocketAddr::new(address, upstream_port());
        let socket = Arc::new(UdpSocket::bind(address).await.unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (sender, seen) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(socket.clone(), behaviour.clone(), sender.clone()));
        tasks.spawn(over_tcp(listener, behaviour, sender));
        Self { seen, socket, _tasks: tasks }
    }

    /// One that says its name in every answer.
    pub(super) async fn named(address: IpAddr, name: &'static str) -> Self {
        Self::new(address, move |seen| vec![answer(seen, ResponseCode::NoError, &[name])]).await
    }

    /// One that says nothing.
    pub(super) async fn silent(address: IpAddr) -> Self {
        Self::new(address, |_| Vec::new()).await
    }

    /// Sends something later than the query came.
    pub(super) async fn send(&self, message: &[u8], to: SocketAddr) {
        self.socket.send_to(message, to).await.unwrap();
    }

    /// What has come so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// What has come, when it is so many.
    pub(super) async fn wait(&mut self, count: usize) -> Vec<Seen> {
        timeout(NEVER, self.seen.wait_for(|seen| seen.len() >= count)).await.expect("queries").unwrap().clone()
    }
}

async fn over_udp(socket: Arc<UdpSocket>, behaviour: Arc<Behaviour>, seen: watch::Sender<Vec<Seen>>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, source) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Seen { bytes: buffer[..length].to_vec(), source, transport: Transport::Udp };
        seen.send_modify(|all| all.push(query.clone()));
        for answer in behaviour(&query) {
            // It may have had its answer from another, and be gone.
            _ = socket.send_to(&answer, source).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, behaviour: Arc<Behaviour>, seen: watch::Sender<Vec<Seen>>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, source) = listener.accept().await.unwrap();
        let (behaviour, seen) = (behaviour.clone(), seen.clone());
        connections.spawn(async move {
            let mut frames = Frames::default();
            while let Ok(Some(bytes)) = frames.next(&mut stream).await {
                let query = Seen { bytes, source, transport: Transport::Tcp };
                seen.send_modify(|all| all.push(query.clone()));
                for answer in behaviour(&query) {
                    _ = frames::send(&mut stream, &answer).await;
                }
            }
        });
    }
}

/// An answer to a query, with these texts as its data.
pub(super) fn answer(query: &Seen, code: ResponseCode, texts: &[&str]) -> Vec<u8> {
    changed(query, |answer| {
        answer.metadata.response_code = code;
        let name = answer.queries[0].name.clone();
        let data = texts.iter().map(|text| RData::TXT(TXT::new(vec![(*text).to_owned()])));
        answer.add_answers(data.map(|data| Record::from_rdata(name.clone(), 60, data)));
    })
}

/// An answer that is like the query but for something.
pub(super) fn changed(query: &Seen, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut answer = Message::from_vec(&query.bytes).unwrap().into_response();
    change(&mut answer);
    answer.to_vec().unwrap()
}
