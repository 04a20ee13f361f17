//! The paths of a packet, generic over packet, tables and address family.
//!
//! ```text
//! hook ─▶ parse ─▶ lookup ─▶ decide ─▶ apply ─▶ verdict
//! ```
//!
//! [`egress()`] is everything a container sends, [`uplink()`] everything from outside, [`host()`]
//! everything the host sends to containers; [`socket`] leads the host's own sockets to published
//! ports and [`collect`] removes flows. Each looks a flow up and follows it, or decides on a new
//! one and makes it ([`table`]).

mod apply;
mod broadcast;
pub mod collect;
mod decide;
mod egress;
mod env;
mod errors;
mod express;
mod family;
mod follow;
mod fragments;
mod host;
mod make;
mod mapping;
mod neighbour;
mod packet;
mod parse;
mod publish;
mod refusal;
mod refuse;
mod siit;
pub mod socket;
pub mod table;
mod uplink;
mod verdict;

pub use apply::{Rewrite, Translation, apply};
pub use egress::{egress, egress_v4, egress_v6};
pub use env::{Env, FlowEntry, HostSocket, InsertError, Route, RouteQuery, Scratch, World};
pub use express::express;
pub use family::{Family, Ip, Part, V4, V6};
pub use host::{host, host_v4, host_v6};
pub use packet::{HEADERS_END, Headers, Packet};
pub use parse::{Parsed, parse};
pub use uplink::{uplink, uplink_v4, uplink_v6};
pub use verdict::{Decision, Verdict};
