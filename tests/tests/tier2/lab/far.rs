//! A machine behind the outside machine, which is a router then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_tests::place::Place;
use netbpf_tests::version::Version;
use netbpf_user::rig::Namespace;

use super::{Lab, OwnNamespace};

/// A machine one hop behind the outside machine, by a wire of its own.
pub(crate) struct Far {
    pub(crate) place: Place,
    pub(crate) ip: IpAddr,
    /// The outside machine, as it is seen from here.
    pub(crate) router: IpAddr,
    // Last: what the place holds ends before.
    _namespace: OwnNamespace,
}

impl Far {
    /// Makes it; `mtu` is what the router sends to it at most, of which neither end of a connection knows. By a route: a device
    /// that is made for less than its other end swallows what that sends, and whatever is repeated of it.
    #[track_caller]
    pub(crate) fn behind(lab: &Lab, mtu: u32) -> Self {
        let name = lab.name("far");
        let namespace = OwnNamespace::make(&name);
        let place = Place::new(Namespace::named(&name), lab.version);
        let (ip, router): (IpAddr, IpAddr) = match lab.version {
            Version::V4 => (Ipv4Addr::new(10, 99, 0, 2).into(), Ipv4Addr::new(10, 99, 0, 1).into()),
            Version::V6 => {
                let nth = |number| Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, number);
                (nth(2).into(), nth(1).into())
            }
        };
        let link = ["link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns", &name];
        lab.ext.command("ip", &link);
        lab.add_address(&lab.ext, &lab.on_wire(router), "far0");
        lab.ext.command("ip", &["link", "set", "far0", "up"]);
        lab.ip(&lab.ext, &format!("route add {ip} dev far0 mtu lock {mtu}"));
        for forwarding in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.ext.namespace().sysctl(forwarding, "1").unwrap_or_else(|error| panic!("{error}"));
        }
        place.command("ip", &["link", "set", "lo", "up"]);
        lab.add_address(&place, &lab.on_wire(ip), "eth0");
        place.command("ip", &["link", "set", "eth0", "up"]);
        lab.ip(&place, &format!("route add default via {router}"));
        Self { place, ip, router, _namespace: namespace }
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// The MTU of the way here that a place has learned, if it has.
    pub(crate) fn path_mtu(&self, from: &Place) -> Option<u32> {
        let route = from.command("ip", &["route", "get", &self.ip.to_string()]);
        let mut words = route.split_whitespace();
        words.find(|word| *word == "mtu")?;
        words.next()?.parse().ok()
    }
}
