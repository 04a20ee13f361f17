//! Real sockets between the machines of a rig: what arrives, and who is seen to have sent it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::error::{Doing as _, RigError};
use super::namespace::Namespace;

/// How long anything on one machine may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Enough for many segments, little enough for the buffers of both sockets.
const PAYLOAD: usize = 64 << 10;

/// What both ends of an exchange saw of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Whom the client took for the server.
    pub server: SocketAddr,
    /// Whom the server took for the client.
    pub client: SocketAddr,
}

/// Sends 64 KiB from a client to a server that listens on `port`, and back, and compares them.
///
/// # Errors
/// When there is no connection within two seconds, or what comes back is not what was sent.
pub fn tcp(client: &Namespace, to: impl Into<SocketAddr>, server: &Namespace, port: u16) -> Result<Exchange, RigError> {
    let to = to.into();
    let listener = server.enter(|| TcpListener::bind((any(to), port)))?;
    let listener = listener.doing(|| format!("listen on port {port} in {}", server.name()))?;
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))
        .doing(|| "set a deadline".into())?;
    let doing = || format!("exchange data with {to} over TCP");
    thread::scope(|scope| {
        let served = scope.spawn(|| echo(&listener));
        let asked = client.enter(|| ask(to))?.map_err(patient).doing(doing);
        let served = served.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Exchange { server: asked?, client: served.map_err(patient).doing(doing)? })
    })
}

/// All addresses of the family of an address.
fn any(of: SocketAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// What EAGAIN says of a socket with a deadline.
fn patient(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => {
            io::Error::new(ErrorKind::TimedOut, format!("nothing came within {} s", PATIENCE.as_secs()))
        }
        _ => error,
    }
}

fn echo(listener: &TcpListener) -> io::Result<SocketAddr> {
    let (mut stream, client) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut payload = vec![0; PAYLOAD];
    stream.read_exact(&mut payload)?;
    stream.write_all(&payload)?;
    Ok(client)
}

fn ask(to: SocketAddr) -> io::Result<SocketAddr> {
    let mut stream = connect(to)?;
    let payload: Vec<u8> = (0..PAYLOAD as u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stream.write_all(&payload)?;
    let mut answer = vec![0; PAYLOAD];
    stream.read_exact(&mut answer)?;
    if answer != payload {
        return Err(io::Error::new(ErrorKind::InvalidData, "what came back is not what was sent"));
    }
    stream.peer_addr()
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects where nothing should answer, and succeeds when the connection is refused.
///
/// # Errors
/// When it is not.
pub fn tcp_refused(client: &Namespace, to: impl Into<SocketAddr>) -> Result<(), RigError> {
    let to = to.into();
    let doing = || format!("be refused by {to}");
    match client.enter(|| connect(to))? {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).doing(doing),
        Ok(_) => Err(RigError::new(doing(), "it accepts connections")),
    }
}

/// Sends a datagram from a client to a server on `port`, and back.
///
/// # Errors
/// When none comes back within two seconds, or not what was sent.
pub fn udp(client: &Namespace, to: impl Into<SocketAddr>, server: &Namespace, port: u16) -> Result<Exchange, RigError> {
    let to = to.into();
    let doing = || format!("exchange a datagram with {to}");
    let bind = |namespace: &Namespace, port| {
        let socket = namespace.enter(|| UdpSocket::bind((any(to), port)))?.doing(doing)?;
        socket.set_read_timeout(Some(PATIENCE)).doing(doing)?;
        Ok::<_, RigError>(socket)
    };
    let (asking, serving) = (bind(client, 0)?, bind(server, port)?);
    let question = b"who are you?";
    let mut buffer = [0; 64];
    asking.send_to(question, to).doing(doing)?;
    let (length, from) = serving.recv_from(&mut buffer).map_err(patient).doing(doing)?;
    serving.send_to(&buffer[..length], from).doing(doing)?;
    let (length, server) = asking.recv_from(&mut buffer).map_err(patient).doing(doing)?;
    if &buffer[..length] != question {
        return Err(RigError::new(doing(), "what came back is not what was sent"));
    }
    Ok(Exchange { server, client: from })
}

/// Pings an address and waits for the reply.
///
/// # Errors
/// When none comes within two seconds.
pub fn ping(client: &Namespace, to: impl Into<IpAddr>) -> Result<(), RigError> {
    let to = to.into();
    // Types of the messages: RFC 792, RFC 4443.
    let (family, icmp, request, answer) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let doing = || format!("ping {to}");
    // Ping sockets leave identifier and checksum to the kernel; a new namespace allows them to nobody.
    client.sysctl("net/ipv4/ping_group_range", "0 0")?;
    let open = || socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, icmp);
    let socket = UdpSocket::from(client.enter(open)?.doing(doing)?);
    socket.set_read_timeout(Some(PATIENCE)).doing(doing)?;
    let echo_request = [request, 0, 0, 0, 0, 0, 0, 1, b'p', b'i', b'n', b'g'];
    socket.send_to(&echo_request, (to, 0)).doing(doing)?;
    let mut reply = [0; 64];
    let (length, from) = socket.recv_from(&mut reply).map_err(patient).doing(doing)?;
    if from.ip() != to || reply[0] != answer || &reply[8..length] != b"ping" {
        return Err(RigError::new(doing(), format!("{from} sent something else")));
    }
    Ok(())
}
