//! Programs on devices and on the cgroup: attached once, replaced without a gap, and told apart from others'.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use netbpf_common::abi::program;

use super::{Datapath, sys};
use crate::error::{Context as _, Result};
use crate::failpoint;

/// Place of our filter on a clsact qdisc. Fixed, so that a new agent finds the filter of the one before it.
const FILTER: NlOptions = NlOptions { priority: 0x6e62, handle: TcHandle::new(0, 1), classid: None };

/// Which packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Those it receives.
    Ingress,
    /// Those it sends.
    Egress,
}

impl From<Direction> for TcAttachType {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
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
    /// Which of its packets.
    pub(crate) direction: Direction,
}

impl Hook {
    /// What a container sends, at its host-side device.
    pub(crate) fn egress(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::EGRESS, ifindex, device: device.into(), direction: Direction::Ingress }
    }

    /// What an uplink receives; `is_bare`: its packets have no Ethernet header.
    pub(crate) fn uplink(ifindex: u32, device: impl Into<String>, is_bare: bool) -> Self {
        let program = if is_bare { program::UPLINK_BARE } else { program::UPLINK };
        Self { program, ifindex, device: device.into(), direction: Direction::Ingress }
    }

    /// What the host sends to containers.
    pub(crate) fn host(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::HOST, ifindex, device: device.into(), direction: Direction::Egress }
    }

    fn pin(&self) -> String {
        format!("{}-{}", self.program, self.ifindex)
    }
}

/// A program as the kernel has it attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Name of the program.
    pub(crate) program: String,
    /// ifindex of the device (0 when it is gone), or id of the cgroup.
    pub(crate) target: u64,
    /// Number of the link; 0 for a filter, which has none.
    pub(crate) link_id: u32,
    /// Number of the program.
    pub(crate) program_id: u32,
    /// Whether it is the program that this agent has loaded.
    pub(crate) is_current: bool,
}

/// Filters on clsact qdiscs, by device and program. They have no pins: the kernel keeps them with the device.
pub(super) type Filters = BTreeMap<(u32, &'static str), Hook>;

impl Datapath {
    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Attaches a program to a device, or puts this agent's program into the link that is there.
    pub(crate) fn attach(&self, hook: &Hook) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let program = programs.classifier(hook.program)?;
        let pin = self.links().join(hook.pin());
        if let Some(link) = existing(&pin).context(what)? {
            if sys::link_info(link.as_fd()).context(what)?.target == u64::from(hook.ifindex) {
                failpoint::before("replace a program");
                return sys::update_link(link.as_fd(), program.fd().context(what)?.as_fd().as_fd()).context(what);
            }
            // The device it hung on is gone, and another has got its number.
            fs::remove_file(&pin).context(what)?;
        }
        let direction = hook.direction.into();
        let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
        failpoint::before("attach a program");
        match program.attach_with_options(&hook.device, direction, tcx) {
            Ok(id) => {
                let link: FdLink = program.take_link(id).context(what)?.try_into().context(what)?;
                failpoint::before("pin a link");
                link.pin(&pin).context(what)?;
                Ok(())
            }
            // Before 6.6 the kernel knows no such attach type.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                match qdisc_add_clsact(&hook.device) {
                    Ok(()) => {}
                    Err(error) if error.to_string().contains("File exists") => {}
                    Err(error) => return Err(error).context(what),
                }
                let options = || TcAttachOptions::Netlink(NlOptions { ..FILTER });
                let attached = program.attach_with_options(&hook.device, direction, options());
                let id = match attached {
                    Ok(id) => id,
                    // Ours, of an agent before this one: replaced in its place.
                    Err(_) => {
                        let old = SchedClassifierLink::attached(
                            &hook.device,
                            direction,
                            FILTER.priority,
                            FILTER.handle,
                            None,
                        );
                        program.attach_to_link(old.context(what)?).context(what)?
                    }
                };
                // Dropping it would detach the filter; it is to outlive the agent.
                std::mem::forget(program.take_link(id).context(what)?);
                let mut filters = self.filters.lock().expect("no panic while it was held");
                filters.insert((hook.ifindex, hook.program), hook.clone());
                Ok(())
            }
            Err(error) => Err(error).context(what),
        }
    }

    /// Detaches a program from a device; one that is not attached, or whose device is gone, is detached.
    pub(crate) fn detach(&self, hook: &Hook) -> Result<()> {
        let removed = self.filters.lock().expect("no panic while it was held").remove(&(hook.ifindex, hook.program));
        if removed.is_some() {
            remove_filter(hook);
        }
        failpoint::before("remove the pin of a link");
        match fs::remove_file(self.links().join(hook.pin())) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context(|| format!("detach {} from {}", hook.program, hook.device))
            }
            _ => Ok(()),
        }
    }

    /// Attaches the socket hooks to a cgroup, or puts this agent's programs into the links that are there.
    pub(crate) fn attach_sockets(&self, cgroup: &Path) -> Result<()> {
        let directory = File::open(cgroup).context(|| format!("open the cgroup {}", cgroup.display()))?;
        // The id of a cgroup is the number of its inode.
        let id = directory.metadata().context(|| format!("look at {}", cgroup.display()))?.ino();
        let mut programs = self.programs.lock().expect("no panic while it was held");
        for name in program::SOCKET {
            let what = || format!("attach {name} to the cgroup {}", cgroup.display());
            let program = programs.socket(name)?;
            let pin = self.links().join(name);
            if let Some(link) = existing(&pin).context(what)? {
                if sys::link_info(link.as_fd()).context(what)?.target == id {
                    failpoint::before("replace a hook of sockets");
                    sys::update_link(link.as_fd(), program.fd().context(what)?.as_fd()).context(what)?;
                    continue;
                }
                fs::remove_file(&pin).context(what)?;
            }
            // Links share a cgroup by nature; the kernel refuses the flags of the older attachment for them.
            failpoint::before("attach a hook of sockets");
            let link = program.attach(&directory, CgroupAttachMode::Single).context(what)?;
            let link: FdLink = program.take_link(link).context(what)?.try_into().context(what)?;
            failpoint::before("pin a hook of sockets");
            link.pin(&pin).context(what)?;
        }
        Ok(())
    }

    /// What the kernel says is attached: pinned links, and the filters of a kernel without TCX.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>> {
        let current = self.programs.lock().expect("no panic while it was held").ids();
        let links = self.links();
        let mut attachments = Vec::new();
        for entry in fs::read_dir(&links).context(|| format!("read {}", links.display()))? {
            let entry = entry.context(|| format!("read {}", links.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let what = || format!("look at the link {name}");
            let Some(link) = existing(&entry.path()).context(what)? else { continue };
            let info = sys::link_info(link.as_fd()).context(what)?;
            let program = name.split('-').next().unwrap_or_default().to_owned();
            let is_current = current.get(program.as_str()) == Some(&info.program_id);
            attachments.push(Attachment {
                program,
                target: info.target,
                link_id: info.id,
                program_id: info.program_id,
                is_current,
            });
        }
        for hook in self.filters.lock().expect("no panic while it was held").values() {
            attachments.push(Attachment {
                program: hook.program.into(),
                target: u64::from(hook.ifindex),
                link_id: 0,
                program_id: current.get(hook.program).copied().unwrap_or(0),
                is_current: true,
            });
        }
        Ok(attachments)
    }

    /// Deletes pins whose device is gone: the kernel has detached them already.
    pub(crate) fn drop_dead_links(&self) -> Result<()> {
        for (pin, ifindex) in device_links(&self.links())? {
            if ifindex == 0 {
                fs::remove_file(&pin).context(|| format!("remove {}", pin.display()))?;
            }
        }
        Ok(())
    }
}

