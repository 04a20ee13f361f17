//! Steps of a plan, done and undone.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use netbpf_common::abi::{ENDPOINT_SLOTS, Endpoint};

use super::Engine;
use super::express::takes_express;
use super::plan::{Inside, Pair, Step};
use crate::config::DeviceKind;
use crate::datapath::{Hook, Way};
use crate::error::{Context as _, Error, Result};
use crate::failpoint;
use crate::net::device::PairEnd;
use crate::net::namespace::{self, Namespace};
use crate::net::route::MAIN_TABLE;
use crate::net::sysctl::Ipv6;
use crate::net::{Netlink, sysctl};

/// The loopback device is the first of every namespace.
const LOOPBACK: u32 = 1;
/// What the way to the world is taken to carry as long as there is none, in bytes: an Ethernet's payload.
const USUAL_MTU: u32 = 1500;

impl Engine {
    /// Does the steps; when one fails, takes those before it back in reverse order.
    pub(super) async fn apply(&self, steps: &[Step]) -> Result<()> {
        for (done, step) in steps.iter().enumerate() {
            if let Err(error) = self.step(step).await {
                self.undo(&steps[..done]).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes steps back in reverse order, to the end whatever fails.
    pub(super) async fn undo(&self, steps: &[Step]) {
        let undo: Vec<Step> = steps.iter().rev().filter_map(Step::undo).collect();
        for error in self.apply_all(&undo).await {
            tracing::warn!("while undoing: {error}");
        }
    }

    /// Does all the steps, to the end whatever fails. Returns what failed.
    pub(super) async fn apply_all(&self, steps: &[Step]) -> Vec<Error> {
        let mut errors = Vec::new();
        for step in steps {
            if let Err(error) = self.step(step).await {
                errors.push(error);
            }
        }
        errors
    }

    async fn step(&self, step: &Step) -> Result<()> {
        tracing::debug!(?step);
        let maps = &self.datapath.maps;
        match step {
            Step::DeleteAddress(address) => maps.remove_address(*address),
            Step::ClearEndpoint(slot) => {
                // Before the slot is another's: the device that went by it is deleted later.
                maps.express.remove(*slot)?;
                maps.endpoints.set(*slot, Endpoint::default())?;
                self.leave_members(*slot)
            }
            Step::DeleteDevice(ifindex, device) => self.delete_devices(&[(*ifindex, device.clone())]).await,
            Step::DeleteLan(netns, name) => self.delete_lan(netns, name).await,
            Step::MakeLan(end) => self.make_lan(end).await,
            Step::DeleteNamespace(name) => {
                namespace::remove(name)?;
                self.unmark(name)
            }
            Step::MakeNamespace(name, existing) => {
                // The mark first: a namespace without one would belong to nobody after a crash. A name that others
                // have must not get one, or a later start would take their namespace away.
                if namespace::exists(&namespace::path(name)) {
                    return Err(namespace::in_use(name));
                }
                self.mark(name)?;
                let made = match existing {
                    Some(existing) => namespace::name(existing, name),
                    None => Namespace::make(name).await,
                };
                if made.is_err() {
                    self.unmark(name)?;
                }
                made
            }
            Step::MakePair(pair) => {
                let made = self.make_pair(pair).await;
                // A device in use under this name or number is not ours to delete.
                if let Err(error) = &made
                    && !matches!(error, Error::Conflict(_))
                    && let Err(error) = self.delete_devices(&[(pair.ifindex, pair.device.clone())]).await
                {
                    tracing::warn!("{error}");
                }
                made
            }
            Step::Attach(hook) => {
                let attached = self.attach_to_device(hook.clone()).await;
                if attached.is_err() && hook.way != Way::Netkit {
                    // Without the program it would be a door into the host.
                    self.netlink.set_down(hook.ifindex).await?;
                }
                attached?;
                self.netlink.set_up(hook.ifindex).await
            }
            Step::TakeIn(ifindex, device, mtu) => {
                let taken = self.take_in(*ifindex, device, *mtu).await;
                if taken.is_err()
                    && let Err(error) = self.give_back(*ifindex, device)
                {
                    tracing::warn!("while undoing: {error}");
                }
                taken
            }
            Step::GiveBack(ifindex, device) => self.give_back(*ifindex, device),
            Step::WriteEndpoint(slot, endpoint) => {
                maps.endpoints.set(*slot, *endpoint)?;
                let followed = self.join_members(*slot, endpoint.network);
                if followed.is_err() {
                    maps.endpoints.set(*slot, Endpoint::default())?;
                }
                followed
            }
            Step::WriteAddress(address, slot) => maps.set_address(*address, *slot),
        }
    }

    async fn make_pair(&self, pair: &Pair) -> Result<()> {
        use std::os::fd::AsFd as _;
        self.link_later();
        let namespace = Namespace::open(&pair.netns)?;
        let host = PairEnd {
            name: &pair.device,
            ifindex: Some(pair.ifindex),
            mac: self.gateway_mac,
            mtu: pair.mtu,
            namespace: None,
        };
        let container = PairEnd {
            name: &pair.inside.name,
            ifindex: None,
            mac: pair.mac,
            mtu: pair.mtu,
            namespace: Some(namespace.as_fd()),
        };
        self.netlink.make_pair(pair.kind, &host, &container).await?;
        sysctl::isolate(&pair.device)?;
        // The host has no address there: the programs answer for it.
        Ipv6::Off.apply(&pair.device)?;
        for hook in Hook::of_container(pair.kind, pair.ifindex, &pair.device) {
            self.attach_new(hook).await?;
        }
        let inside = self.settle(&namespace, &pair.inside, Some(pair.mtu)).await?;
        self.configure(&inside, &pair.inside, Some(pair.mtu)).await?;
        self.netlink.set_up(pair.ifindex).await?;
        self.link_later();
        if self.wants_express() && takes_express(pair.kind) {
            let (slot, place) = (pair.ifindex % ENDPOINT_SLOTS, (pair.netns.clone(), pair.inside.name.clone()));
            if let Err(error) = self.receive_express(place, slot, pair.ifindex, true).await {
                tracing::warn!("device {}: {error}: it is served without XDP", pair.device);
            }
        }
        Ok(())
    }

    /// The kernel waits for a grace period of RCU here (tcx_entry_sync), some milliseconds.
    pub(super) async fn attach_to_device(&self, hook: Hook) -> Result<()> {
        let (datapath, device) = (self.datapath.clone(), hook.device.clone());
        let attach = tokio::task::spawn_blocking(move || datapath.attach(&hook));
        attach.await.context(|| format!("attach to {device}"))?
    }

    /// Deletes host-side devices. The pins of their programs after them: a link that has lost its device goes at once,
    /// while for one with a device the kernel waits a grace period.
    pub(super) async fn delete_devices(&self, devices: &[(u32, String)]) -> Result<()> {
        let numbers: Vec<u32> = devices.iter().map(|(ifindex, _)| *ifindex).collect();
        self.netlink.delete_devices(&numbers).await?;
        // Whatever they were.
        let hooks =
            devices.iter().flat_map(|(ifindex, device)| Hook::of_container(DeviceKind::Netkit, *ifindex, device));
        let (datapath, hooks) = (self.datapath.clone(), hooks.collect::<Vec<_>>());
        let detach = tokio::task::spawn_blocking(move || hooks.iter().try_for_each(|hook| datapath.detach(hook)));
        detach.await.context(|| "detach from devices".into())?
    }

    /// Gives devices of endpoints that are no more to the next [`bury`](Self::bury), which a task begins. The kernel takes
    /// tens of milliseconds to delete a device, and hardly more for many. No packet passes one whose endpoint is gone,
    /// and after a crash the next start deletes it.
    pub(super) fn doom(self: &Arc<Self>, ifindex: u32, device: &str) {
        self.doomed().push((ifindex, device.into()));
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.bury().await {
                tracing::error!("{error}");
            }
        });
    }

    /// Deletes doomed devices. When it returns, all that were doomed before it was called are gone.
    pub(super) async fn bury(&self) -> Result<()> {
        let _turn = self.burial.lock().await;
        let batch = self.doomed().clone();
        let deleted = self.delete_devices(&batch).await;
        // Only now can their numbers be given out again: the pins bear them.
        self.doomed().retain(|device| !batch.contains(device));
        deleted
    }

    /// Devices to be deleted, number and name.
    pub(super) fn doomed(&self) -> std::sync::MutexGuard<'_, Vec<(u32, String)>> {
        self.doomed.lock().expect("no panic while it was held")
    }

