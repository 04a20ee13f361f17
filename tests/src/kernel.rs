//! The world of [`crate::world`] in the kernel: real devices and routes in a network namespace of the
//! calling thread alone, the real object, its real maps.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netbpf_common::abi::{GatewayMode, PublishKey, PublishedPort, generation, program};
use netbpf_common::path::{V4, V6};
use netbpf_user::Settings;
use netbpf_user::datapath::{Datapath, ExpressDevice, InFamily, Run};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::family::TestFamily;
use crate::fixture::Hook;
use crate::gateway::{change_subnet, config_in, outside};
use crate::in_each_family;
use crate::world::{self, CONTAINERS, PUBLISHES};

/// Bytes of a `__sk_buff` (include/uapi/linux/bpf.h).
const CONTEXT: usize = 192;
/// Offset of `ingress_ifindex` in it.
const INGRESS_IFINDEX: usize = 36;
/// Offset of `ifindex` in it.
const IFINDEX: usize = 40;

/// Bytes of a `xdp_md`.
const EXPRESS_CONTEXT: usize = 24;
/// Offset of `data_end` in it.
const DATA_END: usize = 4;
/// Offset of `ingress_ifindex` in it.
const EXPRESS_INGRESS: usize = 12;

/// The programs and maps, filled with the world.
#[derive(Debug)]
pub struct Kernel {
    /// The datapath.
    pub datapath: Datapath,
    /// Settings it was loaded with.
    pub settings: Settings,
    directory: Arc<TempDir>,
}

