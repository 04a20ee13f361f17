//! The netbpf agent and what talks to it: who wants which container network, and making it so.

pub mod agent;
pub mod api;
pub mod config;
pub mod datapath;
pub mod dns;
pub mod error;
mod failpoint;
mod ipam;
mod net;
pub mod process;
pub mod rig;
pub mod spec;
mod store;
mod trust;

pub use config::Settings;
pub use error::{Error, Result};
