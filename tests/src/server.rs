//! Servers that tell each client who answered and under which address it was seen, then echo.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::place::Place;
use crate::wait::{soon, uninterrupted};

/// What a server saw of a client, as it told the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The name the server goes by.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
}

impl Seen {
    fn parse(line: &str) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("no greeting: `{line}`"));
        let (server, client) = line.trim_end().split_once(' ').ok_or_else(broken)?;
        Ok(Self { server: server.to_owned(), client: client.parse().map_err(|_| broken())? })
    }
}

/// A running server; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    listener: Option<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A TCP server on every address that the place has of the version spoken there.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn tcp(place: &Place, name: &str, port: u16) -> Self {
        let address = place.version().everywhere(port);
        let listener = place.listen(address).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut server =
            Self { stop, answered, listener: Some(listener.try_clone().expect("a descriptor")), thread: None };
        let (stop, answered, name) = (server.stop.clone(), server.answered.clone(), name.to_owned());
        server.thread = Some(thread::spawn(move || {
            while let Ok((stream, client)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                answered.fetch_add(1, Ordering::Relaxed);
                let name = name.clone();
                // A client that went away is the client's affair.
                thread::spawn(move || _ = greet_and_echo(&stream, &name, client));
            }
        }));
        server
    }

    /// A UDP server on every address that the place has of the version spoken there: it answers each datagram with a greeting and the datagram.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn udp(place: &Place, name: &str, port: u16) -> Self {
        let address = place.version().everywhere(port);
        let socket = place.udp(address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut server = Self { stop, answered, listener: None, thread: None };
        let (stop, answered, name) = (server.stop.clone(), server.answered.clone(), name.to_owned());
        server.thread = Some(thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                // The time runs out to look at `stop`; an ICMP error for an earlier answer is none of ours.
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                answered.fetch_add(1, Ordering::Relaxed);
                let mut answer = format!("{name} {client}\n").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                let _ = socket.send_to(&answer, client);
            }
        }));
        server
    }

    /// Connections or datagrams that have reached it.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // Wakes accept(2); it fails only when the listener is down already.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server for as many connections as go through: it sends one byte and closes.
#[derive(Debug)]
pub struct Counter {
    answered: Arc<AtomicU64>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Counter {
    /// Serves a listener.
    ///
    /// # Panics
    /// When there are no descriptors.
    pub fn serve(listener: TcpListener) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let (count, own) = (answered.clone(), listener.try_clone().expect("a descriptor"));
        let thread = thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // A client that went away is the client's affair, and is not counted.
                if stream.write_all(b"!").is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { answered, listener: own, thread: Some(thread) }
    }

    /// Connections that were served.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Wakes accept(2); it fails only when the listener is down already.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection to a [`Counter`], from the namespace of the calling thread: its byte, and its end.
///
/// # Errors
/// When it is refused, breaks or does not end.
pub fn one_byte(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, soon())?;
    stream.set_read_timeout(Some(soon()))?;
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes[..1])?;
    match uninterrupted(|| stream.read(&mut bytes))? {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "more than a byte")),
    }
}

fn greet_and_echo(mut stream: &TcpStream, name: &str, client: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name} {client}\n").as_bytes())?;
    io::copy(&mut &*stream, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

/// A connection to a [`Server`] that has been greeted.
#[derive(Debug)]
pub struct Conversation {
    reader: BufReader<TcpStream>,
    /// What the server saw.
    pub seen: Seen,
}

impl Conversation {
    /// Reads the greeting.
    ///
    /// # Errors
    /// When the connection breaks or says something else.
    pub fn on(stream: TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok(Self { seen: Seen::parse(&line)?, reader })
    }

    /// Sends and reads the echo.
    ///
    /// # Errors
    /// When the connection breaks or the echo differs.
    pub fn exchange(&mut self, message: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(message)?;
        let mut echo = vec![0; message.len()];
        self.reader.read_exact(&mut echo)?;
        if echo == message { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "the echo differs")) }
    }

    /// The connection.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Ends it from both sides in good order.
    ///
    /// # Errors
    /// When the other side does not end it within [`soon`].
    pub fn close(mut self) -> io::Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)?;
        match uninterrupted(|| self.reader.read(&mut [0]))? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the end")),
        }
    }
}

/// A whole conversation with a TCP server, from greeting to orderly end.
///
/// # Errors
/// When the connection is refused, breaks or is not with a [`Server`].
pub fn ask_tcp(from: &Place, to: SocketAddr) -> io::Result<Seen> {
    converse(from.connect(to)?)
}

/// As [`ask_tcp`], on a connection that stands.
///
/// # Errors
/// When it breaks or is not with a [`Server`].
pub fn converse(stream: TcpStream) -> io::Result<Seen> {
    let mut conversation = Conversation::on(stream)?;
    conversation.exchange(b"how do you do")?;
    let seen = conversation.seen.clone();
    conversation.close()?;
    Ok(seen)
}

/// One datagram and its answer: what the server saw, and where the answer came from.
///
/// # Errors
/// When no answer comes within the socket's timeout, or not that of a [`Server`].
pub fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> io::Result<(Seen, SocketAddr)> {
    socket.send_to(b"how do you do", to)?;
    receive_answer(socket)
}

/// The answer to a datagram that has been sent.
///
/// # Errors
/// As [`ask_udp`].
pub fn receive_answer(socket: &UdpSocket) -> io::Result<(Seen, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer))?;
    let answer = String::from_utf8_lossy(&buffer[..length]);
    let (greeting, echo) = answer.split_once('\n').unwrap_or((&answer, ""));
    if echo != "how do you do" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: `{answer}`")));
    }
    Ok((Seen::parse(greeting)?, from))
}

/// Whether nobody answers a datagram for `silence`.
///
/// # Panics
/// When it cannot be sent.
pub fn unanswered_udp(socket: &UdpSocket, to: SocketAddr, silence: Duration) -> bool {
    socket.set_read_timeout(Some(silence)).expect("a timeout");
    // Sending may report the ICMP error for an earlier datagram: that is no answer either.
    let _ = socket.send_to(b"how do you do", to);
    let answer = uninterrupted(|| socket.recv_from(&mut [0; 2048]));
    socket.set_read_timeout(Some(soon())).expect("a timeout");
    answer.is_err()
}