    /// What the kernel does by itself in the container, and the way to tell it more. `ours` is the MTU of a device that the datapath has
    /// a part in.
    pub(super) async fn settle(&self, namespace: &Namespace, view: &Inside, ours: Option<u32>) -> Result<Netlink> {
        let ports = self.settings.nat_ports;
        let has_ipv6 = view.addresses.iter().any(|address| address.addr().is_ipv6());
        let ipv6 = if has_ipv6 { Ipv6::Container } else { Ipv6::Off };
        let name = view.name.clone();
        let settle = move || {
            ipv6.apply(&name)?;
            if ours.is_some() {
                // Its ephemeral ports are those that masquerading gives out: most flows keep their source port.
                sysctl::write("ipv4/ip_local_port_range", &format!("{}\t{}", ports.first, ports.last))?;
            } else {
                sysctl::announce(&name)?;
            }
            Netlink::open()
        };
        namespace.run(settle).await
    }

    /// The container's view of its device.
    pub(super) async fn configure(&self, inside: &Netlink, view: &Inside, ours: Option<u32>) -> Result<()> {
        let device = inside
            .device_named(&view.name)
            .await?
            .ok_or_else(|| Error::Internal(format!("{} has vanished from its new namespace", view.name)))?;
        inside.set_up(LOOPBACK).await?;
        for address in &view.addresses {
            inside.add_address(device.ifindex, *address).await?;
        }
        inside.set_up(device.ifindex).await?;
        self.lead_out(inside, device.ifindex, &view.gateways, ours, MAIN_TABLE).await
    }

