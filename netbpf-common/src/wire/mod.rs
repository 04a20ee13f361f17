//! Headers as they lie on the wire, one per file, and the arithmetic of their checksums.
//!
//! A header is a `Pod` struct that a path reads and writes as a whole through
//! [`Packet`](crate::path::Packet); fields are in network byte order.

mod addr;
mod arp;
mod be;
pub mod checksum;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod l4;
mod neighbour;
mod tcp;
mod udp;

pub use addr::{Address, V4Addr, V6Addr};
pub use arp::Arp;
pub use be::{Be16, Be32, Mac};
pub use ethernet::Ethernet;
pub use icmp::{Icmp, IcmpV4, IcmpV6};
pub use ipv4::Ipv4;
pub use ipv6::{Extension, ExtensionHeader, Ipv6};
pub use l4::{Checksum, Kind, L4, Ports, protocol};
pub use neighbour::{Advertisement, Solicitation};
pub use tcp::{Tcp, flags as tcp_flags};
pub use udp::Udp;
