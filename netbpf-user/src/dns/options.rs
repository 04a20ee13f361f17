//! What can be set, and the limits.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Forwarded queries in flight. Each has a socket or two.
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
