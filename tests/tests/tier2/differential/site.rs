//! Who has which address, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_tests::version::Version;
use netbpf_user::rig::Rig;

/// An address of each family under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Site {
    name: &'static str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// A site with a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub(super) site: Site,
    pub(super) port: u16,
}

pub(super) const HOST: Site = site("host", Rig::HOST_IP, Rig::HOST_IP6);
pub(super) const EXT: Site = site("ext", Rig::EXT_IP, Rig::EXT_IP6);
pub(super) const GATEWAY: Site = inside("gateway", 1);
pub(super) const C1: Site = inside("c1", 2);
pub(super) const C2: Site = inside("c2", 3);
/// No container has it.
pub(super) const NOBODY: Site = inside("nobody", 0x63);
/// Behind ext, by a wire of [`FAR_MTU`].
pub(super) const FAR: Site = behind_ext("far", 0, 9);
pub(super) const FAR_MTU: u16 = 1300;
/// Ext, as FAR sees it.
pub(super) const ROUTER_OF_FAR: Site = behind_ext("router of far", 0, 1);
/// Ext has no way there, and says so: host unreachable, and forbidden.
pub(super) const UNREACHABLE: Site = behind_ext("unreachable", 1, 9);
pub(super) const PROHIBITED: Site = behind_ext("prohibited", 2, 9);
/// On the wire between ext and the host.
pub(super) const ROUTER: Site =
    site("router", Ipv4Addr::new(198, 18, 0, 254), Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 0xfe));
pub(super) const LOOPBACK: Site = site("loopback", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
pub(super) const UNSPECIFIED: Site = site("nowhere", Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
/// Everybody on the link.
pub(super) const EVERYBODY: Site = site("everybody", Ipv4Addr::BROADCAST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
pub(super) const GROUP: Site =
    site("group", Ipv4Addr::new(224, 0, 0, 251), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
pub(super) const STRANGER: Site =
    site("stranger", Ipv4Addr::new(9, 9, 9, 9), Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 9));
/// Nobody has been given these: 240.0.0.0/4 (RFC 1112), 4000::/3 (RFC 4291 section 2.4).
pub(super) const RESERVED: Site =
    site("reserved", Ipv4Addr::new(240, 0, 0, 1), Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 1));
/// Of a link, without being anybody's.
pub(super) const LINK_LOCAL: Site =
    site("link-local", Ipv4Addr::new(169, 254, 77, 7), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 7));
/// Stands for the host's address on the wire in sockets of the host.
pub(super) const VIRTUAL: Site =
    site("virtual host", Ipv4Addr::new(169, 254, 30, 3), Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x30, 0, 0, 0, 2));

const NAMED: [Site; 13] =
    [HOST, EXT, GATEWAY, C1, C2, NOBODY, FAR, ROUTER_OF_FAR, UNREACHABLE, PROHIBITED, ROUTER, LINK_LOCAL, VIRTUAL];

impl Site {
    /// Its address of a family.
    pub(super) const fn of(self, version: Version) -> IpAddr {
        match version {
            Version::V4 => IpAddr::V4(self.v4),
            Version::V6 => IpAddr::V6(self.v6),
        }
    }
}

impl Spot {
    /// Its address of a family.
    pub(super) const fn of(self, version: Version) -> SocketAddr {
        SocketAddr::new(self.site.of(version), self.port)
    }
}

/// A site with a port.
pub(super) const fn at(site: Site, port: u16) -> Spot {
    Spot { site, port }
}

/// A name for an address.
pub(super) fn name(address: IpAddr) -> String {
    let known = NAMED.iter().find(|site| site.of(Version::of(address)) == address);
    known.map_or_else(|| address.to_string(), |site| site.name.into())
}

const fn site(name: &'static str, v4: Ipv4Addr, v6: Ipv6Addr) -> Site {
    Site { name, v4, v6 }
}

/// In the network of the containers.
const fn inside(name: &'static str, last: u8) -> Site {
    let v6 = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, last as u16);
    site(name, Ipv4Addr::new(172, 30, 0, last), v6)
}

/// In a network that ext routes to.
const fn behind_ext(name: &'static str, network: u8, last: u8) -> Site {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x19, network as u16, 0, 0, 0, last as u16);
    site(name, Ipv4Addr::new(198, 19, network, last), v6)
}
