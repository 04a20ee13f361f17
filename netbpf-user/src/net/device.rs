//! Devices: pairs with chosen numbers, and the list of what is there.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures_util::TryStreamExt as _;
use netbpf_common::wire::Mac;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoNetkit, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, LinkXdp, NetkitMode,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Netlink, accept, describe, errno};
use crate::config::DeviceKind;
use crate::error::{Error, Result};
use crate::failpoint;

/// A device as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Number.
    pub(crate) ifindex: u32,
    /// Name.
    pub(crate) name: String,
    /// MAC address, where it has one.
    pub(crate) mac: Option<Mac>,
    /// MTU, in bytes.
    pub(crate) mtu: u32,
    /// Whether it is set up.
    pub(crate) is_up: bool,
    /// Whether it is a veth.
    pub(crate) is_veth: bool,
    /// Whether it is a netkit.
    pub(crate) is_netkit: bool,
    /// Whether a process of the host is behind it: a tun or a tap.
    pub(crate) is_tun: bool,
    /// Whether it is a macvlan or ipvlan, or the tap of one.
    pub(crate) is_lan: bool,
    /// Its alias (ip-link(8)); empty for none.
    pub(crate) alias: String,
    /// What its packets begin with.
    pub(crate) framing: Framing,
    /// Whether it is a loopback device.
    pub(crate) is_loopback: bool,
    /// Whether it is a port of a bridge, bond or team, which sees its packets first.
    pub(crate) is_port: bool,
    /// Number of the XDP program on it.
    pub(crate) xdp: Option<u32>,
}

#[cfg(test)]
impl Device {
    /// A network card, for tests.
    pub(crate) fn example(ifindex: u32, name: &str) -> Self {
        Self {
            ifindex,
            name: name.into(),
            mac: Some(Mac::new([0x52, 0, 0, 0, 0, ifindex as u8])),
            mtu: 1500,
            is_up: true,
            is_veth: false,
            is_netkit: false,
            is_tun: false,
            is_lan: false,
            alias: String::new(),
            framing: Framing::Ethernet,
            is_loopback: false,
            is_port: false,
            xdp: None,
        }
    }
}

/// What the packets of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tun, WireGuard, PPP and tunnels.
    Bare,
    /// Something else, which netbpf does not serve.
    Other,
}

impl From<LinkLayerType> for Framing {
    fn from(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre => Self::Bare,
            _ => Self::Other,
        }
    }
}

/// One end of a pair to be made.
#[derive(Clone, Debug)]
pub(crate) struct PairEnd<'a> {
    /// Name.
    pub(crate) name: &'a str,
    /// Number; the kernel chooses when absent.
    pub(crate) ifindex: Option<u32>,
    /// MAC address.
    pub(crate) mac: Mac,
    /// MTU, in bytes.
    pub(crate) mtu: u32,
    /// The namespace it is made in; that of the socket when absent.
    pub(crate) namespace: Option<BorrowedFd<'a>>,
}

impl PairEnd<'_> {
    fn describe<T>(&self, builder: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let builder = builder.index(self.ifindex.unwrap_or(0)).address(self.mac.octets().to_vec()).mtu(self.mtu);
        match self.namespace {
            Some(namespace) => builder.setns_by_fd(namespace.as_raw_fd()),
            None => builder,
        }
    }
}

