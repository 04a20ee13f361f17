//! What IPv6 alone has.

mod discovery;
mod extensions;
mod labels;
mod minimum;
mod one_family;
mod prefix;
mod sources;
mod translation;

use std::net::{IpAddr, Ipv6Addr};

use netbpf_common::path::V6;

use crate::lab::{Container, Lab};

fn lab() -> Lab {
    Lab::new::<V6>()
}

fn ip(container: &Container) -> Ipv6Addr {
    container.ip6.expect("it has IPv6")
}

#[track_caller]
fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("{address} is no IPv6 address") };
    address
}