impl Kernel {
    /// Loads the object and builds the world, in a network and mount namespace that the calling
    /// thread gets for itself. `flows` and `ring` are the sizes of the tables.
    ///
    /// # Errors
    /// When the kernel refuses, or this is not root.
    pub fn new(flows: u32, ring: u32) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "tier 1 needs root: run it with `sudo`, or through `cargo xtask test`"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("leave the namespaces of the machine")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make the mounts private")?;
        let directory = tempfile::tempdir()?;
        let bpffs = directory.path().join("bpf");
        fs::create_dir(&bpffs)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).context("mount a bpffs")?;

        devices()?;
        let settings = Settings { bpffs: bpffs.join("netbpf"), flows, half_open: ring, ..Settings::default() };
        let datapath = Datapath::load(&settings)?;
        let kernel = Self { datapath, settings, directory: Arc::new(directory) };
        kernel.fill(ring)?;
        Ok(kernel)
    }

    /// The same programs once more, on the same maps. To be called in a thread that has the
    /// namespaces of the one that called [`Self::new`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sibling(&self) -> Result<Self> {
        let datapath = Datapath::load(&self.settings)?;
        Ok(Self { datapath, settings: self.settings.clone(), directory: self.directory.clone() })
    }

    fn fill(&self, ring: u32) -> Result<()> {
        let maps = &self.datapath.maps;
        maps.config.set(0, world::config(ring))?;
        for container in CONTAINERS {
            maps.endpoints.set(container.slot, container.endpoint(world::GENERATION))?;
            maps.express.set(container.slot, ExpressDevice { ifindex: container.device(), program: 0 })?;
        }
        for (slot, next) in world::members() {
            maps.members.set(slot, next)?;
        }
        for (number, network) in world::networks() {
            maps.networks.set(number, network)?;
        }
        maps.uplinks.set(world::UPLINK, world::uplink())?;
        for publish in PUBLISHES {
            maps.rules.set(publish.rule, publish.rule())?;
            maps.generations.set(generation::FIRST_RULE + publish.rule, world::GENERATION)?;
        }
        in_each_family!(F => self.fill_tables::<F>()).into_iter().collect()
    }

    /// What a family has of its own.
    fn fill_tables<F: TestFamily<Addr: InFamily>>(&self) -> Result<()> {
        let maps = F::Addr::maps(&self.datapath.maps);
        for container in CONTAINERS {
            maps.addresses.set(F::addr(container.ip::<F>()), container.slot)?;
        }
        for (address, index) in world::locals::<F>() {
            maps.locals.set(F::addr(address), index)?;
            maps.virtuals.set(index, F::addr(address))?;
        }
        for publish in PUBLISHES {
            for port in publish.host_ports() {
                let mut entry = PublishedPort::default();
                if publish.is_on_loopback {
                    entry.specific = 1;
                    let key = PublishKey::new(F::addr(F::LOOPBACK), publish.transport, port);
                    maps.published.set(key, publish.rule)?;
                } else {
                    entry.wildcard = publish.rule;
                }
                maps.ports.set(publish.transport.port_index(port), entry)?;
            }
        }
        Ok(())
    }

    /// Gives both networks this mode, as an agent that starts with it does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn change(&self, mode: GatewayMode) -> Result<()> {
        let maps = &self.datapath.maps;
        let config = maps.config.get(0)?.context("there are settings")?;
        maps.config.set(0, config_in(mode, config))?;
        for (number, mut network) in world::networks() {
            in_each_family!(F => change_subnet::<F>(number, &mut network, mode));
            maps.networks.set(number, network)?;
        }
        in_each_family!(F => self.change_addresses::<F>(mode)).into_iter().collect()
    }

    fn change_addresses<F: TestFamily<Addr: InFamily>>(&self, mode: GatewayMode) -> Result<()> {
        let addresses = &F::Addr::maps(&self.datapath.maps).addresses;
        for container in CONTAINERS {
            let known = F::addr(outside::<F>(&container, GatewayMode::Prefix));
            if mode == GatewayMode::Prefix {
                addresses.set(known, container.slot)?;
            } else {
                addresses.remove(known)?;
            }
        }
        Ok(())
    }

    /// Forgets all flows.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn forget_flows(&self) -> Result<()> {
        in_each_family!(F => self.forget_flows_of::<F>()).into_iter().collect()
    }

    fn forget_flows_of<F: TestFamily<Addr: InFamily>>(&self) -> Result<()> {
        let flows = &F::Addr::maps(&self.datapath.maps).flows;
        for (key, _) in flows.entries()? {
            flows.remove(key)?;
        }
        Ok(())
    }

    /// Sum over all CPUs of a counter.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counter(&self, place: u32) -> Result<u64> {
        let cpus = self.datapath.maps.counters.get_per_cpu(0)?;
        Ok(cpus.iter().map(|counters| counters[place as usize]).sum())
    }

    /// Runs a frame through a hook.
    ///
    /// # Errors
    /// When the kernel does not take the frame.
    pub fn run(&self, hook: Hook, frame: &[u8], repeat: u32) -> Result<Run> {
        self.run_at(hook, false, frame, repeat)
    }

    /// Runs a frame through a hook; of what a container sends, if that is said, in the driver of its netkit.
    ///
    /// # Errors
    /// When the kernel does not take the frame.
    pub fn run_at(&self, hook: Hook, in_driver: bool, frame: &[u8], repeat: u32) -> Result<Run> {
        let (name, device, ingress) = match hook {
            // No device has received it yet.
            Hook::Egress(device) if in_driver => (program::EGRESS, device, 0),
            Hook::Egress(device) => (program::EGRESS, device, device),
            Hook::Uplink => (program::UPLINK, world::UPLINK, world::UPLINK),
            Hook::Host => (program::HOST, world::HOST_DEVICE, 0),
            Hook::Forwarded => (program::HOST, world::HOST_DEVICE, world::UPLINK),
        };
        let mut context = [0; CONTEXT];
        context[INGRESS_IFINDEX..][..4].copy_from_slice(&ingress.to_ne_bytes());
        context[IFINDEX..][..4].copy_from_slice(&device.to_ne_bytes());
        Ok(self.datapath.run(name, frame, &context, repeat)?)
    }

    /// Runs a frame from outside through the program that sees it ahead of the stack.
    ///
    /// # Errors
    /// When the kernel does not take the frame.
    pub fn run_express(&self, frame: &[u8], repeat: u32) -> Result<Run> {
        let mut context = [0; EXPRESS_CONTEXT];
        context[DATA_END..][..4].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[EXPRESS_INGRESS..][..4].copy_from_slice(&world::UPLINK.to_ne_bytes());
        Ok(self.datapath.run(program::EXPRESS, frame, &context, repeat)?)
    }
}

