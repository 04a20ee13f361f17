//! Devices on top of others: macvlan and ipvlan in containers, and what is made for them to lie on.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netbpf_common::wire::Mac;
use rtnetlink::packet_route::link::{IpVlanMode, LinkMessage, MacVlanMode};
use rtnetlink::{LinkDummy, LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVlan};

use super::{Netlink, accept, describe, errno};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::store::Mode;

/// A macvlan or ipvlan to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewLan<'a> {
    /// Name.
    pub(crate) name: &'a str,
    /// Number and name of the device that it lies on, in the namespace of the socket.
    pub(crate) parent: (u32, &'a str),
    /// What it is, and how it sees others.
    pub(crate) mode: Mode,
    /// MAC address; the kernel chooses when absent.
    pub(crate) mac: Option<Mac>,
    /// MTU, in bytes; the parent's when absent.
    pub(crate) mtu: Option<u32>,
    /// The namespace it is made in: in no other is it ever seen.
    pub(crate) namespace: BorrowedFd<'a>,
}

impl NewLan<'_> {
    fn message(&self) -> LinkMessage {
        let (parent, name) = (self.parent.0, self.name);
        match self.mode {
            Mode::Bridge => self.complete(LinkMacVlan::new(name, parent, MacVlanMode::Bridge)),
            Mode::Private => self.complete(LinkMacVlan::new(name, parent, MacVlanMode::Private)),
            Mode::Vepa => self.complete(LinkMacVlan::new(name, parent, MacVlanMode::Vepa)),
            Mode::Passthru => self.complete(LinkMacVlan::new(name, parent, MacVlanMode::Passthrough)),
            Mode::L2 => self.complete(LinkIpVlan::new(name, parent, IpVlanMode::L2)),
            Mode::L3 => self.complete(LinkIpVlan::new(name, parent, IpVlanMode::L3)),
            Mode::L3s => self.complete(LinkIpVlan::new(name, parent, IpVlanMode::L3S)),
        }
    }

    fn complete<T>(&self, mut builder: LinkMessageBuilder<T>) -> LinkMessage {
        builder = builder.setns_by_fd(self.namespace.as_raw_fd());
        if let Some(mac) = self.mac {
            builder = builder.address(mac.octets().to_vec());
        }
        if let Some(mtu) = self.mtu {
            builder = builder.mtu(mtu);
        }
        builder.build()
    }

    /// What a refusal of the kernel means.
    fn refusal(&self, error: &rtnetlink::Error) -> Error {
        let (parent, driver) = (self.parent.1, self.mode.driver());
        match errno(error) {
            libc::EOPNOTSUPP => no_driver(driver),
            // One handler of what a device receives (netdev_rx_handler_register).
            libc::EBUSY => Error::Conflict(format!(
                "device {parent} carries something else already, which {driver} cannot share it with (macvlan, ipvlan, a bridge, a \
                 bond): choose another parent, or remove that first"
            )),
            libc::EINVAL if self.mode.is_macvlan() => Error::Conflict(format!(
                "device {parent} has a macvlan already, and the mode passthru is for one alone: choose another parent, or remove \
                 that first"
            )),
            _ => Error::Internal(format!("cannot make a {driver} on {parent}: {}", describe(error))),
        }
    }
}

/// The refusal where the kernel does not know a kind of device.
fn no_driver(kind: &str) -> Error {
    let option = match kind {
        "vlan" => "VLAN_8021Q".into(),
        other => other.to_uppercase(),
    };
    Error::Unsupported(format!(
        "the kernel has no {kind} devices (CONFIG_{option}): use a kernel or a driver that is there"
    ))
}

impl Netlink {
    /// Makes a macvlan or ipvlan, down.
    pub(crate) async fn make_lan(&self, new: &NewLan<'_>) -> Result<()> {
        failpoint::before("make a macvlan or ipvlan");
        let made = self.handle.link().add(new.message()).execute().await;
        made.map_err(|error| new.refusal(&error))
    }

    /// Gives a device that is down its name and its alias, both or neither. A name in use is a conflict.
    pub(crate) async fn rename(&self, ifindex: u32, name: &str, alias: &str) -> Result<()> {
        let change = LinkUnspec::new_with_index(ifindex).name(name).alias(alias).build();
        failpoint::before("rename a device");
        self.handle.link().set(change).execute().await.map_err(|error| match errno(&error) {
            libc::EEXIST => {
                Error::Conflict(format!("the container has a device {name} already: rename or remove that one"))
            }
            _ => Error::Internal(format!("cannot name device {ifindex} {name}: {}", describe(&error))),
        })
    }

    /// Gives a device an alias.
    pub(crate) async fn set_alias(&self, ifindex: u32, alias: &str) -> Result<()> {
        self.change(ifindex, "note whose", LinkUnspec::new_with_index(ifindex).alias(alias)).await
    }

    /// Makes a VLAN of a device, up.
    pub(crate) async fn make_vlan(&self, name: &str, on: u32, id: u16) -> Result<()> {
        self.make_parent(LinkVlan::new(name, on, id).up().build(), name, "vlan").await
    }

    /// Makes a device that leads nowhere, up.
    pub(crate) async fn make_dummy(&self, name: &str) -> Result<()> {
        self.make_parent(LinkDummy::new(name).up().build(), name, "dummy").await
    }

    async fn make_parent(&self, message: LinkMessage, name: &str, kind: &str) -> Result<()> {
        failpoint::before("make a parent");
        match self.handle.link().add(message).execute().await {
            Err(error) if errno(&error) == libc::EOPNOTSUPP => Err(no_driver(kind)),
            made => accept(made, &[])
                .map_err(|error| Error::Internal(format!("cannot make the {kind} device {name}: {error}"))),
        }
    }
}
