//! The embedded DNS server: containers find each other by name, and the world through the host's resolvers.
//!
//! It answers at the gateway addresses of the networks, from the network namespace that it is started in. Who asks is told by
//! the source address of the query, which the datapath has checked: a member of the network whose gateway is asked, or
//! nobody. Names of containers are answered from the last [`Snapshot`]; everything else is passed on to an upstream server
//! and back, byte for byte. `docs/dns.md` says what users see of it.
//!
//! A query goes `udp` or `tcp` ▶ `service` ▶ `decide`, which looks into the `index` and is pure, and from there back as an answer
//! or on to `forward`, which asks servers by `upstream`. The `server` opens and closes the sockets.

mod counters;
mod decide;
mod forward;
mod frames;
mod index;
mod limits;
mod listener;
mod message;
mod options;
mod resolvers;
mod server;
mod service;
mod snapshot;
mod tcp;
mod udp;
mod upstream;

#[cfg(test)]
mod tests;

pub use counters::Counts;
pub use options::Options;
pub use server::{Problem, Server, Status};
pub use snapshot::{Member, Network, Snapshot};
