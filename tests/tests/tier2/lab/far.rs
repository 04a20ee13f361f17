//! A machine behind the outside machine, which is a router then.

use std::net::{Ipv4Addr, SocketAddrV4};

use netbpf_tests::place::Place;
use netbpf_user::rig::Namespace;

use super::{Lab, OwnNamespace};

/// A machine one hop behind the outside machine, by a wire of its own.
pub(crate) struct Far {
    pub(crate) place: Place,
    pub(crate) ip: Ipv4Addr,
    // Last: what the place holds ends before.
    _namespace: OwnNamespace,
}

impl Far {
    /// Makes it; `mtu` is what the router takes on the wire between them, of which neither end of a connection knows: this
    /// one believes in 1500.
    #[track_caller]
    pub(crate) fn behind(lab: &Lab, mtu: u32) -> Self {
        let name = lab.name("far");
        let namespace = OwnNamespace::make(&name);
        let place = Place::new(Namespace::named(&name));
        let (ip, router) = (Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 1));
        let mtu = mtu.to_string();
        let link = ["link", "add", "far0", "mtu", &mtu, "type", "veth", "peer", "name", "eth0", "netns", &name];
        lab.ext.command("ip", &link);
        lab.ext.command("ip", &["address", "add", &format!("{router}/24"), "dev", "far0"]);
        lab.ext.command("ip", &["link", "set", "far0", "up"]);
        lab.ext.namespace().sysctl("net/ipv4/ip_forward", "1").unwrap_or_else(|error| panic!("{error}"));
        place.command("ip", &["link", "set", "lo", "up"]);
        place.command("ip", &["address", "add", &format!("{ip}/24"), "dev", "eth0"]);
        place.command("ip", &["link", "set", "eth0", "up"]);
        place.command("ip", &["route", "add", "default", "via", &router.to_string()]);
        Self { place, ip, _namespace: namespace }
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, port)
    }

    /// The MTU of the way here that a place has learned, if it has.
    pub(crate) fn path_mtu(&self, from: &Place) -> Option<u32> {
        let route = from.command("ip", &["route", "get", &self.ip.to_string()]);
        let mut words = route.split_whitespace();
        words.find(|word| *word == "mtu")?;
        words.next()?.parse().ok()
    }
}
