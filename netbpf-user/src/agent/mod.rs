//! The engine: desired state, and making the kernel agree with it.

use std::sync::Arc;

use crate::api::types::{Container, CreateRequest, Flow, PortMapping, Status};
use crate::{Error, Result, Settings};

/// One instance of netbpf on the network namespace it was started in.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Takes over what is pinned, or makes it, and follows the host from then on.
    pub async fn start(settings: Settings) -> Result<Arc<Self>> {
        settings.validate()?;
        Err(Error::Unsupported("the engine is not there yet".into()))
    }

    /// Makes a container, or takes in a namespace that exists.
    pub async fn create(&self, request: CreateRequest) -> Result<Container> {
        Err(Error::NotFound(format!("{request:?}")))
    }

    /// All containers, by name.
    pub async fn list(&self) -> Vec<Container> {
        Vec::new()
    }

    /// One container.
    pub async fn inspect(&self, name: &str) -> Result<Container> {
        Err(Error::NotFound(name.into()))
    }

    /// Removes a container; a running one only with `force`.
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        Err(Error::NotFound(format!("{name} {force}")))
    }

    /// Notes the process that runs in a container, and watches it.
    pub async fn set_process(&self, name: &str, pid: u32) -> Result<Container> {
        Err(Error::NotFound(format!("{name} {pid}")))
    }

    /// Publishes ports of a container: all of the SPECs or none.
    pub async fn publish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        Err(Error::NotFound(format!("{name} {specs:?}")))
    }

    /// Takes publishes back: all of the SPECs or none. Returns what remains.
    pub async fn unpublish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        Err(Error::NotFound(format!("{name} {specs:?}")))
    }

    /// What is attached, how full it is, and what is not as desired.
    pub async fn status(&self) -> Result<Status> {
        Err(Error::NotFound("status".into()))
    }

    /// The flow table, or the part of it that concerns one container.
    pub async fn flows(&self, container: Option<&str>) -> Result<Vec<Flow>> {
        Err(Error::NotFound(format!("{container:?}")))
    }

    /// Stops managing; the datapath goes on.
    pub async fn shutdown(&self) {}

    /// Removes every container, program, pin, device and file of the instance. The agent is of no use afterwards.
    pub async fn uninstall(&self) -> Result<()> {
        Ok(())
    }
}
