//! What the tests need of an address family beyond what the paths do: the addresses of the world of [`crate::world`],
//! and the way to the tables of that family. What is the same in both is written once, for any family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netbpf_common::abi::{Network, Subnet};
use netbpf_common::path::{Env, Family, V4, V6};

use crate::memory::{Memory, Tables};
use crate::packet::Mac;
use crate::world::{Prefix, TRANSLATOR};

/// Makes of each `fn name<F: TestFamily>()` the tests `name::v4` and `name::v6`.
#[macro_export]
macro_rules! for_both {
    ($($name:ident),+ $(,)?) => {
        $(
            mod $name {
                #[test]
                fn v4() {
                    super::$name::<netbpf_common::path::V4>();
                }

                #[test]
                fn v6() {
                    super::$name::<netbpf_common::path::V6>();
                }
            }
        )+
    };
}

/// Does something in the family of an address.
#[macro_export]
macro_rules! in_family {
    ($address:expr, $family:ident => $what:expr) => {
        match $address {
            std::net::IpAddr::V4(_) => {
                type $family = netbpf_common::path::V4;
                $what
            }
            std::net::IpAddr::V6(_) => {
                type $family = netbpf_common::path::V6;
                $what
            }
        }
    };
}

/// Does something once in each family, and makes an array of it.
#[macro_export]
macro_rules! in_each_family {
    ($family:ident => $what:expr) => {
        [
            {
                type $family = netbpf_common::path::V4;
                $what
            },
            {
                type $family = netbpf_common::path::V6;
                $what
            },
        ]
    };
}

/// Tables of both families.
pub trait Dual: Env<V4> + Env<V6> {}

impl<E: Env<V4> + Env<V6>> Dual for E {}

/// A family, and what has which address in it.
pub trait TestFamily: Family<Addr: Into<IpAddr>> {
    /// The host to itself.
    const LOOPBACK: IpAddr;
    /// No address.
    const UNSPECIFIED: IpAddr;
    /// Address of the uplink.
    const HOST: IpAddr;
    /// Another address that the uplink may come to have.
    const ALSO_HOST: IpAddr;
    /// A machine outside, also the default gateway.
    const OUTSIDE: IpAddr;
    /// A machine behind the default gateway.
    const FAR: IpAddr;
    /// An address behind [`FOREIGN`](crate::world::FOREIGN).
    const BEHIND_FOREIGN: IpAddr;
    /// An address that is routed into a blackhole.
    const BLACKHOLE: IpAddr;
    /// What leads to the other family, or comes from there: the translator as containers see it, or what stands for it until a
    /// packet crosses over.
    const CROSSING: IpAddr;
    /// An address that is no machine's, though it looks like one.
    const NOWHERE: IpAddr;
    /// First of the addresses of many clients outside, see [`Self::client`].
    const CLIENTS: IpAddr;
    /// First of the virtual addresses.
    const VIRTUAL: IpAddr;
    /// The first address behind the virtual ones that ends as that of the loopback address does.
    const BEYOND_VIRTUAL: IpAddr;
    /// The first network and the second.
    const NETWORKS: [Prefix; 2];
    /// What the networks are seen as outside where they are translated one to one.
    const EXTERNALS: [IpAddr; 2];
    /// Gateway of the first network.
    const GATEWAY: IpAddr;
    /// An address of the first network that nobody has.
    const NOBODY: IpAddr;
    /// A group that everybody in a network may be in.
    const GROUP: IpAddr;
    /// The MAC address of that group.
    const GROUP_MAC: Mac;
    /// Where the IP header has the length, in bytes from the start of the frame.
    const LENGTH_AT: usize;

