//! The netbpf agent and what talks to it: who wants which container network, and making it so.

pub mod agent;
pub mod api;
pub mod config;
pub mod error;
pub mod spec;

pub use config::Settings;
pub use error::{Error, Result};
