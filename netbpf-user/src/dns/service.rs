//! What UDP and TCP have in common: a query in, an answer out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

use super::counters::{Count, Counters};
use super::decide::{Decision, Forward, decide, failure};
use super::forward::forward;
use super::index::Index;
use super::limits::{Limits, Permit};
use super::message::{Reason, Transport};
use super::options::{Options, SERVERS};
use super::resolvers::Resolvers;

/// What all sockets share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) options: Options,
    pub(super) counters: Counters,
    pub(super) connections: Limits,
    queries: Limits,
    index: watch::Receiver<Arc<Index>>,
    resolvers: Resolvers,
}

/// What is to be done for a query.
pub(super) enum Work {
    /// No word.
    Nothing,
    /// It is answered.
    Answer(Vec<u8>),
    /// Others are to be asked.
    Errand(Errand),
}

/// A query on its way to upstream servers.
pub(super) struct Errand {
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    transport: Transport,
    _permit: Permit,
}

impl Service {
    pub(super) fn new(options: Options, index: watch::Receiver<Arc<Index>>) -> Self {
        let options = options.affordable();
        Self {
            counters: Counters::default(),
            connections: Limits::new(options.connections, options.connections_per_container),
            queries: Limits::new(options.in_flight, options.in_flight_per_container),
            resolvers: Resolvers::new(&options),
            index,
            options,
        }
    }

    /// What is known of the networks now.
    pub(super) fn index(&self) -> Arc<Index> {
        self.index.borrow().clone()
    }

    /// Takes a query that has come from `source` to a gateway.
    pub(super) fn take(&self, gateway: IpAddr, source: IpAddr, query: &[u8], transport: Transport) -> Work {
        let index = self.index();
        match decide(&index, gateway, source, query, transport) {
            Decision::Ignore(count) => {
                self.counters.add(count);
                Work::Nothing
            }
            Decision::Answer(count, answer) => {
                self.counters.add(count);
                Work::Answer(answer)
            }
            Decision::Forward(Forward { container, upstreams }) => {
                let Some(permit) = self.queries.take(&container) else {
                    self.counters.add(Count::Limited);
                    return failure(query, transport, Reason::LIMIT).map_or(Work::Nothing, Work::Answer);
                };
                let mut servers = self.servers(&upstreams);
                // Our own answer to the host would be none.
                servers.retain(|server| !index.is_gateway(server.ip()));
                servers.truncate(SERVERS);
                Work::Errand(Errand { query: query.to_vec(), servers, transport, _permit: permit })
            }
        }
    }

    fn servers(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        match own {
            [] => self.resolvers.servers(),
            own => own.iter().map(|address| SocketAddr::new(*address, self.options.upstream_port)).collect(),
        }
    }

    /// Goes and asks.
    pub(super) async fn run(&self, errand: Errand) -> Option<Vec<u8>> {
        let Errand { query, servers, transport, .. } = &errand;
        if let Some(answer) = forward(&self.options, servers, *transport, query).await {
            self.counters.add(Count::Forwarded);
            return Some(answer);
        }
        self.counters.add(Count::Failed);
        failure(query, *transport, Reason::UPSTREAM)
    }
}
