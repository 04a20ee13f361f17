//! What the tests of netbpf stand on: packets as bytes, sockets in any namespace, traffic that
//! checks itself.

pub mod damage;
pub mod fixture;
pub mod fuzz;
pub mod instance;
pub mod journey;
#[cfg(feature = "system")]
pub mod kernel;
#[cfg(feature = "system")]
pub mod link;
pub mod memory;
pub mod packet;
#[cfg(feature = "system")]
pub mod ping;
#[cfg(feature = "system")]
pub mod place;
#[cfg(feature = "system")]
pub mod server;
pub mod survival;
pub mod talk;
#[cfg(feature = "system")]
pub mod transfer;
pub mod wait;
pub mod world;
