//! This process in a rig's cgroup.

use std::fs;
use std::marker::PhantomData;
use std::path::PathBuf;

use super::error::{Doing as _, RigError};
use super::layout::Layout;

/// While it lives, sockets of this process are the host's for its socket hooks. It cannot outlive the rig, which kills
/// what it finds in its cgroup.
#[derive(Debug)]
pub struct Membership<'rig> {
    home: PathBuf,
    rig: PhantomData<&'rig ()>,
}

impl<'rig> Membership<'rig> {
    pub(super) fn join(layout: &'rig Layout) -> Result<Self, RigError> {
        let doing = || "join the rig's cgroup".to_owned();
        let memberships = fs::read_to_string("/proc/self/cgroup").doing(doing)?;
        let home = memberships.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let membership = Self { home: layout.cgroups().join(home).join("cgroup.procs"), rig: PhantomData };
        // 0 is the writer itself.
        fs::write(layout.cgroup().join("cgroup.procs"), "0").doing(doing)?;
        Ok(membership)
    }
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        // The place it came from is still there: a cgroup with a process in it cannot be removed, so only when
        // somebody has removed it since does this fail, and the root takes everybody.
        _ = fs::write(&self.home, "0");
    }
}
