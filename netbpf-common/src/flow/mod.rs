//! The life of a flow as pure functions: what a packet does to its state, how long it may be
//! silent, which port a translation tries next.

mod ports;
mod state;
pub mod tcp;
mod timeout;

pub use ports::{ATTEMPTS, PortRange};
pub use state::{Direction, State, advance, reopens};
pub use timeout::{is_expired, makes_room};
