//! The client of the API: one blocking call per route.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::types::{
    ConnectRequest, Container, CreateRequest, DisconnectRequest, ErrorBody, Exposure, Finding, Flow, Network,
    NetworkRequest, PortMapping, ProcessRequest, PublishRequest, Status,
};
use crate::config::read_socket_beside;

/// Why there is no answer, or what the agent said instead.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("netbpf agent is not running at {0}: start it with `netbpf agent`, or name its socket with --socket")]
    NotRunning(PathBuf),
    /// No right to the socket.
    #[error("no permission to use {0}: run netbpf as root, or as a member of the group of that socket")]
    Forbidden(PathBuf),
    /// The agent refused.
    #[error("{line}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The one clear line.
        line: String,
    },
    /// What was named has no name; of which kind it was to be, and the verb that lists those.
    #[error("no {0} '': `netbpf {1}` lists them")]
    Nameless(&'static str, &'static str),
    /// The agent went away, or what answers is no agent.
    #[error("no usable answer from {socket}: {reason}; see the agent's log")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
}

impl ClientError {
    /// Whether the agent knows nothing of what was named.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A client of the agent at one socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client; nothing is connected before a call.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(socket: &Path) -> io::Result<Self> {
        Ok(Self { socket: socket.into(), runtime: Builder::new_current_thread().enable_io().build()? })
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What is attached, where, since when, how full.
    ///
    /// # Errors
    /// When the agent refuses or does not answer, as for every call.
    pub fn status(&self) -> Result<Status> {
        self.ask(Method::GET, "/v1/status", &())
    }

