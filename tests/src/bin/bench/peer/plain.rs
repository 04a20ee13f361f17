//! No network at all, and the least of one.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use netbpf_user::rig::Rig;

use super::Peer;
use crate::site::{DEVICE, LISTENED, Machines, Sink, Way, Ways, wire};

/// A machine with itself.
pub(super) struct Loopback {
    ways: Ways,
    _machines: Machines,
}

impl Loopback {
    pub(super) fn start() -> Result<Self> {
        let mut machines = Machines::default();
        let alone = machines.make("loopback", "alone")?;
        let way = Way {
            from: alone.clone(),
            to: alone,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, LISTENED)),
            listen: LISTENED,
            entry: None,
            sink: Sink::Packets,
            from_anybody: false,
        };
        Ok(Self { ways: Ways { neighbours: Some(way), ..Ways::default() }, _machines: machines })
    }
}

impl Peer for Loopback {
    fn ways(&self) -> &Ways {
        &self.ways
    }
}

/// Two machines and a pair of devices between them; the server is a process of the host.
pub(super) struct Veth {
    ways: Ways,
    _machines: Machines,
}

impl Veth {
    pub(super) fn start() -> Result<Self> {
        let mut machines = Machines::default();
        let (host, outside) = (machines.make("veth", "host")?, machines.make("veth", "outside")?);
        wire(&host, &outside)?;
        let mut inward = Way::new(&outside, &host, Rig::HOST_IP, (&host, DEVICE));
        inward.from_anybody = true;
        let outward = Way::new(&host, &outside, Rig::EXT_IP, (&outside, DEVICE));
        Ok(Self { ways: Ways::all(inward.clone(), inward, outward), _machines: machines })
    }
}

impl Peer for Veth {
    fn ways(&self) -> &Ways {
        &self.ways
    }
}
