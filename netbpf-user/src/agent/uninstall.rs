//! Removing an instance whose agent does not run: also one that this version could not run.

use std::fs;

use netbpf_common::wire::Mac;

use super::containers::marked;
use super::filters::remove_queues;
use super::lan::remove_marked;
use super::parent::remove_parent;
use super::taps::give_back_settings;
use super::{files, host, process, start};
use crate::config::Settings;
use crate::datapath::{Datapath, Hook, remove_filter};
use crate::error::{Error, Result};
use crate::net::device::Framing;
use crate::net::{Netlink, namespace};
use crate::process::Files;
use crate::store::{Store, Stored};

/// Removes every container, program, pin, device and file of an instance, as far as they are there.
///
/// Unlike [`Engine::uninstall`](super::Engine::uninstall) it loads no program and reads no map: it is the way out when
/// those of the instance are of another version.
///
/// # Errors
/// When an agent runs, or something could not be removed; the rest is removed all the same.
pub async fn uninstall(settings: &Settings) -> Result<()> {
    start::require_root()?;
    start::check_files(settings)?;
    let _lock = if settings.state_dir.exists() { Some(start::lock(&settings.state_dir)?) } else { None };
    let mut errors = Vec::new();
    let netlink = Netlink::open()?;
    let recorded = forget_containers(settings, &netlink, &mut errors).await;
    let gateway_mac = match recorded {
        // The database is gone, its pins are not: then netbpf0 is this instance's, as there is one in a namespace.
        None if Datapath::is_pinned(settings) => {
            netlink.device_named(host::HOST_DEVICE).await?.and_then(|device| device.mac)
        }
        recorded => recorded,
    };
    if let Some(mac) = gateway_mac {
        for device in netlink.devices().await? {
            if host::is_own(&device, mac) {
                errors.extend(netlink.delete_device(device.ifindex).await.err());
            } else {
                remove_filter(&Hook::uplink(device.ifindex, device.name, device.framing == Framing::Bare));
            }
        }
    }
    let marks = settings.run_dir.join(super::MARKS);
    if marks.exists() {
        for name in marked(&marks)? {
            errors.extend(namespace::remove(&name).err());
        }
    }
    errors.extend(remove_queues(&netlink, settings).await);
    errors.extend(Datapath::unpin(settings).err());
    for directory in [marks, Files::all(&settings.run_dir)] {
        if directory.exists()
            && let Err(error) = fs::remove_dir_all(&directory)
        {
            errors.push(Error::Internal(format!("cannot remove {}: {error}", directory.display())));
        }
    }
    files::sweep(&settings.run_dir, |_| false);
    errors.extend(start::remove_files(settings));
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Kills the processes that the database knows, and removes the devices that nothing else tells of. Returns the gateway's MAC
/// address, by which the others are known.
async fn forget_containers(settings: &Settings, netlink: &Netlink, errors: &mut Vec<Error>) -> Option<Mac> {
    let Stored { instance, networks, containers } = Store::last_words(&settings.state_dir, &settings.run_dir)?;
    for tap in containers.values().flat_map(|record| &record.endpoints).filter(|endpoint| endpoint.is_tap) {
        errors.extend(give_back_settings(tap.ifindex, &tap.device).err());
    }
    for record in containers.values().filter(|record| !record.is_host) {
        errors.extend(remove_marked(&record.netns, |_| true).await.err());
    }
    for lan in networks.values().filter_map(|network| network.driver.lan()) {
        errors.extend(remove_parent(netlink, lan).await.err());
    }
    for running in containers.values().filter_map(|record| record.process).filter(process::is_running) {
        errors.extend(process::kill(&running).err());
    }
    Some(Mac::new(instance.gateway_mac))
}