    /// What of the host can get in the way.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn doctor(&self) -> Result<Vec<Finding>> {
        self.ask(Method::GET, "/v1/doctor", &())
    }

    /// All containers.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn containers(&self) -> Result<Vec<Container>> {
        self.ask(Method::GET, "/v1/containers", &())
    }

    /// One container.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn container(&self, name: &str) -> Result<Container> {
        self.ask(Method::GET, &container_path(name, "")?, &())
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When the request is refused; nothing is left then.
    pub fn create(&self, request: &CreateRequest) -> Result<Container> {
        self.ask(Method::POST, "/v1/containers", request)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// When there is none, or it runs and `force` is not set.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        self.ask(Method::DELETE, &container_path(name, if force { "?force=true" } else { "" })?, &())
    }

    /// Tells which process runs in a container.
    ///
    /// # Errors
    /// When there is no such container or process.
    pub fn set_process(&self, name: &str, pid: u32) -> Result<Container> {
        self.ask(Method::POST, &container_path(name, "/process")?, &ProcessRequest { pid })
    }

    /// Publishes ports of a container.
    ///
    /// # Errors
    /// When any of them is refused; none is published then.
    pub fn publish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        self.ask(Method::POST, &container_path(name, "/publish")?, &PublishRequest { publish: specs.to_vec() })
    }

    /// Takes publishes of a container back; what remains is returned.
    ///
    /// # Errors
    /// When any of them is not published; none is taken back then.
    pub fn unpublish(&self, name: &str, specs: &[String]) -> Result<Vec<PortMapping>> {
        self.ask(Method::POST, &container_path(name, "/unpublish")?, &PublishRequest { publish: specs.to_vec() })
    }

    /// All networks.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn networks(&self) -> Result<Vec<Network>> {
        self.ask(Method::GET, "/v1/networks", &())
    }

    /// One network.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn network(&self, name: &str) -> Result<Network> {
        self.ask(Method::GET, &network_path(name, "")?, &())
    }

    /// Makes a network.
    ///
    /// # Errors
    /// When the request is refused; nothing is left then.
    pub fn create_network(&self, request: &NetworkRequest) -> Result<Network> {
        self.ask(Method::POST, "/v1/networks", request)
    }

    /// Removes a network.
    ///
    /// # Errors
    /// When there is none, or containers are in it.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        self.ask(Method::DELETE, &network_path(name, "")?, &())
    }

    /// Removes all networks that nobody is in; their names.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune_networks(&self) -> Result<Vec<String>> {
        self.ask(Method::POST, "/v1/networks/prune", &())
    }

    /// Connects a container to a network.
    ///
    /// # Errors
    /// When the request is refused; nothing is left then.
    pub fn connect(&self, network: &str, request: &ConnectRequest) -> Result<Container> {
        self.ask(Method::POST, &network_path(network, "/connect")?, request)
    }

    /// Takes a container out of a network.
    ///
    /// # Errors
    /// When it is not in it.
    pub fn disconnect(&self, network: &str, container: &str) -> Result<Container> {
        let request = DisconnectRequest { container: container.into() };
        self.ask(Method::POST, &network_path(network, "/disconnect")?, &request)
    }

    /// The flow table, or the part that concerns one container.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn flows(&self, container: Option<&str>) -> Result<Vec<Flow>> {
        self.ask(Method::GET, &format!("/v1/flows{}", of_container(container)), &())
    }

    /// The ways to the ports of all containers, or of one.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn exposure(&self, container: Option<&str>) -> Result<Vec<Exposure>> {
        self.ask(Method::GET, &format!("/v1/exposure{}", of_container(container)), &())
    }

    /// Removes the whole instance; the agent ends.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn uninstall(&self) -> Result<()> {
        self.ask(Method::POST, "/v1/uninstall", &())
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&self, method: Method, path: &str, question: &Q) -> Result<A> {
        let body = serde_json::to_vec(question).map_err(|error| self.broken(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "netbpf")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let (status, answer) = self.runtime.block_on(self.exchange(request))?;
        if !status.is_success() {
            let line = match serde_json::from_slice::<ErrorBody>(&answer) {
                Ok(body) => body.error,
                Err(_) => return Err(self.broken(format!("HTTP status {status}"))),
            };
            return Err(ClientError::Refused { status: status.as_u16(), line });
        }
        // 204 has no body; null is how JSON says nothing.
        let answer = if answer.is_empty() { b"null" } else { answer.as_ref() };
        serde_json::from_slice(answer).map_err(|error| self.broken(error))
    }

    /// A connection to the agent; for who only looks by the socket for that, when the other is not for this user.
    async fn connect_to_agent(&self, method: &Method) -> Result<UnixStream> {
        let refused = match UnixStream::connect(&self.socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match refused.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Err(ClientError::NotRunning(self.socket.clone())),
            ErrorKind::PermissionDenied => {
                let forbidden = || ClientError::Forbidden(self.socket.clone());
                if !method.is_safe() {
                    return Err(forbidden());
                }
                UnixStream::connect(read_socket_beside(&self.socket)).await.map_err(|_| forbidden())
            }
            _ => Err(self.broken(refused)),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let stream = self.connect_to_agent(request.method()).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            drop(sender);
            Ok::<_, hyper::Error>((status, body))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer.map_err(|error| self.broken(error))
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

fn network_path(name: &str, rest: &str) -> Result<String> {
    path("/v1/networks/", name, rest).ok_or(ClientError::Nameless("network", "network ls"))
}

fn container_path(name: &str, rest: &str) -> Result<String> {
    path("/v1/containers/", name, rest).ok_or(ClientError::Nameless("container", "ps"))
}

/// A path with a name in it: an empty one would be another path.
fn path(before: &str, name: &str, rest: &str) -> Option<String> {
    (!name.is_empty()).then(|| format!("{before}{}{rest}", percent_encoded(name)))
}

/// A query that selects a container, or all.
fn of_container(name: Option<&str>) -> String {
    name.map(|name| format!("?container={}", percent_encoded(name))).unwrap_or_default()
}

/// RFC 3986 section 2.1, for one segment: names are the user's and may hold anything until the agent has judged them.
fn percent_encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => encoded.push(byte.into()),
            // A dot is encoded too: `..` must reach the agent as a name, not as a step up.
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