    /// Sends what a container has for the world to these gateways, one of each family; in the main table, or in one that a rule leads
    /// to. `ours` is the MTU of an end that the datapath has a part in: the way goes on by a device of the host then.
    pub(super) async fn lead_out(
        &self,
        inside: &Netlink,
        ifindex: u32,
        gateways: &[IpAddr],
        ours: Option<u32>,
        table: u32,
    ) -> Result<()> {
        for gateway in gateways {
            let uplink = match ours {
                Some(_) => self.netlink.default_device(*gateway).await?,
                None => None,
            };
            let beyond = match uplink {
                Some(uplink) => self.netlink.device(uplink).await?.map(|uplink| uplink.mtu),
                None => None,
            };
            let mtu = ours.map(|own| own.min(beyond.unwrap_or(USUAL_MTU)));
            inside.add_default_route(ifindex, *gateway, mtu, table).await?;
        }
        Ok(())
    }

    /// The directory of [`MARKS`](super::MARKS).
    pub(super) fn marks(&self) -> std::path::PathBuf {
        self.settings.run_dir.join(super::MARKS)
    }

    pub(super) fn mark(&self, name: &str) -> Result<()> {
        let mark = self.marks().join(name);
        failpoint::before("mark a namespace");
        fs::write(&mark, []).context(|| format!("write {}", mark.display()))
    }

    fn unmark(&self, name: &str) -> Result<()> {
        let mark = self.marks().join(name);
        failpoint::before("unmark a namespace");
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove {}", mark.display()))
            }
            _ => Ok(()),
        }
    }
}
