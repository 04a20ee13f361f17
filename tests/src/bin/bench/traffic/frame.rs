//! The shortest frame, of which all others are made.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use etherparse::{Ipv4Header, PacketBuilder};
use netbpf_tests::link::Link;
use netbpf_tests::packet::Mac;
use netbpf_tests::place::Place;
use netbpf_tests::version::Version;

use super::Flows;
use crate::site::{DEVICE, Way, json};

/// The shortest frame of Ethernet, without its checksum.
pub(super) const LENGTH: usize = 60;
pub(super) const HEADERS: usize = 42;
const ETHERNET: usize = 14;
/// The first source port, within netbpf's NAT range.
const FIRST_PORT: u16 = 16_384;
/// Where made-up clients are, when they may be anywhere.
const ANYBODY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// A frame, and what is in it.
pub(super) struct First {
    pub(super) to_mac: Mac,
    pub(super) source: (Ipv4Addr, u16),
    pub(super) destination: (Ipv4Addr, u16),
    pub(super) bytes: Vec<u8>,
}

/// The frame of the first flow. Whoever has spoken over the way has asked for the MAC address: see `work::packets`.
pub(super) fn first(way: &Way) -> Result<First> {
    let to = way.address.ip().to_string();
    let route = json(&way.from, &["-json", "route", "get", &to])?;
    let text = |key: &str| route[0][key].as_str().map(str::to_owned);
    let source: Ipv4Addr = text("prefsrc").context("a route has a source address")?.parse()?;
    let hop = text("gateway").unwrap_or_else(|| to.clone());
    let mac = |value: &serde_json::Value, key: &str| {
        value[0][key].as_str().map(netbpf_tests::link::parse_mac).with_context(|| format!("{hop} has a MAC address"))
    };
    let neighbour = json(&way.from, &["-json", "neighbour", "show", "to", &hop, "dev", DEVICE])?;
    let link = json(&way.from, &["-json", "link", "show", "dev", DEVICE])?;
    let std::net::IpAddr::V4(destination) = way.address.ip() else { unreachable!("all ways are of IPv4") };
    let (source, destination) =
        ((if way.from_anybody { ANYBODY } else { source }, FIRST_PORT), (destination, way.address.port()));
    let to_mac = mac(&neighbour, "lladdr")?;
    let builder = PacketBuilder::ethernet2(mac(&link, "address")?, to_mac)
        .ipv4(source.0.octets(), destination.0.octets(), 64)
        .udp(source.1, destination.1);
    let mut bytes = Vec::with_capacity(LENGTH);
    builder.write(&mut bytes, &[0; LENGTH - HEADERS])?;
    // What is taken from the identification must be there, or the sum would be one off.
    let (mut header, _) = Ipv4Header::from_slice(&bytes[ETHERNET..])?;
    header.identification = u16::MAX;
    header.header_checksum = header.calc_header_checksum();
    bytes[ETHERNET..][..header.header_len()].copy_from_slice(&header.to_bytes());
    // No checksum: it would be another one for each flow (RFC 768 allows it).
    bytes[40..42].fill(0);
    Ok(First { to_mac, source, destination, bytes })
}

/// Sends packets of some flows by a socket: each so often before the next one speaks, so that answers come in between.
pub(crate) fn speak_all(way: &Way, flows: Flows, times: usize) -> Result<()> {
    let first = first(way)?.bytes;
    let link = Link::open(&Place::new(way.from.clone(), Version::V4), DEVICE);
    let mut frame = first.clone();
    for (address, port) in flows.each() {
        // As the program does it.
        for (offset, more) in [(18, address.wrapping_neg()), (28, address), (34, port)] {
            let field = u16::from_be_bytes([first[offset], first[offset + 1]]).wrapping_add(more);
            frame[offset..offset + 2].copy_from_slice(&field.to_be_bytes());
        }
        (0..times).for_each(|_| link.send(&frame));
    }
    Ok(())
}
