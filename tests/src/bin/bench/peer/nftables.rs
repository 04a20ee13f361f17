//! A bridge and nftables: Docker's rules for the measured port, and a map for the others, as one writes it by hand.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use netbpf_tests::bridged::{self, Published as Port};
use netbpf_tests::byhand::ByHand;
use netbpf_tests::version::Version;
use netbpf_user::rig::{Namespace, Rig};

use super::{Peer, conntrack_limit};
use crate::cost::{self, Networked, Published, millis};
use crate::site::{DEVICE, LISTENED, OTHERS, PUBLISHED, Way, Ways, own_name, quiet};

const CONTAINERS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 30, 0, 2), Ipv4Addr::new(172, 30, 0, 3)];
/// Number of the bridge of containers that come and go.
const NETWORK: usize = 7;
/// Containers that have an address in it.
const ADDRESSES: usize = 250;

pub(super) struct Nftables {
    ways: Ways,
    host: Namespace,
    files: tempfile::TempDir,
    /// Containers that have come and gone: their devices go a little later than they do.
    gone: usize,
    _peer: bridged::Peer,
}

impl Nftables {
    pub(super) fn start() -> Result<Self> {
        let published = ["tcp", "udp"].map(|transport| Port {
            transport,
            host: PUBLISHED,
            to: CONTAINERS[1].into(),
            port: LISTENED,
        });
        let peer = bridged::Peer::new(Version::V4, CONTAINERS.map(Into::into), &published);
        let [ext, host, c1, c2] = [&peer.ext, &peer.host, &peer.c1, &peer.c2].map(|place| place.namespace().clone());
        for machine in [&ext, &c1, &c2] {
            quiet(machine)?;
        }
        ByHand(&host).create_network(NETWORK)?;
        let nftables = Self {
            ways: Ways::all(
                Way::new(&c1, &c2, CONTAINERS[1], (&host, "port1")),
                Way::new(&ext, &c2, Rig::HOST_IP, (&host, DEVICE)).published(),
                Way::new(&c1, &ext, Rig::EXT_IP, (&host, "port1")),
            ),
            host,
            files: tempfile::tempdir()?,
            gone: 0,
            _peer: peer,
        };
        nftables.nft(
            "add map ip nat others { type inet_service : ipv4_addr . inet_service; }
             insert rule ip nat published dnat ip to tcp dport map @others
             insert rule ip filter forward ct status dnat accept",
        )?;
        Ok(nftables)
    }

    fn nft(&self, rules: &str) -> Result<()> {
        let path = self.files.path().join("rules");
        let mut file = fs::File::create(&path)?;
        file.write_all(rules.as_bytes())?;
        self.host.run("nft", &["-f", path.to_str().context("a path of our own")?])?;
        Ok(())
    }

    fn others(&self, number: u16) -> String {
        let element = |port| format!("{port} : {} . {port}", CONTAINERS[1]);
        let elements: Vec<_> = (OTHERS..OTHERS + number).map(element).collect();
        format!("add element ip nat others {{ {} }}", elements.join(", "))
    }
}

impl Peer for Nftables {
    fn ways(&self) -> &Ways {
        &self.ways
    }

    fn set_ports(&mut self, total: u32) -> Result<bool> {
        self.nft("flush map ip nat others")?;
        if total > 1 {
            self.nft(&self.others(u16::try_from(total - 1)?))?;
        }
        Ok(true)
    }

    fn most_flows(&self) -> u32 {
        conntrack_limit()
    }

    fn publish(&mut self, ports: u16, one_by_one: bool) -> Result<Option<Published>> {
        let last = OTHERS + ports - 1;
        let rule = format!("insert rule ip nat published tcp dport {OTHERS}-{last} dnat to {}", CONTAINERS[1]);
        let rules = if one_by_one { self.others(ports) } else { rule };
        let started = Instant::now();
        self.nft(&rules)?;
        let millis = millis(started);
        if one_by_one {
            self.nft("flush map ip nat others")?;
        } else {
            let shown = self.host.run("nft", &["--handle", "--numeric", "list", "chain", "ip", "nat", "published"])?;
            let range = format!("{OTHERS}-{last} ");
            let line =
                shown.lines().find(|line| line.contains(&range) || line.contains(&format!("dport {OTHERS} dnat")));
            let handle = line.and_then(|line| line.rsplit(' ').next()).context("the rule is there")?;
            self.nft(&format!("delete rule ip nat published handle {handle}"))?;
        }
        // The kernel's memory is not told by anybody.
        Ok(Some(Published { millis, processes: 0, kib: None, kib_at_first: None }))
    }

    fn network(&mut self, at_once: usize) -> Result<Option<Networked>> {
        let hand = ByHand(&self.host);
        let name = |which| own_name(&format!("hand-{which}"));
        let number = |which| (self.gone + which) % ADDRESSES;
        let create = |which| Ok(hand.create(&name(which), NETWORK, number(which)).map(drop)?);
        let remove = |which| Ok(hand.remove(&Namespace::named(&name(which)))?);
        let networked = cost::network(at_once, create, remove)?;
        self.gone += at_once;
        Ok(Some(networked))
    }
}
