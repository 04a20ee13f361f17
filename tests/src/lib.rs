//! What the tests of netbpf stand on: packets as bytes, sockets in any namespace, traffic that
//! checks itself.

pub mod craft;
pub mod fixture;
pub mod journey;
pub mod kernel;
pub mod link;
pub mod memory;
pub mod packet;
pub mod ping;
pub mod place;
pub mod server;
pub mod shared;
pub mod sight;
pub mod talk;
pub mod told;
pub mod transfer;
pub mod wait;
pub mod world;
