//! A container that sends what it should not.

use netbpf_tests::link::Link;
use netbpf_tests::packet::{Ethernet, Mac};
use netbpf_tests::wait::until;

use super::{Container, Lab};

/// A container with a raw socket on its device.
pub(crate) struct Attacker {
    pub(crate) container: Container,
    pub(crate) link: Link,
    pub(crate) gateway: Mac,
}

impl Attacker {
    pub(crate) fn new(lab: &Lab) -> Self {
        let container = lab.container("attacker", &[]);
        let link = Link::open(&container.place, "eth0");
        let gateway = lab.gateway_mac(&container);
        Self { container, link, gateway }
    }

    /// Its frames to the gateway.
    pub(crate) fn to_gateway(&self) -> Ethernet {
        Ethernet { from: self.link.mac, to: self.gateway }
    }
}

/// Waits until so many packets were dropped for a reason.
#[track_caller]
pub(crate) fn dropped(lab: &Lab, reason: &str, count: u64) {
    until(&format!("{count} drops for {reason}"), || lab.drops(reason) == count);
}