/// Pinned links to devices, with the ifindex of each, 0 for a device that is gone.
pub(super) fn device_links(links: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(links) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("read {}", links.display()))?,
    };
    // Pins of socket hooks bear no number.
    let pins = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains('-'));
    let link = |pin: PathBuf| {
        let link = existing(&pin).ok()??;
        Some((pin, sys::link_info(link.as_fd()).ok()?.target))
    };
    Ok(pins.filter_map(|entry| link(entry.path())).collect())
}

/// What runs by pinned links in an instance's directory: number of the device, none for a cgroup, and that of the program. Needs
/// no program to be loaded.
pub(crate) fn pinned_programs(directory: &Path) -> Vec<(Option<u32>, u32)> {
    let Ok(entries) = fs::read_dir(directory.join("links")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| {
        let link = existing(&entry.path()).ok()??;
        let info = sys::link_info(link.as_fd()).ok()?;
        // Pins of socket hooks bear no number.
        let is_of_device = entry.file_name().to_string_lossy().contains('-');
        Some((is_of_device.then(|| info.target as u32), info.program_id))
    });
    links.collect()
}

/// Whether a filter of a clsact qdisc stands where ours do; `info` as the kernel has it: priority and protocol.
pub(crate) fn is_own_filter(info: u32) -> bool {
    info >> 16 == u32::from(FILTER.priority)
}

fn existing(pin: &Path) -> std::io::Result<Option<std::os::fd::OwnedFd>> {
    match sys::open_pin(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes our filter, and nothing else, from a device's clsact qdisc; the qdisc stays, others may use it.
pub(crate) fn remove_filter(hook: &Hook) {
    let link = SchedClassifierLink::attached(
        &hook.device,
        hook.direction.into(),
        FILTER.priority,
        FILTER.handle,
        FILTER.classid,
    );
    // A link detaches when it is dropped. A device that is gone has taken its filter with it.
    drop(link);
}
