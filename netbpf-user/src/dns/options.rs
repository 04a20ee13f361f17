//! What can be set, and the limits.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Ports, files and limits of a server. The defaults are for use, other values for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Port that the server answers at.
    pub port: u16,
    /// Port that upstream servers are asked at.
    pub upstream_port: u16,
    /// Where the host's resolvers are listed.
    pub resolv_conf: PathBuf,
    /// Where systemd-resolved lists the servers behind its stub.
    pub resolved_conf: PathBuf,
    /// How long one upstream server may be silent before the next is asked as well.
    pub patience: Duration,
    /// How long all of them together may take. Stub resolvers wait five seconds (glibc, musl) and then ask again.
    pub deadline: Duration,
    /// Forwarded queries in flight, at most: fewer when the process may not open as many files.
    pub in_flight: usize,
    /// Forwarded queries in flight of one container.
    pub in_flight_per_container: usize,
    /// Open TCP connections.
    pub connections: usize,
    /// Open TCP connections of one container.
    pub connections_per_container: usize,
    /// How long a TCP connection may be idle, or not take its answers.
    pub idle: Duration,
    /// How long until an address that could not be bound is tried again.
    pub retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 53,
            upstream_port: 53,
            resolv_conf: "/etc/resolv.conf".into(),
            resolved_conf: "/run/systemd/resolve/resolv.conf".into(),
            patience: Duration::from_millis(1500),
            deadline: Duration::from_millis(4500),
            in_flight: 1024,
            in_flight_per_container: 256,
            connections: 256,
            connections_per_container: 32,
            idle: Duration::from_secs(10),
            retry: Duration::from_secs(5),
        }
    }
}

/// Servers that a query is sent to, and so the sockets that it has (resolv.conf(5): MAXNS; as many with Docker).
pub(super) const SERVERS: usize = 3;

impl Options {
    /// With as many queries in flight as there are descriptors for.
    pub(super) fn affordable(self) -> Self {
        let most =
            getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let wanted = self.in_flight;
        let affordable = self.within(most);
        if affordable.in_flight < wanted {
            tracing::warn!(
                "the agent may open {most} files, so that no more than {} DNS queries are forwarded at a time: raise its \
                 limit of open files (LimitNOFILE=)",
                affordable.in_flight
            );
        }
        affordable
    }

    /// A quarter of the descriptors is for the rest of the process. Each container keeps its share of what is left.
    fn within(self, descriptors: usize) -> Self {
        let left = (descriptors / 4 * 3).saturating_sub(self.connections);
        let in_flight = self.in_flight.min(left / SERVERS).max(1);
        let share = (self.in_flight_per_container * in_flight).div_ceil(self.in_flight.max(1));
        Self { in_flight, in_flight_per_container: self.in_flight_per_container.min(share), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_in_flight_leave_descriptors_for_others() {
        for (descriptors, expected) in
            [(usize::MAX, (1024, 256)), (524_288, (1024, 256)), (1024, (170, 43)), (64, (1, 1))]
        {
            let options = Options::default().within(descriptors);
            assert_eq!((options.in_flight, options.in_flight_per_container), expected, "{descriptors}");
        }
    }
}
