//! Who has which address in a lab, and how it is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_tests::place::Place;
use netbpf_tests::version::Version;

use super::Lab;

impl Lab {
    pub(crate) fn at_host(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host_ip, port)
    }

    pub(crate) fn at_ext(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ext_ip, port)
    }

    /// All addresses of whoever is asked.
    pub(crate) fn everywhere(&self, port: u16) -> SocketAddr {
        self.version.everywhere(port)
    }

    /// The host to itself.
    pub(crate) fn loopback(&self, port: u16) -> SocketAddr {
        self.version.loopback(port)
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::new(172, 30, 0, 1).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1).into(),
        }
    }

    pub(crate) fn at_gateway(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.gateway(), port)
    }

    /// The virtual address that stands for loopback.
    pub(crate) fn virtual_loopback(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::new(169, 254, 30, 1).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x30, 0, 0, 0, 1).into(),
        }
    }

    pub(crate) fn subnet(&self) -> &'static str {
        match self.version {
            Version::V4 => "172.30.0.0/16",
            Version::V6 => "fd00:172:30::/64",
        }
    }

    /// An address of the subnet, by what stands in its last 16 bits.
    pub(crate) fn nth(&self, number: u16) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::from_bits(0xac1e_0000 + u32::from(number)).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number).into(),
        }
    }

    /// The flag that gives a container an address of its choice.
    pub(crate) fn ip_flag(&self) -> &'static str {
        match self.version {
            Version::V4 => "--ip",
            Version::V6 => "--ip6",
        }
    }

    /// A SPEC on one address.
    pub(crate) fn spec_on(&self, address: impl Into<IpAddr>, ports: &str) -> String {
        match address.into() {
            IpAddr::V4(address) => format!("{address}:{ports}"),
            IpAddr::V6(address) => format!("[{address}]:{ports}"),
        }
    }

    /// A SPEC on loopback alone.
    pub(crate) fn on_loopback(&self, ports: &str) -> String {
        self.spec_on(self.loopback(0).ip(), ports)
    }

    /// A SPEC on the host's address on the wire alone.
    pub(crate) fn on_host(&self, ports: &str) -> String {
        self.spec_on(self.host_ip, ports)
    }

    /// An address with the prefix length of the wire, as `ip` wants it.
    pub(crate) fn on_wire(&self, address: IpAddr) -> String {
        let length = match self.version {
            Version::V4 => 24,
            Version::V6 => 64,
        };
        format!("{address}/{length}")
    }

    /// A command `ip` about the lab's family.
    #[track_caller]
    pub(crate) fn ip(&self, place: &Place, line: &str) -> String {
        let words: Vec<&str> = [self.version.flag()].into_iter().chain(line.split(' ')).collect();
        place.command("ip", &words)
    }

    /// Gives a device of some place an address that can be used at once.
    #[track_caller]
    pub(crate) fn add_address(&self, place: &Place, address: &str, device: &str) {
        let nodad = match self.version {
            Version::V4 => "",
            Version::V6 => " nodad",
        };
        self.ip(place, &format!("address add {address} dev {device}{nodad}"));
    }
}
