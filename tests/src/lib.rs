//! What the tests of netbpf stand on: packets as bytes, sockets in any namespace, traffic that
//! checks itself.

pub mod damage;
pub mod fixture;
pub mod instance;
pub mod journey;
pub mod kernel;
pub mod link;
pub mod memory;
pub mod packet;
pub mod ping;
pub mod place;
pub mod server;
pub mod survival;
pub mod talk;
pub mod transfer;
pub mod wait;
pub mod world;
