//! What the fuzz targets do with their bytes. The targets themselves (`tests/fuzz`) are one call each, so
//! that what was found once runs in every `cargo test`.

#[cfg(feature = "api")]
pub mod api;
pub mod lives;
pub mod parse;
pub mod paths;
mod tape;

use std::fmt::{Debug, Write as _};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::thread;

use netbpf_common::abi::GatewayMode;
use netbpf_common::wire::protocol;

use crate::fixture::{self, Step};
use crate::in_each_family;
use crate::instance::{SERVICES, addresses};
use crate::packet::BROADCAST;
use crate::world::{CONTAINERS, GATEWAY_MAC, OUTSIDE_MAC, UPLINK_MAC};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its program in `tests/fuzz/src/bin`.
    pub name: &'static str,
    /// Takes any bytes, and panics when it finds something.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them; that of the API is built with the agent alone.
pub const TARGETS: &[Target] = &[
    Target { name: "parse", run: parse::run, seeds: parse::seeds },
    Target { name: "paths", run: paths::run, seeds: paths::seeds },
    Target { name: "lives", run: lives::run, seeds: lives::seeds },
    #[cfg(feature = "api")]
    Target { name: "api", run: api::run, seeds: api::seeds },
];

/// Rings of half-open flows: one that is soon full, and one that is not.
const RINGS: [u32; 3] = [2, 8, 128];
/// Sizes of flow tables: the same.
const CAPACITIES: [usize; 3] = [7, 16, usize::MAX];

/// How networks reach the world: chosen by bits that once chose nothing, so that inputs of that time say what they said.
const MODES: [GatewayMode; 4] =
    [GatewayMode::Masquerade, GatewayMode::Routed, GatewayMode::Prefix, GatewayMode::Closed];

/// How a tape begins in the family of an address: its first two bytes choose the last ring and the last capacity.
const fn begun(address: IpAddr) -> [u8; 2] {
    match address {
        IpAddr::V4(_) => [2, 2],
        IpAddr::V6(_) => [tape::IPV6, 2],
    }
}

/// What stands in packets of the world, one entry a line as libFuzzer reads it.
pub fn dictionary() -> String {
    let macs = [BROADCAST, GATEWAY_MAC, OUTSIDE_MAC, UPLINK_MAC].into_iter().chain(CONTAINERS.map(|c| c.mac));
    let addresses = in_each_family!(F => addresses::<F>()).into_iter().flatten().map(octets);
    let ports = SERVICES.map(u16::to_be_bytes);
    // EtherType and the first bytes of an IP header, or of an ARP packet.
    let beginnings: [&[u8]; 3] = [&[8, 0, 0x45, 0], &[8, 0, 0x46, 0], &[8, 6, 0, 1, 8, 0, 6, 4, 0]];
    let protocols = [protocol::ICMP, protocol::TCP, protocol::UDP, protocol::SCTP].map(|number| [64, number]);
    let words = macs.map(Vec::from).chain(addresses).chain(ports.map(Vec::from));
    let words = words.chain(beginnings.map(Vec::from)).chain(protocols.map(Vec::from));
    #[cfg(feature = "api")]
    let words = words.chain(api::WORDS.map(Vec::from));
    let mut text = String::new();
    for word in words {
        let escaped = word.iter().fold(String::new(), |mut escaped, byte| {
            write!(escaped, "\\x{byte:02x}").expect("a String takes all");
            escaped
        });
        writeln!(text, "\"{escaped}\"").expect("a String takes all");
    }
    text
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The packets of all fixtures.
fn steps() -> &'static [Step] {
    static STEPS: OnceLock<Vec<Step>> = OnceLock::new();
    STEPS.get_or_init(|| fixture::all().into_iter().flat_map(|fixture| fixture.steps).collect())
}

/// What a target did, told when it comes to a panic. A fuzzer stops before that: `cargo test` tells.
struct Story<T: Debug>(Vec<T>);

impl<T: Debug> Drop for Story<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            for (number, event) in self.0.iter().enumerate() {
                eprintln!("{number:>4} {event:x?}");
            }
        }
    }
}