    /// Virtual address of [`Self::LOOPBACK`].
    const VIRTUAL_LOOPBACK: IpAddr = nth(Self::VIRTUAL, 1);
    /// Virtual address of [`Self::HOST`].
    const VIRTUAL_HOST: IpAddr = nth(Self::VIRTUAL, 2);
    /// Virtual address of [`Self::GATEWAY`].
    const VIRTUAL_GATEWAY: IpAddr = nth(Self::VIRTUAL, 3);
    /// A server in the world.
    const SERVER: SocketAddr = SocketAddr::new(Self::FAR, 443);
    /// A machine that is pinged: an echo has its identifier at the asking side.
    const PINGED: SocketAddr = SocketAddr::new(Self::FAR, 0);
    /// A client outside.
    const CLIENT: SocketAddr = SocketAddr::new(Self::OUTSIDE, 40_000);
    /// The published TCP port of C1.
    const WEB: SocketAddr = SocketAddr::new(Self::HOST, 8080);
    /// The published UDP port of C2.
    const DNS: SocketAddr = SocketAddr::new(Self::HOST, 5353);

    /// The address as it stands in keys.
    ///
    /// # Panics
    /// When it is of the other family.
    fn addr(address: IpAddr) -> Self::Addr;

    /// An address out of the numbers that a strategy draws: of any machine, if [`crate::world::way`] leads to it by the uplink.
    fn anywhere(number: u128) -> IpAddr;

    /// The network's part of this family, to change it.
    fn subnet_of_mut(network: &mut Network) -> &mut Subnet<Self::Addr>;

    /// The tables of the family.
    fn tables(memory: &Memory) -> &Tables<Self>;

    /// The same, to change them.
    fn tables_mut(memory: &mut Memory) -> &mut Tables<Self>;

    /// One of many clients outside.
    #[must_use]
    fn client(number: u32) -> SocketAddr {
        SocketAddr::new(nth(Self::CLIENTS, number), 40_000)
    }
}

impl TestFamily for V4 {
    const LOOPBACK: IpAddr = v4(127, 0, 0, 1);
    const UNSPECIFIED: IpAddr = v4(0, 0, 0, 0);
    const HOST: IpAddr = v4(198, 18, 0, 1);
    const ALSO_HOST: IpAddr = v4(198, 18, 0, 7);
    const OUTSIDE: IpAddr = v4(198, 18, 0, 2);
    const FAR: IpAddr = v4(10, 200, 3, 4);
    const BEHIND_FOREIGN: IpAddr = v4(10, 77, 0, 2);
    const BLACKHOLE: IpAddr = v4(10, 66, 0, 2);
    const CROSSING: IpAddr = TRANSLATOR;
    const NOWHERE: IpAddr = v4(0, 172, 30, 11);
    const CLIENTS: IpAddr = v4(10, 0, 0, 0);
    const VIRTUAL: IpAddr = v4(169, 254, 30, 0);
    const BEYOND_VIRTUAL: IpAddr = v4(169, 254, 31, 1);
    const NETWORKS: [Prefix; 2] = [
        Prefix { address: v4(172, 30, 0, 0), mask: v4(255, 255, 0, 0) },
        Prefix { address: v4(172, 31, 0, 0), mask: v4(255, 255, 0, 0) },
    ];
    const EXTERNALS: [IpAddr; 2] = [v4(198, 51, 0, 0), v4(198, 52, 0, 0)];
    const GATEWAY: IpAddr = v4(172, 30, 0, 1);
    const NOBODY: IpAddr = v4(172, 30, 0, 99);
    const GROUP: IpAddr = v4(224, 0, 0, 251);
    const GROUP_MAC: Mac = [1, 0, 0x5e, 0, 0, 0xfb];
    const LENGTH_AT: usize = 16;

    fn addr(address: IpAddr) -> Self::Addr {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(_) => panic!("{address} among IPv4 addresses"),
        }
    }

    fn anywhere(number: u128) -> IpAddr {
        const UNICAST: std::ops::Range<u32> = 0x0100_0000..0xe000_0000;
        let size = u128::from(UNICAST.end - UNICAST.start);
        Ipv4Addr::from_bits(UNICAST.start + (number % size) as u32).into()
    }

    fn subnet_of_mut(network: &mut Network) -> &mut Subnet<Self::Addr> {
        &mut network.v4
    }

    fn tables(memory: &Memory) -> &Tables<Self> {
        &memory.v4
    }

    fn tables_mut(memory: &mut Memory) -> &mut Tables<Self> {
        &mut memory.v4
    }
}

