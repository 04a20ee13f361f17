//! Programs on devices and on the cgroup: attached once, replaced without a gap, and told apart from others'.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{ProgramError, Xdp, XdpMode};
use netbpf_common::abi::program;

use super::Datapath;
use super::filters::remove_filter;
use super::hook::{Direction, Hook, Way};
use super::links::{Links, is_of_device};
use super::sys::{self, LinkInfo};
use crate::error::{Context as _, Error, Result, chain};
use crate::failpoint;

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

impl Datapath {
    /// Attaches a program to a device, or puts this agent's program into the link that is there. For a new link of TC the kernel waits
    /// a grace period of RCU, with its lock of devices in hand (tcx_entry_sync).
    pub(crate) fn attach(&self, hook: &Hook) -> Result<()> {
        let _turn = self.linking();
        match hook.way {
            Way::Stack(direction) => self.attach_to_stack(hook, direction),
            Way::Express => self.attach_express(hook),
            Way::Netkit => self.attach_netkit(hook),
        }
    }

    fn attach_to_stack(&self, hook: &Hook, direction: Direction) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let program = self.classifier(hook.program)?;
        if !self.replaced(&hook.pin(), u64::from(hook.ifindex), program.as_fd()).context(what)? {
            match self.link(hook, program.as_fd()) {
                // Before 6.6 the kernel knows no such attach type.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.has_links.store(false, Ordering::Relaxed);
                    return self.attach_filter(hook, direction);
                }
                linked => linked.context(what)?,
            }
        }
        if hook.program == program::EGRESS {
            // What it had at first, perhaps from an agent before this one.
            self.remove_filter(hook);
        }
        Ok(())
    }

    /// Makes a link, and pins it.
    fn link(&self, hook: &Hook, program: BorrowedFd<'_>) -> io::Result<()> {
        // Before the wait, which would be for nothing.
        self.links.check_directory()?;
        failpoint::before("attach a program");
        let link = sys::link_to_device(program, hook.ifindex, hook.way.into())?;
        self.links.hold(&hook.pin(), link)
    }

    /// Attaches the program of what a container sends in the driver of its netkit, for which the kernel waits as well
    /// (netkit_entry_sync). Meanwhile, and where fragments are received again, it is met behind the driver.
    fn attach_netkit(&self, hook: &Hook) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let program = self.classifier(hook.program)?;
        if !self.replaced(&hook.pin(), u64::from(hook.ifindex), program.as_fd()).context(what)? {
            self.link(hook, program.as_fd()).context(what)?;
        }
        self.filters().remove(hook);
        Ok(())
    }

    /// Attaches a program to a device that is new, without a wait where the kernel has filters: [`link_filter`](Self::link_filter) is
    /// for when nobody waits. In the driver there are none, and the one behind it does until then.
    pub(crate) fn attach_at_once(&self, hook: &Hook) -> Result<()> {
        let pin = hook.pin();
        let what = || format!("look at {} on {}", hook.program, hook.device);
        if self.links.info(&pin).context(what)?.is_some() {
            // Of a device that had the number before.
            self.links.remove(&pin).context(what)?;
        }
        match hook.way {
            Way::Stack(direction) => self.attach_filter(hook, direction).or_else(|error| {
                tracing::debug!("{error}: it gets a link instead");
                self.attach(hook)
            }),
            Way::Netkit => {
                self.filters().add(hook);
                Ok(())
            }
            Way::Express => self.attach(hook),
        }
    }

    /// The filters that links are to take the place of, with when they were attached: the oldest first. None where the kernel
    /// has no such links.
    pub(crate) fn unlinked(&self) -> Vec<(Instant, Hook)> {
        if self.has_links() { self.filters().by_age() } else { Vec::new() }
    }

    /// Puts a pinned link in the place of a filter that was attached then, if that was not detached meanwhile.
    pub(crate) fn link_filter(&self, since: Instant, hook: &Hook) -> Result<()> {
        let _turn = self.linking();
        if !self.filters().has_since(since, hook) {
            return Ok(());
        }
        // Not held while the kernel waits: others attach filters meanwhile.
        let program = self.classifier(hook.program)?;
        match self.link(hook, program.as_fd()) {
            Ok(()) => {
                self.filters().remove_since(since, hook);
                remove_filter(hook);
            }
            // The device is gone, and its filter with it.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => self.filters().remove_since(since, hook),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.has_links.store(false, Ordering::Relaxed),
            Err(error) => {
                // Somebody may have taken it away meanwhile, and there is nothing else.
                if let Way::Stack(direction) = hook.way
                    && let Err(error) = self.attach_filter(hook, direction)
                {
                    if hook.device_now().is_some() {
                        return Err(error);
                    }
                    self.filters().remove_since(since, hook);
                    return Ok(());
                }
                return Err(error).context(|| format!("make a link for {} on {}", hook.program, hook.device));
            }
        }
        Ok(())
    }

    /// Whether the kernel has links for programs of devices, as far as it was asked.
    pub(crate) fn has_links(&self) -> bool {
        self.has_links.load(Ordering::Relaxed)
    }

    /// Waits for the link that is being made.
    pub(crate) fn finish_link(&self) {
        drop(self.linking());
    }

    /// Held by who makes links, and by who detaches what one is being made for.
    pub(super) fn linking(&self) -> MutexGuard<'_, ()> {
        self.linking.lock().expect("no panic while it was held")
    }

    fn classifier(&self, name: &str) -> Result<OwnedFd> {
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let program = programs.classifier(name)?.fd().context(|| format!("use the program {name}"))?;
        program.as_fd().try_clone_to_owned().context(|| format!("use the program {name}"))
    }

    /// Removes the filter that a link has taken the place of.
    fn remove_filter(&self, hook: &Hook) {
        self.filters().remove(hook);
        remove_filter(hook);
    }

    fn attach_express(&self, hook: &Hook) -> Result<()> {
        let what = || format!("attach {} to {}", hook.program, hook.device);
        let mut programs = self.programs.lock().expect("no panic while it was held");
        let (pin, program) = (hook.pin(), programs.express()?);
        if self.replaced(&pin, u64::from(hook.ifindex), program.fd().context(what)?.as_fd()).context(what)? {
            return Ok(());
        }
        self.links.keep(&pin, link_express(program, hook)?).context(what)
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

    /// Whether a program of this instance, whichever agent has attached it, has a link here.
    pub(crate) fn has_link(&self, hook: &Hook) -> Result<bool> {
        let link = self.links.info(&hook.pin()).context(|| format!("look at {} on {}", hook.program, hook.device))?;
        Ok(link.is_some())
    }

    /// Whether this agent's program is attached.
    pub(crate) fn is_attached(&self, hook: &Hook) -> Result<bool> {
        let what = || format!("look at {} on {}", hook.program, hook.device);
        if self.filters().has(hook) {
            return Ok(true);
        }
        let Some(link) = self.links.info(&hook.pin()).context(what)? else { return Ok(false) };
        let own = self.current().get(hook.program) == Some(&link.program_id);
        Ok(own && link.target == u64::from(hook.ifindex))
    }

    /// Detaches a program from a device; one that is not attached, or whose device is gone, is detached.
    pub(crate) fn detach(&self, hook: &Hook) -> Result<()> {
        let _turn = self.linking();
        // In the queue of somebody else, or left by an agent before this one, it is not noted anywhere.
        if self.filters().remove(hook) || hook.is_lent && !self.has_links() {
            remove_filter(hook);
        }
        let what = || format!("detach {} from {}", hook.program, hook.device);
        self.links.remove(&hook.pin()).context(what)
    }

    /// Detaches every program.
    pub(crate) fn detach_all(&self) -> Result<()> {
        let _turn = self.linking();
        let left = self.left_queues();
        let filters = std::mem::take(&mut *self.filters());
        filters.hooks().chain(&left).for_each(remove_filter);
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

    /// What the kernel says is attached by links, and the filters of devices that have none.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>> {
        // First: a filter goes when its link is there.
        let filters: Vec<Hook> = self.filters().hooks().cloned().collect();
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
        let filters = filters.into_iter().map(|hook| Attachment {
            program: hook.program.into(),
            target: u64::from(hook.ifindex),
            link_id: 0,
            program_id: current.get(hook.program).copied().unwrap_or(0),
            is_current: true,
        });
        let is_new = |filter: &Attachment| {
            !attachments.iter().any(|link| link.program == filter.program && link.target == filter.target)
        };
        let filters: Vec<Attachment> = filters.filter(is_new).collect();
        attachments.extend(filters);
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
fn link_express(program: &mut Xdp, hook: &Hook) -> Result<FdLink> {
    const OTHERWISE: &str = "--xdp generic serves such a device in the stack, --xdp off all of them";
    let what = || format!("attach {} to {}", hook.program, hook.device);
    failpoint::before("attach an XDP program");
    let device = &hook.device;
    let id = program.attach_to_if_index(hook.ifindex, XdpMode::Driver).map_err(|error| match error {
        ProgramError::SyscallError(error) => match error.io_error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                Error::Unsupported(format!("the driver of {device} has no native XDP: {OTHERWISE}"))
            }
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