/// Makes the devices, addresses and routes that the programs ask the kernel about.
fn devices() -> Result<()> {
    let pair = |name: &str, index: u32, peer: &str, peer_index: Option<u32>| {
        let (index, peer_index) = (index.to_string(), peer_index.map(|i| i.to_string()));
        let mut arguments = vec!["link", "add", name, "index", &index, "type", "veth", "peer", "name", peer];
        if let Some(peer_index) = &peer_index {
            arguments.extend(["index", peer_index]);
        }
        ip(&arguments)
    };
    ip(&["link", "set", "lo", "up"])?;
    pair("up0", world::UPLINK, "up0-far", None)?;
    pair("netbpf0", world::HOST_DEVICE, "netbpf1", Some(world::ROUTE_DEVICE))?;
    pair("other0", world::FOREIGN, "other0-far", None)?;
    for container in CONTAINERS {
        let name = format!("c{}", container.slot);
        pair(&name, container.device(), &format!("{name}-eth0"), None)?;
        ip(&["link", "set", &name, "up"])?;
    }
    ip(&["link", "set", "up0", "address", &mac(world::UPLINK_MAC)])?;
    for name in ["up0", "up0-far", "netbpf0", "netbpf1", "other0", "other0-far"] {
        ip(&["link", "set", name, "up"])?;
    }
    // Only a veth that collects segments has queues of its own, as a NIC has, of which XDP names one.
    let gro =
        Command::new("ethtool").args(["-K", "up0", "gro", "on"]).output().context("run ethtool (package ethtool)")?;
    ensure!(gro.status.success(), "ethtool: {}", String::from_utf8_lossy(&gro.stderr).trim());
    routes::<V4>([24, 32])?;
    routes::<V6>([64, 128])?;
    // Of this namespace: what is written here is seen nowhere else.
    for version in ["ipv4", "ipv6"] {
        let forwarding = format!("/proc/sys/net/{version}/conf/netbpf1/forwarding");
        fs::write(forwarding, "1").context("let routes be looked up from netbpf1")?;
    }
    Ok(())
}

/// Addresses and routes of a family; `lengths` are those of the uplink's prefix and of one machine's.
fn routes<F: TestFamily>(lengths: [u8; 2]) -> Result<()> {
    let [uplink, machine] = lengths;
    let prefix = |address: IpAddr, len: u8| format!("{address}/{len}");
    let outside = F::OUTSIDE.to_string();
    let version = if F::HOST.is_ipv4() { "-4" } else { "-6" };
    // Nobody else is there who could have the address: it need not be asked for.
    let address = ["address", "add", &prefix(F::HOST, uplink), "dev", "up0"];
    ip(&if F::HOST.is_ipv4() { address.to_vec() } else { [&address[..], &["nodad"]].concat() })?;
    ip(&["neighbour", "add", &outside, "lladdr", &mac(world::OUTSIDE_MAC), "dev", "up0"])?;
    ip(&[version, "route", "add", "default", "via", &outside, "dev", "up0"])?;
    ip(&[version, "route", "add", &prefix(F::BEHIND_FOREIGN, machine), "dev", "other0"])?;
    ip(&[version, "route", "add", "blackhole", &prefix(F::BLACKHOLE, machine)])
}

fn mac(mac: [u8; 6]) -> String {
    netbpf_common::wire::Mac::new(mac).to_string()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
