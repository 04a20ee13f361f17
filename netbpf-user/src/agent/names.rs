//! What the resolver of containers is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Engine;
use super::files::said_or;
use super::state::State;
use crate::dns::{Member, Network, Options, Server, Snapshot};

/// The resolver, and its news.
#[derive(Debug)]
pub(super) struct Names {
    server: Server,
    snapshots: tokio::sync::watch::Sender<Arc<Snapshot>>,
}

impl Names {
    /// Begins to answer.
    pub(super) fn start(port: u16) -> Self {
        let (snapshots, news) = tokio::sync::watch::channel(Arc::default());
        Self { server: Server::start(Options { port, ..Options::default() }, news), snapshots }
    }
}

impl Engine {
    /// Tells the resolver who is where; when this returns it answers so.
    pub(super) async fn tell_names(&self, state: &State) {
        let Some(names) = &self.names else { return };
        let generation = names.snapshots.borrow().generation + 1;
        let networks = networks(state, &self.settings.dns);
        names.snapshots.send_replace(Arc::new(Snapshot { generation, networks }));
        let mut status = names.server.status();
        // It ends with the engine alone.
        _ = status.wait_for(|status| status.generation >= Some(generation)).await;
    }

    /// What the resolver could not do, one line each.
    pub(super) fn problems_with_names(&self) -> Vec<String> {
        let Some(names) = &self.names else { return Vec::new() };
        names.server.status().borrow().problems.iter().map(|problem| problem.text.clone()).collect()
    }
}

/// The networks, with resolvers for containers that name none.
fn networks(state: &State, dns: &[IpAddr]) -> Vec<Network> {
    let mut members: BTreeMap<&str, Vec<Member>> = BTreeMap::new();
    for (container, endpoint) in state.endpoints() {
        members.entry(&endpoint.network).or_default().push(Member {
            container: container.name.clone(),
            short_id: Some(container.id[..12].to_owned()),
            hostname: Some(container.hostname.clone()),
            aliases: endpoint.aliases.clone(),
            addresses: endpoint.addresses().collect(),
            upstreams: said_or(&container.dns, dns).to_vec(),
        });
    }
    let networks = state.networks.ours().map(|network| {
        let record = &network.record;
        Network {
            name: record.name.clone(),
            gateways: record.addressing.parts().map(|part| part.gateway).collect(),
            subnets: record.addressing.parts().map(|part| part.subnet).collect(),
            is_internal: record.internal,
            members: members.remove(&*record.name).unwrap_or_default(),
        }
    });
    networks.collect()
}
