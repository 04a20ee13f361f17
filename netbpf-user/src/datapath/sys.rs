//! System calls that no crate offers: map elements in batches, links by file descriptor, a program of a few instructions, two
//! socket options, features of devices.
//!
//! All `unsafe` of this crate is here. Keys and values are `bytemuck::Pod`, so every byte pattern the kernel writes is
//! a value; sizes are compared with the kernel's own when a map is opened (see [`super::table`]).
#![allow(unsafe_code, reason = "the one address of unsafe in this crate")]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_type, bpf_prog_type,
};
use bytemuck::Pod;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Number of the link.
    pub(super) id: u32,
    /// Number of the program it runs.
    pub(super) program_id: u32,
    /// What it hangs on: ifindex of a TCX, XDP or netkit link (0 when the device is gone), or id of a cgroup. Of a netkit it is the end
    /// that sends, in the namespace where that is.
    pub(super) target: u64,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a live bpf_attr, zeroed before it was filled; the callers below give pointers to live buffers
    // of the lengths that the kernel derives from the map or from the counts beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn empty() -> bpf_attr {
    // SAFETY: a union of plain integers; all zero is what the kernel takes for "not given".
    unsafe { zeroed() }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn pointer<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn pointer_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr() as u64
}

/// The value of a key, `Ok(false)` when there is none. `value` is as long as the kernel's value, for all CPUs together.
pub(super) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &mut [V]) -> io::Result<bool> {
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = pointer(std::slice::from_ref(key));
    attr.__bindgen_anon_2.__bindgen_anon_1.value = pointer_mut(value);
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes one element, new or not.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = pointer(std::slice::from_ref(key));
    attr.__bindgen_anon_2.__bindgen_anon_1.value = pointer(std::slice::from_ref(value));
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes one element; one that is not there is deleted.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = pointer(std::slice::from_ref(key));
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Writes many elements in one call; `keys` and `values` are of equal length. On an error those before it are written.
pub(super) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = empty();
    attr.batch.map_fd = number(map);
    attr.batch.keys = pointer(keys);
    attr.batch.values = pointer(values);
    attr.batch.count = keys.len() as u32;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Reads up to `keys.len()` elements after a position (from the start when `None`). Returns how many, and where to go on
/// unless that was the end. ENOSPC: one bucket has more elements than fit.
///
/// A position is opaque: a hash has the number of a bucket there, the first four bytes, every other map a whole key
/// (`generic_map_lookup_batch` in kernel/bpf/syscall.c).
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    position: Option<K>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<K>)> {
    const { assert!(size_of::<K>() >= size_of::<u32>(), "the kernel writes a bucket's number here") };
    assert_eq!(keys.len(), values.len());
    let mut next = K::zeroed();
    let mut attr = empty();
    attr.batch.map_fd = number(map);
    attr.batch.in_batch = position.as_ref().map_or(0, |position| pointer(std::slice::from_ref(position)));
    attr.batch.out_batch = pointer_mut(std::slice::from_mut(&mut next));
    attr.batch.keys = pointer_mut(keys);
    attr.batch.values = pointer_mut(values);
    attr.batch.count = keys.len() as u32;
    let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
    // SAFETY: `batch` is the member that was filled; the kernel has written the count into it.
    let count = unsafe { attr.batch.count } as usize;
    match result {
        Ok(_) => Ok((count, Some(next))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, None)),
        Err(error) => Err(error),
    }
}

/// Reads the elements of an array from a number on: as many as there is room for, or up to its end. Returns how many.
pub(super) fn read_run<V: Pod>(map: BorrowedFd<'_>, first: u32, values: &mut [V]) -> io::Result<usize> {
    let mut keys = vec![0_u32; values.len()];
    // A position is the number before (array_map_get_next_key), and before the first is none.
    lookup_batch(map, first.checked_sub(1), &mut keys, values).map(|(count, _)| count)
}