impl Netlink {
    /// Makes a pair of devices, both ends down. A name or number in use is a conflict.
    pub(crate) async fn make_pair(&self, kind: DeviceKind, end: &PairEnd<'_>, peer: &PairEnd<'_>) -> Result<()> {
        let other = peer.describe(LinkMessageBuilder::<LinkUnspec>::new().name(peer.name)).build();
        let (kind, data) = match kind {
            DeviceKind::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(other))),
            // With Ethernet headers and MAC addresses, as the programs take them.
            DeviceKind::Netkit => {
                let data = vec![InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Peer(other)];
                (InfoKind::Netkit, InfoData::Netkit(data))
            }
        };
        let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(end.name).set_info_data(data);
        let pair = end.describe(builder).build();
        failpoint::before("make a pair of devices");
        self.handle.link().add(pair).execute().await.map_err(|error| {
            let line = format!("cannot make the devices {} and {}: {}", end.name, peer.name, describe(&error));
            match errno(&error) {
                libc::EEXIST | libc::EBUSY => Error::Conflict(line),
                _ => Error::Internal(line),
            }
        })
    }

    /// Whether the kernel has netkits, by asking for one that cannot be: a kernel that has them does not know its mode, another not
    /// even its kind (rtnl_newlink). Nothing is made either way.
    pub(crate) async fn has_netkit(&self) -> Result<bool> {
        const NO_MODE: InfoNetkit = InfoNetkit::Mode(NetkitMode::Other(u32::MAX));
        let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Netkit);
        let asked = builder.set_info_data(InfoData::Netkit(vec![NO_MODE])).build();
        match self.handle.link().add(asked).execute().await {
            Err(error) => match errno(&error) {
                libc::EOPNOTSUPP => Ok(false),
                libc::ERANGE | libc::EINVAL => Ok(true),
                _ => Err(Error::Internal(format!("cannot ask the kernel for netkits: {}", describe(&error)))),
            },
            Ok(()) => Err(Error::Internal("the kernel has made a netkit that cannot be".into())),
        }
    }

    /// Sets a device up.
    pub(crate) async fn set_up(&self, ifindex: u32) -> Result<()> {
        self.change(ifindex, "set up", LinkUnspec::new_with_index(ifindex).up()).await
    }

    /// Sets a device up, without ARP.
    pub(crate) async fn set_up_without_arp(&self, ifindex: u32) -> Result<()> {
        self.change(ifindex, "set up", LinkUnspec::new_with_index(ifindex).arp(false).up()).await
    }

    /// Sets the MTU of a device.
    pub(crate) async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<()> {
        self.change(ifindex, "set the MTU of", LinkUnspec::new_with_index(ifindex).mtu(mtu)).await
    }

    pub(super) async fn change(&self, ifindex: u32, what: &str, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        failpoint::before(what);
        let result = self.handle.link().set(change.build()).execute().await;
        accept(result, &[]).map_err(|error| Error::Internal(format!("cannot {what} device {ifindex}: {error}")))
    }

    /// Sets a device down.
    pub(crate) async fn set_down(&self, ifindex: u32) -> Result<()> {
        self.change(ifindex, "set down", LinkUnspec::new_with_index(ifindex).down()).await
    }

    /// Deletes a device, and with it the other end of a veth pair.
    pub(crate) async fn delete_device(&self, ifindex: u32) -> Result<()> {
        failpoint::before("delete a device");
        let result = self.handle.link().del(ifindex).execute().await;
        accept(result, &[libc::ENODEV])
            .map_err(|error| Error::Internal(format!("cannot delete device {ifindex}: {error}")))
    }

    /// Deletes devices, many of them in little more time than one: the kernel waits for its CPUs once per request, and a
    /// request can name a group (`ip link delete group`).
    pub(crate) async fn delete_devices(&self, ifindexes: &[u32]) -> Result<()> {
        if let [] | [_] = ifindexes {
            return match ifindexes {
                [ifindex] => self.delete_device(*ifindex).await,
                _ => Ok(()),
            };
        }
        // Drawn anew each time: groups that others have made are small numbers, or names in iproute2's table.
        let group = rand::random_range(1 << 30..1_u32 << 31);
        for ifindex in ifindexes {
            let mut message = LinkUnspec::new_with_index(*ifindex).build();
            message.attributes.push(LinkAttribute::Group(group));
            failpoint::before("put a device into a group");
            let joined = self.handle.link().set(message).execute().await;
            accept(joined, &[libc::ENODEV])
                .map_err(|error| Error::Internal(format!("cannot delete device {ifindex}: {error}")))?;
        }
        let mut request = self.handle.link().del(0);
        request.message_mut().attributes.push(LinkAttribute::Group(group));
        failpoint::before("delete a group of devices");
        accept(request.execute().await, &[libc::ENODEV])
            .map_err(|error| Error::Internal(format!("cannot delete {} devices: {error}", ifindexes.len())))
    }

    /// The device of a number.
    pub(crate) async fn device(&self, ifindex: u32) -> Result<Option<Device>> {
        self.find(self.handle.link().get().match_index(ifindex)).await
    }

    /// The device of a name.
    pub(crate) async fn device_named(&self, name: &str) -> Result<Option<Device>> {
        self.find(self.handle.link().get().match_name(name)).await
    }

    async fn find(&self, request: rtnetlink::LinkGetRequest) -> Result<Option<Device>> {
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(Device::from)),
            Err(error) if errno(&error) == libc::ENODEV => Ok(None),
            Err(error) => Err(Error::Internal(format!("cannot look for a device: {}", describe(&error)))),
        }
    }

    /// All devices.
    pub(crate) async fn devices(&self) -> Result<Vec<Device>> {
        let _listing = self.listing.lock().await;
        let list: std::result::Result<Vec<LinkMessage>, _> = self.handle.link().get().execute().try_collect().await;
        let list = list.map_err(|error| Error::Internal(format!("cannot list devices: {}", describe(&error))))?;
        Ok(list.iter().map(Device::from).collect())
    }
}

impl From<&LinkMessage> for Device {
    fn from(message: &LinkMessage) -> Self {
        let mut device = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_veth: false,
            is_netkit: false,
            is_tun: false,
            is_lan: false,
            alias: String::new(),
            framing: message.header.link_layer_type.into(),
            is_loopback: message.header.flags.contains(LinkFlags::Loopback),
            is_port: false,
            xdp: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Address(bytes) => device.mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac::new),
                LinkAttribute::IfAlias(alias) => device.alias.clone_from(alias),
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::Xdp(all) => {
                    device.xdp = all.iter().find_map(|it| match it {
                        LinkXdp::ProgId(program) => Some(*program),
                        _ => None,
                    });
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Veth) => device.is_veth = true,
                            LinkInfo::Kind(InfoKind::Netkit) => device.is_netkit = true,
                            LinkInfo::Kind(InfoKind::Tun) => device.is_tun = true,
                            LinkInfo::Kind(
                                InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap,
                            ) => device.is_lan = true,
                            LinkInfo::PortKind(InfoPortKind::Bridge | InfoPortKind::Bond | InfoPortKind::Team) => {
                                device.is_port = true;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        device
    }
}
