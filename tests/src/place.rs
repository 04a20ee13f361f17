//! Places where sockets are made: a network namespace, and for the host a cgroup as well.
//!
//! A socket stays in the namespace and the cgroup it was made in, so that a test can make sockets
//! all over a rig and then use them from one thread.

use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use netbpf_user::rig::Namespace;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::version::Version;
use crate::wait::soon;

/// The word a socket maker sends when it stands where it should.
pub const READY: &[u8; 5] = b"ready";

/// A place in a rig, and the version of IP that is spoken there where it is not said.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Namespace,
    version: Version,
    maker: Option<Arc<Mutex<Maker>>>,
}

/// The child process that makes sockets in a cgroup: only whole processes can be moved into one.
#[derive(Debug)]
struct Maker {
    process: Child,
    requests: UnixStream,
}

impl Place {
    /// A network namespace.
    pub fn new(namespace: Namespace, version: Version) -> Self {
        Self { namespace, version, maker: None }
    }

    /// A network namespace and a cgroup. `program` is the binary `socket-maker`.
    ///
    /// # Errors
    /// When it cannot be started there.
    pub fn with_cgroup(namespace: Namespace, version: Version, cgroup: &Path, program: &Path) -> io::Result<Self> {
        let mut place = Self::new(namespace, version);
        let (mut requests, theirs) = UnixStream::pair()?;
        let process = place.run(|| Command::new(program).arg(cgroup).stdin(OwnedFd::from(theirs)).spawn())?;
        let mut word = *READY;
        requests.read_exact(&mut word)?;
        place.maker = Some(Arc::new(Mutex::new(Maker { process, requests })));
        Ok(place)
    }

    /// The same place, where this version is spoken.
    #[must_use]
    pub fn speaking(&self, version: Version) -> Self {
        Self { version, ..self.clone() }
    }

    /// The version of IP that is spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Does something in the namespace. Processes started by it live there.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(action).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command to its end and gives what it wrote.
    ///
    /// # Panics
    /// When it cannot be started or fails.
    #[track_caller]
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        self.namespace.run(program, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Makes a socket here.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn socket(&self, domain: Domain, kind: Type, protocol: Option<Protocol>) -> Socket {
        let made = match &self.maker {
            None => self.run(|| Socket::new(domain, kind, protocol)),
            Some(maker) => maker.lock().expect("no panic while asking").make(domain, kind, protocol),
        };
        made.unwrap_or_else(|error| panic!("no socket in {}: {error}", self.namespace.name()))
    }

    /// A TCP listener; port 0 for a free one.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.only(address, Type::STREAM)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    }

    /// A TCP connection; reads and writes of it give up after [`soon`].
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_from(0, to)
    }

    /// A TCP connection from this port; 0 for any. The port may be used again at once.
    ///
    /// # Errors
    /// As bind(2) and connect(2).
    pub fn connect_from(&self, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.only(to, Type::STREAM)?;
        if port != 0 {
            socket.set_reuse_address(true)?;
            socket.bind(&Version::of(to.ip()).everywhere(port).into())?;
        }
        connected(socket, to)
    }

    /// A UDP socket that gives up reading after [`soon`]; port 0 for a free one.
    ///
    /// # Errors
    /// As bind(2).
    pub fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.only(address, Type::DGRAM)?;
        socket.bind(&address.into())?;
        socket.set_read_timeout(Some(soon()))?;
        Ok(socket.into())
    }

    /// A UDP socket on any address and port.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn any_udp(&self) -> UdpSocket {
        self.udp(self.version.everywhere(0)).expect("a free UDP port")
    }

    /// A socket of an address's family, and of that alone.
    fn only(&self, address: SocketAddr, kind: Type) -> io::Result<Socket> {
        let version = Version::of(address.ip());
        let socket = self.socket(version.domain(), kind, None);
        if version == Version::V6 {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }
}

/// Lets a socket send only what needs no fragments, on the path as it is known (IP_PMTUDISC_DO, IPV6_PMTUDISC_DO).
///
/// # Panics
/// When the kernel refuses.
pub fn forbid_fragments(socket: &UdpSocket) {
    use rustix::net::sockopt;
    let local = socket.local_addr().expect("a socket");
    let set = match Version::of(local.ip()) {
        Version::V4 => sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DO),
        Version::V6 => sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DO),
    };
    set.expect("an option");
}

/// How many hops what a socket sends may take.
///
/// # Panics
/// When the kernel refuses.
pub fn set_hops(socket: &UdpSocket, hops: u32) {
    let local = socket.local_addr().expect("a socket");
    let set = match Version::of(local.ip()) {
        Version::V4 => socket.set_ttl(hops),
        Version::V6 => SockRef::from(socket).set_unicast_hops_v6(hops),
    };
    set.expect("an option");
}

/// Connects a socket of any family, with deadlines on the connection and on all that follows.
///
/// # Errors
/// As connect(2).
pub fn connected(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    socket.connect_timeout(&to.into(), soon())?;
    socket.set_read_timeout(Some(soon()))?;
    socket.set_write_timeout(Some(soon()))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

impl Maker {
    fn make(&mut self, domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
        let request = [i32::from(domain), i32::from(kind), protocol.map_or(0, i32::from)];
        self.requests.write_all(request.map(i32::to_le_bytes).as_flattened())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        recvmsg(&self.requests, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let rights = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        rights.map(Socket::from).ok_or_else(|| io::Error::other("the socket maker has sent no socket"))
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // The end of its requests is what ends it; an error here means that it has ended already.
        let _ = self.requests.shutdown(Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// Moves the calling process into a cgroup.
///
/// # Errors
/// As writing to its `cgroup.procs`.
pub fn join_cgroup(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}