impl TestFamily for V6 {
    const LOOPBACK: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    const UNSPECIFIED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    const HOST: IpAddr = v6([0xfd00, 0x18, 0, 0, 0, 0, 0, 1]);
    const ALSO_HOST: IpAddr = v6([0xfd00, 0x18, 0, 0, 0, 0, 0, 7]);
    const OUTSIDE: IpAddr = v6([0xfd00, 0x18, 0, 0, 0, 0, 0, 2]);
    const FAR: IpAddr = v6([0xfd00, 0x200, 0, 0, 0, 0, 3, 4]);
    const BEHIND_FOREIGN: IpAddr = v6([0xfd00, 0x77, 0, 0, 0, 0, 0, 2]);
    const BLACKHOLE: IpAddr = v6([0xfd00, 0x66, 0, 0, 0, 0, 0, 2]);
    const CROSSING: IpAddr = v6([0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0x1eff]);
    const NOWHERE: IpAddr = v6([0, 0, 0, 0, 0, 0xffff, 0xac1e, 11]);
    const CLIENTS: IpAddr = v6([0xfd00, 0x100, 0, 0, 0, 0, 0, 0]);
    const VIRTUAL: IpAddr = v6([0xfd00, 0xffff, 0, 0, 0, 0, 0, 0]);
    const BEYOND_VIRTUAL: IpAddr = v6([0xfd00, 0xffff, 0, 0, 0, 0, 0, 0x101]);
    const NETWORKS: [Prefix; 2] = [
        Prefix {
            address: v6([0xfd00, 0x30, 0, 0, 0, 0, 0, 0]),
            mask: v6([0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0]),
        },
        Prefix {
            address: v6([0xfd00, 0x31, 0, 0, 0, 0, 0, 0]),
            mask: v6([0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0]),
        },
    ];
    const EXTERNALS: [IpAddr; 2] = [v6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0]), v6([0x2001, 0xdb8, 0x52, 0, 0, 0, 0, 0])];
    const GATEWAY: IpAddr = v6([0xfd00, 0x30, 0, 0, 0, 0, 0, 1]);
    const NOBODY: IpAddr = v6([0xfd00, 0x30, 0, 0, 0, 0, 0, 0x99]);
    const GROUP: IpAddr = v6([0xff02, 0, 0, 0, 0, 0, 0, 0xfb]);
    const GROUP_MAC: Mac = [0x33, 0x33, 0, 0, 0, 0xfb];
    const LENGTH_AT: usize = 18;

    fn addr(address: IpAddr) -> Self::Addr {
        match address {
            IpAddr::V6(address) => address.into(),
            IpAddr::V4(_) => panic!("{address} among IPv6 addresses"),
        }
    }

    /// Global ones (RFC 4291 section 2.5.4), and local ones (RFC 4193).
    fn anywhere(number: u128) -> IpAddr {
        let (first, bits) = if number & 1 == 0 { (0x2000_u128, 125) } else { (0xfd00, 112) };
        Ipv6Addr::from_bits(first << 112 | number & ((1 << bits) - 1)).into()
    }

    fn subnet_of_mut(network: &mut Network) -> &mut Subnet<Self::Addr> {
        &mut network.v6
    }

    fn tables(memory: &Memory) -> &Tables<Self> {
        &memory.v6
    }

    fn tables_mut(memory: &mut Memory) -> &mut Tables<Self> {
        &mut memory.v6
    }
}

const fn v6(segments: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = segments;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// An address counted from the first of a prefix.
#[must_use]
pub const fn nth(base: IpAddr, number: u32) -> IpAddr {
    match base {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | number)),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | number as u128)),
    }
}
