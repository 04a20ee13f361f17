//! The server: opens and closes sockets as networks come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::counters::Counts;
use super::index::Index;
use super::listener::{Listener, describe};
use super::message::Transport;
use super::options::Options;
use super::service::Service;
use super::snapshot::Snapshot;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    status: watch::Receiver<Status>,
    service: Arc<Service>,
    /// Ends the server when it is dropped.
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

/// How far the server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Generation of the snapshot that it acts on; none before the first.
    pub generation: Option<u64>,
    /// Gateways that are served, by UDP and TCP.
    pub served: BTreeSet<IpAddr>,
    /// Gateways that are not, or not in full.
    pub problems: Vec<Problem>,
}

/// Why a gateway is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the network.
    pub network: String,
    /// Its gateway.
    pub gateway: IpAddr,
    /// One line for the user: what, why, what to do.
    pub text: String,
}

impl Server {
    /// Serves what the newest snapshot says, in the network namespace of the process, until it is dropped or nobody can send
    /// snapshots any more. Needs the tokio runtime to be entered.
    pub fn start(options: Options, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        let (index, indexes) = watch::channel(Arc::default());
        let (status, statuses) = watch::channel(Status::default());
        let (stop, stopped) = watch::channel(());
        let service = Arc::new(Service::new(options, indexes));
        let supervisor = Supervisor {
            service: service.clone(),
            index,
            status,
            listeners: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        let task = tokio::spawn(supervisor.run(snapshots, stopped));
        Self { status: statuses, service, stop, task }
    }

    /// How far it is, live. It is up to date with a snapshot, sockets included, when the generation has come.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What has become of the queries so far.
    pub fn counts(&self) -> Counts {
        self.service.counters.read()
    }

    /// Ends it; all sockets are closed afterwards.
    pub async fn stop(self) {
        let Self { stop, task, .. } = self;
        drop(stop);
        // A panic has been printed, and all is closed.
        _ = task.await;
    }
}

type Key = (IpAddr, Transport);

struct Supervisor {
    service: Arc<Service>,
    index: watch::Sender<Arc<Index>>,
    status: watch::Sender<Status>,
    listeners: BTreeMap<Key, Listener>,
    problems: BTreeMap<Key, Problem>,
}

impl Supervisor {
    async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, mut stopped: watch::Receiver<()>) {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            // Who is in a network is known before its socket is open, and still while it closes.
            let index = Index::new(&snapshot, &self.index.borrow());
            self.index.send_replace(Arc::new(index));
            self.listen(&snapshot).await;
            loop {
                tokio::select! {
                    _ = stopped.changed() => return self.close().await,
                    changed = snapshots.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return self.close().await,
                    },
                    () = sleep(self.service.options.retry) => {
                        let any_dead = self.listeners.values().any(Listener::is_dead);
                        if any_dead || !self.problems.is_empty() {
                            self.listen(&snapshot).await;
                        }
                    }
                }
            }
        }
    }

    /// Opens and closes sockets until they are those of the networks. Those of networks that stay are not touched.
    async fn listen(&mut self, snapshot: &Snapshot) {
        let of_gateway = |gateway: &IpAddr, network: &str| {
            [Transport::Udp, Transport::Tcp].map(|transport| ((*gateway, transport), network.to_owned()))
        };
        let wanted: BTreeMap<Key, String> = snapshot
            .networks
            .iter()
            .flat_map(|network| network.gateways.iter().flat_map(move |gateway| of_gateway(gateway, &network.name)))
            .collect();
        let unwanted = |key: &Key, listener: &Listener| !wanted.contains_key(key) || listener.is_dead();
        let gone: Vec<Key> =
            self.listeners.iter().filter(|(key, listener)| unwanted(key, listener)).map(|(key, _)| *key).collect();
        for key in gone {
            if let Some(listener) = self.listeners.remove(&key) {
                listener.close().await;
            }
        }
        self.problems.retain(|key, _| wanted.contains_key(key));
        for (key, network) in &wanted {
            if !self.listeners.contains_key(key) {
                self.open(*key, network).await;
            }
        }
        let is_served = |gateway: &&IpAddr| {
            [Transport::Udp, Transport::Tcp].iter().all(|kind| self.listeners.contains_key(&(**gateway, *kind)))
        };
        let gateways: BTreeSet<&IpAddr> = wanted.keys().map(|(gateway, _)| gateway).collect();
        let status = Status {
            generation: Some(snapshot.generation),
            served: gateways.into_iter().filter(is_served).copied().collect(),
            problems: self.problems.values().cloned().collect(),
        };
        self.status.send_if_modified(|before| {
            let is_new = *before != status;
            *before = status;
            is_new
        });
    }

    async fn open(&mut self, key: Key, network: &str) {
        let (gateway, transport) = key;
        match Listener::open(gateway, transport, &self.service) {
            Ok(listener) => {
                self.listeners.insert(key, listener);
                if self.problems.remove(&key).is_some() {
                    tracing::info!(network, %gateway, ?transport, "names are answered again");
                }
            }
            // One gateway may be taken; the others are served all the same.
            Err(error) => {
                // To say who has it takes a look at all processes: once.
                if self.problems.contains_key(&key) {
                    return;
                }
                let (name, port) = (network.to_owned(), self.service.options.port);
                let text = tokio::task::spawn_blocking(move || describe(&name, gateway, transport, port, &error)).await;
                let problem = Problem { network: network.into(), gateway, text: text.unwrap_or_default() };
                tracing::warn!("{}", problem.text);
                self.problems.insert(key, problem);
            }
        }
    }

    async fn close(self) {
        for listener in self.listeners.into_values() {
            listener.close().await;
        }
    }
}
