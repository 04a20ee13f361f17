//! Pings with an identifier of one's choice.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4Slice};
use socket2::{Domain, Protocol, Socket, Type};

use crate::place::Place;

/// Sends echo requests under one identifier and reads what ICMP comes back.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    id: u16,
}

/// An ICMP message that has come in.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// Its type and what belongs to it.
    pub kind: Icmpv4Type,
    /// What follows the ICMP header.
    pub payload: Vec<u8>,
}

impl Pinger {
    /// A raw ICMP socket: it reads all the ICMP that reaches the place.
    pub fn new(place: &Place, id: u16) -> Self {
        Self { socket: place.socket(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)), id }
    }

    /// Sends an echo request.
    ///
    /// # Errors
    /// As send(2).
    pub fn send(&self, to: Ipv4Addr, seq: u16, payload: &[u8]) -> io::Result<()> {
        let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: self.id, seq });
        let mut message = Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec();
        message.extend_from_slice(payload);
        self.socket.send_to(&message, &SocketAddr::V4(SocketAddrV4::new(to, 0)).into()).map(drop)
    }

    /// The next echo reply under this identifier within `time`: from whom, its sequence number, its payload.
    pub fn reply(&self, time: Duration) -> Option<(Ipv4Addr, u16, Vec<u8>)> {
        self.find(time, |message| match message.kind {
            Icmpv4Type::EchoReply(echo) if echo.id == self.id => Some((message.from, echo.seq, message.payload)),
            _ => None,
        })
    }

    /// The next message within `time` that is what is wanted.
    ///
    /// # Panics
    /// When the kernel hands over something that is not IPv4.
    pub fn find<T>(&self, time: Duration, mut wanted: impl FnMut(Message) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let Ok(length) = (&self.socket).read(&mut buffer) else { continue };
            let ip = Ipv4Slice::from_slice(&buffer[..length]).expect("a raw socket reads whole IPv4 packets");
            let Ok(icmp) = Icmpv4Slice::from_slice(ip.payload().payload) else { continue };
            let from = ip.header().source_addr();
            let message = Message { from, kind: icmp.icmp_type(), payload: icmp.payload().to_vec() };
            if let Some(found) = wanted(message) {
                return Some(found);
            }
        }
    }
}
