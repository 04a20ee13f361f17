//! Which program belongs where on a device.

use aya::programs::TcAttachType;
use aya_obj::generated::bpf_attach_type;
use netbpf_common::abi::program;
use nix::net::if_::if_indextoname;

use crate::config::DeviceKind;

/// Which packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Those it receives.
    Ingress,
    /// Those it sends.
    Egress,
}

/// Where on the way of a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// In the stack (TC).
    Stack(Direction),
    /// Ahead of it, in the driver, on what the device receives (XDP).
    Express,
    /// In the driver of a netkit's other end, on what that sends.
    Netkit,
}

/// What [`program::EGRESS`] is called where it hangs in the driver of a netkit: the same program at a second place of the same device.
pub(crate) const NETKIT: &str = "netkit";

impl From<Direction> for TcAttachType {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl From<Way> for bpf_attach_type {
    fn from(way: Way) -> Self {
        match way {
            Way::Stack(Direction::Ingress) => Self::BPF_TCX_INGRESS,
            Way::Stack(Direction::Egress) => Self::BPF_TCX_EGRESS,
            Way::Express => Self::BPF_XDP,
            Way::Netkit => Self::BPF_NETKIT_PEER,
        }
    }
}

/// A program on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hook {
    /// Name of the program.
    pub(crate) program: &'static str,
    /// Number of the device.
    pub(crate) ifindex: u32,
    /// Name of the device.
    pub(crate) device: String,
    /// Which of its packets, and where.
    pub(crate) way: Way,
    /// Whether the device is somebody else's, and stays when the instance goes.
    pub(crate) is_lent: bool,
}

impl Hook {
    /// What a container sends, at its host-side device.
    pub(crate) fn egress(ifindex: u32, device: impl Into<String>) -> Self {
        let way = Way::Stack(Direction::Ingress);
        Self { program: program::EGRESS, ifindex, device: device.into(), way, is_lent: false }
    }

    /// The same at a tap, which its owner has made.
    pub(crate) fn tap(ifindex: u32, device: impl Into<String>) -> Self {
        Self { is_lent: true, ..Self::egress(ifindex, device) }
    }

    /// What a container sends, in the driver of its netkit.
    pub(crate) fn netkit(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: NETKIT, ifindex, device: device.into(), way: Way::Netkit, is_lent: false }
    }

    /// All of a container's host-side device.
    pub(crate) fn of_container(kind: DeviceKind, ifindex: u32, device: &str) -> Vec<Self> {
        let stack = Self::egress(ifindex, device);
        match kind {
            DeviceKind::Veth => vec![stack],
            DeviceKind::Netkit => vec![stack, Self::netkit(ifindex, device)],
        }
    }

    /// What an uplink receives; `is_bare`: its packets have no Ethernet header.
    pub(crate) fn uplink(ifindex: u32, device: impl Into<String>, is_bare: bool) -> Self {
        let program = if is_bare { program::UPLINK_BARE } else { program::UPLINK };
        Self { program, ifindex, device: device.into(), way: Way::Stack(Direction::Ingress), is_lent: true }
    }

    /// What the host sends to containers.
    pub(crate) fn host(ifindex: u32, device: impl Into<String>) -> Self {
        let way = Way::Stack(Direction::Egress);
        Self { program: program::HOST, ifindex, device: device.into(), way, is_lent: false }
    }

    /// What an uplink receives, ahead of the host's stack.
    pub(crate) fn express(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::EXPRESS, ifindex, device: device.into(), way: Way::Express, is_lent: true }
    }

    /// Name of its link's pin.
    pub(super) fn pin(&self) -> String {
        format!("{}-{}", self.program, self.ifindex)
    }

    /// The name that its device has now; nothing for one that is gone. Asked by number: for a name that no device has the kernel
    /// looks for a module (net/core/dev_ioctl.c, dev_load).
    pub(super) fn device_now(&self) -> Option<String> {
        device_name(self.ifindex)
    }

    /// One in the stack, on a device of somebody else's, by such a name.
    pub(super) fn pinned_as(name: &str) -> Option<Self> {
        let (program, ifindex) = name.rsplit_once('-')?;
        let ifindex = ifindex.parse().ok()?;
        let device = device_name(ifindex).unwrap_or_default();
        match program {
            program::EGRESS => Some(Self::tap(ifindex, device)),
            program::UPLINK => Some(Self::uplink(ifindex, device, false)),
            program::UPLINK_BARE => Some(Self::uplink(ifindex, device, true)),
            _ => None,
        }
    }
}

fn device_name(ifindex: u32) -> Option<String> {
    if_indextoname(ifindex).ok().map(|name| name.to_string_lossy().into_owned())
}
