//! Programs on devices and on the cgroup: attached once, replaced without a gap, and told apart from others'.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya_obj::generated::bpf_attach_type;
use netbpf_common::abi::program;

use super::Datapath;
use super::links::{Links, is_of_device};
use super::sys::{self, LinkInfo};
use crate::error::{Context as _, Error, Result, chain};
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

/// Where on the way of a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// In the stack (TC).
    Stack(Direction),
    /// Ahead of it, in the driver, on what the device receives (XDP).
    Express,
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
    /// Which of its packets, and where.
    pub(crate) way: Way,
}

impl From<Direction> for bpf_attach_type {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::BPF_TCX_INGRESS,
            Direction::Egress => Self::BPF_TCX_EGRESS,
        }
    }
}

impl Hook {
    /// What a container sends, at its host-side device.
    pub(crate) fn egress(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::EGRESS, ifindex, device: device.into(), way: Way::Stack(Direction::Ingress) }
    }

    /// What an uplink receives; `is_bare`: its packets have no Ethernet header.
    pub(crate) fn uplink(ifindex: u32, device: impl Into<String>, is_bare: bool) -> Self {
        let program = if is_bare { program::UPLINK_BARE } else { program::UPLINK };
        Self { program, ifindex, device: device.into(), way: Way::Stack(Direction::Ingress) }
    }

    /// What the host sends to containers.
    pub(crate) fn host(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::HOST, ifindex, device: device.into(), way: Way::Stack(Direction::Egress) }
    }

    /// What an uplink receives, ahead of the host's stack.
    pub(crate) fn express(ifindex: u32, device: impl Into<String>) -> Self {
        Self { program: program::EXPRESS, ifindex, device: device.into(), way: Way::Express }
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

/// Filters on clsact qdiscs, by device and program. They have no pins: the kernel keeps them with the device. Of devices that are
/// new, and on a kernel without TCX of all.
pub(super) type Filters = BTreeMap<(u32, &'static str), Hook>;

impl Datapath {
    /// Attaches a program to a device, or puts this agent's program into the link that is there.
    pub(crate) fn attach(&self, hook: &Hook) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let pin = hook.pin();
        let direction: TcAttachType = match hook.way {
            Way::Stack(direction) => direction.into(),
            Way::Express => {
                let program = programs.express()?;
                if !self.replaced(&pin, u64::from(hook.ifindex), program.fd().context(what)?.as_fd()).context(what)? {
                    self.links.keep(&pin, attach_express(program, hook)?).context(what)?;
                }
                return Ok(());
            }
        };
        let program = programs.classifier(hook.program)?;
        if self.replaced(&pin, u64::from(hook.ifindex), program.fd().context(what)?.as_fd()).context(what)? {
            return Ok(());
        }
        let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
        failpoint::before("attach a program");
        match program.attach_with_options(&hook.device, direction, tcx) {
            Ok(id) => {
                let link: FdLink = program.take_link(id).context(what)?.try_into().context(what)?;
                self.links.keep(&pin, link).context(what)?;
                if hook.program == program::EGRESS {
                    // What it had at first, perhaps from an agent before this one.
                    self.remove_filter(hook);
                }
                Ok(())
            }
            // Before 6.6 the kernel knows no such attach type.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                self.has_links.store(false, Ordering::Relaxed);
                self.attach_filter(program, hook, direction)
            }
            Err(error) => Err(error).context(what),
        }
    }

    /// Puts a program into the link that is there; whether there is one.
    fn replaced(&self, pin: &str, target: u64, program: BorrowedFd<'_>) -> io::Result<bool> {
        match self.links.info(pin)? {
            Some(link) if link.target == target => self.links.update(pin, program).map(|()| true),
            // What it hung on is gone, and another has got its number; or somebody has detached it.
            Some(_) => self.links.remove(pin).map(|()| false),
            None => Ok(false),
        }
    }

    /// Attaches a program to a device that is new, without a wait. For a link the kernel waits a grace period of RCU, with its lock
    /// of devices in hand (tcx_entry_sync); for a filter it does not. [`link_one`](Self::link_one) makes a link of it
    /// when nobody waits.
    pub(crate) fn attach_at_once(&self, hook: &Hook) -> Result<()> {
        let pin = hook.pin();
        let what = || format!("look at {} on {}", hook.program, hook.device);
        if self.links.info(&pin).context(what)?.is_some() {
            // Of a device that had the number before.
            self.links.remove(&pin).context(what)?;
        }
        let Way::Stack(direction) = hook.way else { return self.attach(hook) };
        let mut programs = self.programs.lock().expect("no panic while it was held");
        self.attach_filter(programs.classifier(hook.program)?, hook, direction.into())
    }

    fn attach_filter(&self, program: &mut SchedClassifier, hook: &Hook, direction: TcAttachType) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        failpoint::before("make a queue for filters");
        match qdisc_add_clsact(&hook.device) {
            Ok(()) => {}
            Err(error) if error.to_string().contains("File exists") => {}
            Err(error) => return Err(error).context(what),
        }
        failpoint::before("attach a filter");
        let options = || TcAttachOptions::Netlink(NlOptions { ..FILTER });
        let id = match program.attach_with_options(&hook.device, direction, options()) {
            Ok(id) => id,
            // Ours, of an agent before this one: replaced in its place.
            Err(_) => {
                let old = SchedClassifierLink::attached(&hook.device, direction, FILTER.priority, FILTER.handle, None);
                program.attach_to_link(old.context(what)?).context(what)?
            }
        };
        // Dropping it would detach the filter; it is to outlive the agent.
        std::mem::forget(program.take_link(id).context(what)?);
        self.filters().insert((hook.ifindex, hook.program), hook.clone());
        Ok(())
    }

    /// Puts a pinned link in place of one filter. Whether there was one, on a kernel that has such links.
    pub(crate) fn link_one(&self) -> Result<bool> {
        if !self.has_links.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(hook) = self.filters().values().next().cloned() else { return Ok(false) };
        let Way::Stack(direction) = hook.way else { return Ok(false) };
        let what = || format!("attach {} to {}", hook.program, hook.device);
        // Not held while the kernel waits: others attach filters meanwhile.
        let program = {
            let mut programs = self.programs.lock().expect("no panic while it was held");
            let program = programs.classifier(hook.program)?;
            program.fd().context(what)?.as_fd().try_clone_to_owned().context(what)?
        };
        failpoint::before("attach a program");
        let made = sys::link_to_device(program.as_fd(), hook.ifindex, direction.into());
        let mut filters = self.filters();
        let key = (hook.ifindex, hook.program);
        // Detached meanwhile: the link goes with its descriptor.
        if filters.get(&key) != Some(&hook) {
            return Ok(true);
        }
        match made {
            Ok(link) => self.links.hold(&hook.pin(), link).context(what)?,
            // The device is gone, and its filter with it.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.has_links.store(false, Ordering::Relaxed);
                return Ok(false);
            }
            Err(error) => return Err(error).context(what),
        }
        filters.remove(&key);
        drop(filters);
        failpoint::before("remove a filter");
        remove_filter(&hook);
        Ok(true)
    }

    /// Removes the filter that a link has taken the place of.
    fn remove_filter(&self, hook: &Hook) {
        self.filters().remove(&(hook.ifindex, hook.program));
        failpoint::before("remove a filter");
        remove_filter(hook);
    }

    fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().expect("no panic while it was held")
    }

    /// Whether a program of this instance, whichever agent has attached it, has a link here.
    pub(crate) fn has_link(&self, hook: &Hook) -> Result<bool> {
        let link = self.links.info(&hook.pin()).context(|| format!("look at {} on {}", hook.program, hook.device))?;
        Ok(link.is_some())
    }

    /// Whether this agent's program is attached.
    pub(crate) fn is_attached(&self, hook: &Hook) -> Result<bool> {
        let what = || format!("look at {} on {}", hook.program, hook.device);
        if self.filters().contains_key(&(hook.ifindex, hook.program)) {
            return Ok(true);
        }
        let Some(link) = self.links.info(&hook.pin()).context(what)? else { return Ok(false) };
        let own = self.current().get(hook.program) == Some(&link.program_id);
        Ok(own && link.target == u64::from(hook.ifindex))
    }

    /// Detaches a program from a device; one that is not attached, or whose device is gone, is detached.
    pub(crate) fn detach(&self, hook: &Hook) -> Result<()> {
        let removed = self.filters().remove(&(hook.ifindex, hook.program));
        if removed.is_some() {
            remove_filter(hook);
        }
        let what = || format!("detach {} from {}", hook.program, hook.device);
        self.links.remove(&hook.pin()).context(what)
    }

    /// Detaches every program.
    pub(crate) fn detach_all(&self) -> Result<()> {
        let filters = std::mem::take(&mut *self.filters());
        filters.values().for_each(remove_filter);
        self.links.remove_all().context(|| "detach the programs".into())
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
            if self.replaced(name, id, program.fd().context(what)?.as_fd()).context(what)? {
                continue;
            }
            // Links share a cgroup by nature; the kernel refuses the flags of the older attachment for them.
            failpoint::before("attach a hook of sockets");
            let link = program.attach(&directory, CgroupAttachMode::Single).context(what)?;
            let link: FdLink = program.take_link(link).context(what)?.try_into().context(what)?;
            self.links.keep(name, link).context(what)?;
        }
        Ok(())
    }

    /// Numbers of the programs that this agent has loaded.
    fn current(&self) -> BTreeMap<&'static str, u32> {
        self.programs.lock().expect("no panic while it was held").ids()
    }

    /// What the kernel says is attached: links, and the filters of a kernel without TCX.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>> {
        let current = self.current();
        let mut attachments = Vec::new();
        for (name, info) in self.links.infos()? {
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
        for hook in self.filters().values() {
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

    /// Lets go of links whose device is gone: the kernel has detached them already.
    pub(crate) fn drop_dead_links(&self) -> Result<()> {
        for (name, info) in self.links.infos()? {
            if info.target == 0 && is_of_device(&name) {
                self.links.remove(&name).context(|| format!("remove the pin {name}"))?;
            }
        }
        Ok(())
    }
}

/// Attaches the program that runs ahead of the host's stack.
fn attach_express(program: &mut Xdp, hook: &Hook) -> Result<FdLink> {
    const OTHERWISE: &str = "--xdp generic serves such a device in the stack, --xdp off all of them";
    let what = || format!("attach {} to {}", hook.program, hook.device);
    failpoint::before("attach an XDP program");
    let device = &hook.device;
    let id = program.attach_to_if_index(hook.ifindex, XdpMode::Driver).map_err(|error| match error {
        ProgramError::SyscallError(error) => match error.io_error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Error::Unsupported(format!(
                "the driver of {device} has no native XDP: {OTHERWISE}"
            )),
            Some(libc::EBUSY) => Error::Conflict(format!(
                "another XDP program is on {device}: take it off (ip link set dev {device} xdp off); {OTHERWISE}"
            )),
            Some(libc::ERANGE) => Error::Unsupported(format!(
                "the driver of {device} takes no XDP program at the device's MTU: lower that; {OTHERWISE}"
            )),
            _ => Error::Internal(format!("cannot attach {} to {device}: {}", hook.program, error.io_error)),
        },
        other => Error::Internal(format!("cannot attach {} to {device}: {}", hook.program, chain(&other))),
    })?;
    program.take_link(id).context(what)?.try_into().context(what)
}

/// What runs by pinned links in an instance's directory: number of the device, none for a cgroup, and that of the program. Needs
/// no program to be loaded.
pub(crate) fn pinned_programs(directory: &Path) -> Vec<(Option<u32>, u32)> {
    let infos = Links::open(directory.join("links")).and_then(|links| links.infos()).unwrap_or_default();
    let shown = |(name, info): (String, LinkInfo)| (is_of_device(&name).then_some(info.target as u32), info.program_id);
    infos.into_iter().map(shown).collect()
}

/// Whether a filter of a clsact qdisc stands where ours do; `info` as the kernel has it: priority and protocol.
pub(crate) fn is_own_filter(info: u32) -> bool {
    info >> 16 == u32::from(FILTER.priority)
}

/// Removes our filter, and nothing else, from a device's clsact qdisc; the qdisc stays, others may use it.
pub(crate) fn remove_filter(hook: &Hook) {
    let Way::Stack(direction) = hook.way else { return };
    let link =
        SchedClassifierLink::attached(&hook.device, direction.into(), FILTER.priority, FILTER.handle, FILTER.classid);
    // A link detaches when it is dropped. A device that is gone has taken its filter with it.
    drop(link);
}
