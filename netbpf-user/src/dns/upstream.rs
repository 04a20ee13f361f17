//! One question to one server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};

use super::frames::{self, Frames};
use super::message::{Transport, Verdict, id, set_id, verdict};

/// Datagrams that are no answer, after which a socket is given up: somebody tries identifiers.
const FORGERIES: usize = 64;

/// What a server has answered, under the identifier of the query.
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    pub(super) verdict: Verdict,
}

/// Asks, and waits as long as it takes. The query goes out as it is, but for an identifier that is drawn anew; so is the source port, by
/// the kernel. What comes from elsewhere, or answers something else, is passed over.
pub(super) async fn ask(server: SocketAddr, transport: Transport, query: &[u8]) -> io::Result<Answer> {
    let mut sent = query.to_vec();
    set_id(&mut sent, rand::random());
    let (mut message, verdict) = match transport {
        Transport::Udp => over_udp(server, &sent).await?,
        Transport::Tcp => over_tcp(server, &sent).await?,
    };
    set_id(&mut message, id(query));
    Ok(Answer { message, verdict })
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<(Vec<u8>, Verdict)> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // The kernel drops what comes from others, and tells of a port that is closed.
    socket.connect(server).await?;
    socket.send(query).await?;
    for _ in 0..FORGERIES {
        // An error alone does not make it readable.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error()
            && let Some(error) = socket.take_error()?
        {
            return Err(error);
        }
        // Room for any datagram, and only while it is looked at.
        let mut answer = Vec::with_capacity(usize::from(u16::MAX));
        match socket.try_recv_buf(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(verdict) = verdict(query, &answer) {
            answer.shrink_to_fit();
            return Ok((answer, verdict));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<(Vec<u8>, Verdict)> {
    let mut stream = TcpStream::connect(server).await?;
    frames::send(&mut stream, query).await?;
    let answer = Frames::default().next(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let verdict = verdict(query, &answer).ok_or(io::ErrorKind::InvalidData)?;
    Ok((answer, verdict))
}
