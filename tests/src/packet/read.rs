//! Frames of IPv4 as they were read from a wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{SlicedPacket, TransportSlice};

/// A UDP datagram as it was read from the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source address and port.
    pub from: SocketAddrV4,
    /// Destination address and port.
    pub to: SocketAddrV4,
    /// Checksum as it stands in the header.
    pub checksum: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Reads a frame; nothing when it holds no UDP over IPv4.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination) = ipv4_addresses(frame)?;
        match packet.transport? {
            TransportSlice::Udp(udp) => Some(Self {
                from: SocketAddrV4::new(source, udp.source_port()),
                to: SocketAddrV4::new(destination, udp.destination_port()),
                checksum: udp.checksum(),
                payload: udp.payload().to_vec(),
            }),
            _ => None,
        }
    }
}

/// Source and destination address of a frame that holds IPv4.
pub fn ipv4_addresses(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let net = packet.net?;
    let ip = net.ipv4_ref()?.header();
    Some((ip.source_addr(), ip.destination_addr()))
}

/// Destination port and the flags SYN and RST of a frame that holds TCP over IPv4.
pub fn tcp_flags(frame: &[u8]) -> Option<(u16, bool, bool)> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some((tcp.destination_port(), tcp.syn(), tcp.rst())),
        _ => None,
    }
}
