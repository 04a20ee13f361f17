//! Programs that redirect whatever comes, and look at nothing: the limit. Everybody has an address of one network, and nothing is
//! translated.

use std::net::Ipv4Addr;

use anyhow::Result;
use netbpf_user::rig::Namespace;

use super::Peer;
use crate::site::{DEVICE, Machines, Sink, Way, Ways, ifindex};
use crate::traffic::{Attached, Traffic};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const CONTAINERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 18, 0, 11), Ipv4Addr::new(198, 18, 0, 12), Ipv4Addr::new(198, 18, 0, 13)];

pub(super) struct Bare {
    ways: Ways,
    _programs: Vec<Attached>,
    _machines: Machines,
}

impl Bare {
    pub(super) fn start(traffic: &Traffic, with_xdp: bool) -> Result<Self> {
        let peer = if with_xdp { "xdp" } else { "tcx" };
        let mut machines = Machines::default();
        let (host, outside) = (machines.make(peer, "host")?, machines.make(peer, "outside")?);
        connect(&host, DEVICE, &outside, OUTSIDE)?;
        let mut containers = Vec::new();
        for (number, address) in (1..).zip(CONTAINERS) {
            let container = machines.make(peer, &format!("c{number}"))?;
            connect(&host, &format!("v{number}"), &container, address)?;
            // What is not of the network is beyond the machine outside.
            container.ip(&[&format!("route add default via {OUTSIDE}")])?;
            containers.push(container);
        }
        let [c1, c2, c3] = &containers[..] else { unreachable!("three addresses") };
        let index = |device| ifindex(&host, device);
        let mut programs = vec![
            traffic.tcx("to_peer", &host, "v1", index("v2")?)?,
            traffic.tcx("to_peer", &host, "v2", index("v1")?)?,
            traffic.tcx("to_device", &host, "v3", index(DEVICE)?)?,
        ];
        if with_xdp {
            programs.push(traffic.xdp("to_frame", &host, DEVICE, index("v3")?)?);
            // Partial checksums are nothing that a frame can say, and frames are taken where there is NAPI.
            outside.run("ethtool", &["-K", DEVICE, "tx", "off"])?;
            c3.run("ethtool", &["-K", DEVICE, "gro", "on"])?;
        } else {
            programs.push(traffic.tcx("to_peer", &host, DEVICE, index("v3")?)?);
        }
        let mut inward = Way::new(&outside, c3, CONTAINERS[2], (&host, DEVICE));
        inward.from_anybody = true;
        if with_xdp {
            inward.sink = Sink::Frames;
        }
        let neighbours = Way::new(c1, c2, CONTAINERS[1], (&host, "v1"));
        let outward = Way::new(c3, &outside, OUTSIDE, (&host, "v3"));
        Ok(Self { ways: Ways::all(neighbours, inward, outward), _programs: programs, _machines: machines })
    }
}

fn connect(host: &Namespace, device: &str, machine: &Namespace, address: Ipv4Addr) -> Result<()> {
    host.ip(&[
        &format!("link add {device} type veth peer name {DEVICE} netns {}", machine.name()),
        &format!("link set {device} up"),
    ])?;
    machine.ip(&[&format!("address add {address}/24 dev {DEVICE}"), &format!("link set {DEVICE} up")])?;
    Ok(())
}

impl Peer for Bare {
    fn ways(&self) -> &Ways {
        &self.ways
    }
}
