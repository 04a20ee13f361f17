//! Programs of others beside ours, and what else of the kernel is looked at from outside.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::programs::{ProgramInfo, loaded_programs};
use aya_obj::generated::bpf_attach_type;

use super::hook::Way;
use super::sys::{self, Place};

/// The ways in which our socket hooks are attached.
const SOCKET: [bpf_attach_type; 10] = [
    bpf_attach_type::BPF_CGROUP_INET4_BIND,
    bpf_attach_type::BPF_CGROUP_INET6_BIND,
    bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
    bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
    bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
    bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
];

/// The loopback device, which every namespace has under this number.
const LOOPBACK: u32 = 1;

/// Programs with links on a device, in the order in which they run. None where the kernel has no such links.
pub(crate) fn on_device(ifindex: u32, way: Way) -> io::Result<Vec<u32>> {
    match sys::programs_at(Place::Device(ifindex), way.into()) {
        // No such links, or the device has just gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => Ok(Vec::new()),
        result => result,
    }
}

/// Programs that run in the way of our socket hooks for processes of a cgroup, its ancestors' included.
pub(crate) fn on_cgroup(directory: &Path) -> io::Result<Vec<u32>> {
    let cgroup = File::open(directory)?;
    let mut all = Vec::new();
    for how in SOCKET {
        all.extend(sys::programs_at(Place::Cgroup(cgroup.as_fd()), how)?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Whether programs on devices have links.
pub(crate) fn has_tcx() -> bool {
    sys::programs_at(Place::Device(LOOPBACK), bpf_attach_type::BPF_TCX_INGRESS).is_ok()
}

/// Whether elements of maps can be read many at a time.
pub(crate) fn has_batches() -> io::Result<bool> {
    let map = sys::scratch_map()?;
    match sys::lookup_batch(map.as_fd(), None, &mut [0_u32; 4], &mut [0_u32; 4]) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        result => result.map(|_| true),
    }
}

/// All programs that the kernel has; those that go meanwhile are left out.
pub(crate) fn program_infos() -> impl Iterator<Item = ProgramInfo> {
    loaded_programs().filter_map(Result::ok)
}
