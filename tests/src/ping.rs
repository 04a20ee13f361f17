//! Pings with an identifier of one's choice.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Ipv4Slice};
use socket2::Type;

use crate::packet::IcmpError;
use crate::place::Place;
use crate::version::Version;

/// Length of the header of an ICMP message.
const ICMP: usize = 8;

/// Sends echo requests under one identifier and reads what ICMP comes back.
#[derive(Debug)]
pub struct Pinger {
    // A raw socket: it sends and receives as one of UDP does.
    socket: UdpSocket,
    version: Version,
    id: u16,
}

/// An ICMP message that has come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sent it.
    pub from: IpAddr,
    /// Its type and its code.
    pub kind: [u8; 2],
    /// What follows the checksum: identifier and sequence number, or the MTU.
    pub word: u32,
    /// What follows the ICMP header.
    pub payload: Vec<u8>,
}

impl Message {
    /// Whether it is this error.
    pub fn is(&self, error: IcmpError) -> bool {
        self.kind == error.kind_and_code(self.from)
    }

    fn parse(from: IpAddr, message: &[u8]) -> Option<Self> {
        let [kind, code, _, _, word @ ..] = *message.first_chunk::<ICMP>()?;
        Some(Self { from, kind: [kind, code], word: u32::from_be_bytes(word), payload: message[ICMP..].to_vec() })
    }
}

impl Pinger {
    /// A raw ICMP socket: it reads all the ICMP that reaches the place.
    pub fn new(place: &Place, id: u16) -> Self {
        let version = place.version();
        let socket = place.socket(version.domain(), Type::RAW, Some(version.icmp()));
        Self { socket: socket.into(), version, id }
    }

    /// Sends an echo request.
    ///
    /// # Errors
    /// As send(2).
    pub fn send(&self, to: IpAddr, seq: u16, payload: &[u8]) -> io::Result<()> {
        let echo = IcmpEchoHeader { id: self.id, seq };
        let mut message = match self.version {
            Version::V4 => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), payload).to_bytes().to_vec(),
            // The kernel knows the source address, and with it the checksum (RFC 3542 section 3.1).
            Version::V6 => [&[128, 0, 0, 0][..], &echo.to_bytes()].concat(),
        };
        message.extend_from_slice(payload);
        self.socket.send_to(&message, (to, 0)).map(drop)
    }

    /// The next echo reply under this identifier within `time`: from whom, its sequence number, its payload.
    pub fn reply(&self, time: Duration) -> Option<(IpAddr, u16, Vec<u8>)> {
        let kind = match self.version {
            Version::V4 => [0, 0],
            Version::V6 => [129, 0],
        };
        self.find(time, |message| {
            let is_own = message.kind == kind && message.word >> 16 == u32::from(self.id);
            is_own.then_some((message.from, message.word as u16, message.payload))
        })
    }

    /// The next message within `time` that is what is wanted.
    ///
    /// # Panics
    /// When the kernel hands over something that is not IP.
    pub fn find<T>(&self, time: Duration, mut wanted: impl FnMut(Message) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { continue };
            let (read, from) = (&buffer[..length], from.ip());
            let message = match self.version {
                Version::V4 => {
                    let ip = Ipv4Slice::from_slice(read).expect("a raw socket of IPv4 reads whole packets");
                    Message::parse(from, ip.payload().payload)
                }
                Version::V6 => Message::parse(from, read),
            };
            if let Some(found) = message.and_then(&mut wanted) {
                return Some(found);
            }
        }
    }
}
