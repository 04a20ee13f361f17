//! Frames as they were read from a wire.

use std::net::{IpAddr, SocketAddr};

use etherparse::{SlicedPacket, TransportSlice};

use crate::headers::Headers;

/// A UDP datagram as it was read from the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// Checksum as it stands in the header.
    pub checksum: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Reads a frame; nothing when it holds no UDP.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination) = addresses(frame)?;
        match packet.transport? {
            TransportSlice::Udp(udp) => Some(Self {
                from: SocketAddr::new(source, udp.source_port()),
                to: SocketAddr::new(destination, udp.destination_port()),
                checksum: udp.checksum(),
                payload: udp.payload().to_vec(),
            }),
            _ => None,
        }
    }
}

/// Source and destination address of a frame that holds IP.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    Headers::read(frame).map(|headers| (headers.source, headers.destination))
}

/// Destination port and the flags SYN and RST of a frame that holds TCP.
pub fn tcp_flags(frame: &[u8]) -> Option<(u16, bool, bool)> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some((tcp.destination_port(), tcp.syn(), tcp.rst())),
        _ => None,
    }
}