/// Opens what is pinned at a path.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins what a descriptor stands for at a path.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = number(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Takes a link off what it hangs on, whoever else holds it; one that hangs on nothing any more is detached.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = number(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Attaches a program to a device, behind those that are there; to a netkit (BPF_NETKIT_PEER) by the end that is in the calling
/// thread's namespace.
pub(super) fn link_to_device(program: BorrowedFd<'_>, ifindex: u32, how: bpf_attach_type) -> io::Result<OwnedFd> {
    const LAST: u32 = 1 << 4;
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = how as u32;
    attr.link_create.flags = LAST;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a link run another program, without a gap.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = number(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = number(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// One instruction of a program (`struct bpf_insn`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// Ends the program with what is in r0.
    pub(super) const EXIT: Self = Self::new(0x95, 0, 0);

    const fn new(code: u8, register: u8, immediate: i32) -> Self {
        // The destination is the nibble that comes first in memory.
        let registers = if cfg!(target_endian = "little") { register } else { register << 4 };
        Self { code, registers, offset: 0, immediate }
    }

    /// Sets a register to a number.
    pub(super) const fn set(register: u8, number: i32) -> Self {
        Self::new(0xb7, register, number)
    }

    /// Calls a helper of the kernel.
    pub(super) const fn call(helper: i32) -> Self {
        Self::new(0x85, 0, helper)
    }
}

/// Loads a TC program, runs it once on a frame, and returns what it returned.
pub(super) fn run_once(program: &[Instruction], frame: &[u8]) -> io::Result<u32> {
    let mut attr = empty();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    attr.__bindgen_anon_3.insns = pointer(program);
    attr.__bindgen_anon_3.insn_cnt = program.len() as u32;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut attr = empty();
    attr.test.prog_fd = number(program.as_fd());
    attr.test.data_in = pointer(frame);
    attr.test.data_size_in = frame.len() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: `test` is the member that was filled; the kernel has written the result into it.
    Ok(unsafe { attr.test.retval })
}

/// What a link is attached to.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: a struct of plain integers.
    let mut info: bpf_link_info = unsafe { zeroed() };
    let mut attr = empty();
    attr.info.bpf_fd = number(link);
    attr.info.info_len = size_of_val(&info) as u32;
    attr.info.info = pointer_mut(std::slice::from_mut(&mut info));
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    const TCX: u32 = bpf_link_type::BPF_LINK_TYPE_TCX as u32;
    const XDP: u32 = bpf_link_type::BPF_LINK_TYPE_XDP as u32;
    const NETKIT: u32 = bpf_link_type::BPF_LINK_TYPE_NETKIT as u32;
    // SAFETY: the kernel has filled the member that belongs to the type; all are plain integers.
    let target = unsafe {
        match info.type_ {
            TCX => u64::from(info.__bindgen_anon_1.tcx.ifindex),
            XDP => u64::from(info.__bindgen_anon_1.xdp.ifindex),
            NETKIT => u64::from(info.__bindgen_anon_1.netkit.ifindex),
            _ => info.__bindgen_anon_1.cgroup.cgroup_id,
        }
    };
    Ok(LinkInfo { id: info.id, program_id: info.prog_id, target })
}

/// Where programs may be attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A device, by its number.
    Device(u32),
    /// A cgroup: also what its ancestors bring.
    Cgroup(BorrowedFd<'a>),
}

/// Numbers of the programs that are attached in one way, in the order in which they run; for a cgroup those of its
/// ancestors last. EINVAL: the kernel knows no such way.
pub(super) fn programs_at(place: Place<'_>, how: bpf_attach_type) -> io::Result<Vec<u32>> {
    const EFFECTIVE: u32 = 1;
    let mut programs = vec![0_u32; 64];
    loop {
        let mut attr = empty();
        match place {
            Place::Device(ifindex) => attr.query.__bindgen_anon_1.target_ifindex = ifindex,
            Place::Cgroup(cgroup) => {
                attr.query.__bindgen_anon_1.target_fd = number(cgroup);
                attr.query.query_flags = EFFECTIVE;
            }
        }
        attr.query.attach_type = how as u32;
        attr.query.prog_ids = pointer_mut(&mut programs);
        attr.query.__bindgen_anon_2.prog_cnt = programs.len() as u32;
        let result = bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr);
        match result {
            Ok(_) => {
                // SAFETY: `query` is the member that was filled; the kernel has written the count into it.
                let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
                programs.truncate(count);
                return Ok(programs);
            }
            // A device that never had one.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => programs.resize(programs.len() * 2, 0),
            Err(error) => return Err(error),
        }
    }
}

/// A hash of a few numbers, for the asking.
pub(super) fn scratch_map() -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    attr.__bindgen_anon_1.key_size = size_of::<u32>() as u32;
    attr.__bindgen_anon_1.value_size = size_of::<u32>() as u32;
    attr.__bindgen_anon_1.max_entries = 4;
    let fd = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What owns one descriptor for as long as it lives.
pub(crate) trait OwnsDescriptor: AsRawFd {}

impl OwnsDescriptor for OwnedFd {}

impl OwnsDescriptor for aya_log::EbpfLogger<&'static dyn log::Log> {}

/// Waits on a descriptor from async code.
pub(crate) fn readable<T: OwnsDescriptor>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the implementors above own their descriptor, neither change nor close it before they are dropped, and are
    // moved into the AsyncFd.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Cookie of the network namespace that the calling thread is in.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: `cookie` and `length` are live and agree; SO_NETNS_COOKIE writes eight bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Keeps large blocks of memory apart from the others, each to go back to the kernel when it is given up. By itself glibc takes the first of
/// them for a sign that there will be more, and keeps what is as large among the small ones from then on.
pub(crate) fn keep_large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    {
        /// From this size on a block is large: what glibc begins with.
        const LARGE: libc::c_int = 128 << 10;
        for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
            // SAFETY: takes no pointer, and changes nothing of what is allocated.
            unsafe { libc::mallopt(parameter, LARGE) };
        }
    }
}

/// Gives memory that the allocator keeps for the next request back to the kernel.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; the allocator locks each of its arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Supplementary groups of the process at the other end of a unix socket, as they were at connect(2).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut length = size_of_val(&*groups) as libc::socklen_t;
        // SAFETY: `groups` and `length` are live and agree; SO_PEERGROUPS writes whole numbers, and none when they do not fit.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match io::Error::last_os_error() {
            // The kernel has said how many there are.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => groups.resize(count, 0),
            error => return Err(error),
        }
    }
}

/// A request about a device with one number (include/uapi/linux/ethtool.h, struct ethtool_value).
#[repr(C)]
struct DeviceValue {
    command: u32,
    value: u32,
}

/// Asks or tells a device of the thread's network namespace something (SIOCETHTOOL).
fn device_value(device: &str, command: u32, value: u32) -> io::Result<u32> {
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut about = DeviceValue { command, value };
    // SAFETY: a struct of plain integers and a union of them.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut about).cast();
    // SAFETY: the request and what it points to live as long as the call, and are of the size that the kernel expects.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(about.value) }
}

/// Switches a device's generic receive offload.
pub(crate) fn set_gro(device: &str, is_on: bool) -> io::Result<()> {
    const ETHTOOL_SGRO: u32 = 0x2c;
    device_value(device, ETHTOOL_SGRO, is_on.into()).map(drop)
}

/// Whether a device takes 802.1Q tags out of frames before anybody sees them.
pub(crate) fn strips_vlan_tags(device: &str) -> io::Result<bool> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_RXVLAN: u32 = 1 << 8;
    Ok(device_value(device, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0)
}
