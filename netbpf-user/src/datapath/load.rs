//! The pinned maps of an instance, and the places that its pins need.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use aya::maps::MapInfo;
use netbpf_common::abi::{ABI_VERSION, Config, map};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::links::{Links, device_links};
use super::programs::{self, Constants, Programs, Source};
use super::queues::{self, Queues};
use super::table::Table;
use super::{Datapath, FamilyMaps, Maps, foreign_layout, netns_cookie, probe};
use crate::config::Settings;
use crate::error::{Context as _, Error, Result};
use crate::failpoint;

/// Where the kernel and distributions expect a bpffs.
const BPFFS: &str = "/sys/fs/bpf";

impl Datapath {
    /// Loads the programs and takes over the pinned maps, or makes them.
    ///
    /// # Errors
    /// When the kernel refuses a program, or the pinned maps are of another layout.
    pub fn load(settings: &Settings) -> Result<Self> {
        let directory = settings.bpffs.clone();
        let maps_directory = directory.join("maps");
        let sizes = sizes(settings);
        check_pinned(&directory, &sizes)?;
        for directory in [&maps_directory, &directory.join("links")] {
            fs::create_dir_all(directory).context(|| format!("make {}", directory.display()))?;
        }
        let ipv6_checksum_flag = probe::ipv6_checksum_flag()?;
        let constants = Constants { log: settings.datapath_log, ipv6_checksum_flag };
        let sizes = sizes.iter().map(|size| (size.map, size.value * size.places_each)).collect();
        let programs = Programs::take_over_or_load(Source { directory: directory.clone(), constants, sizes })?;
        let maps = Maps::open(&maps_directory)?;
        let links = Links::open(directory.join("links"))?;
        Ok(Self {
            directory,
            links,
            programs: Mutex::new(programs),
            maps,
            filters: Mutex::default(),
            queues: Queues::open(&settings.bpffs),
            linking: Mutex::default(),
            has_links: AtomicBool::new(true),
        })
    }

    /// Where programs are pinned, by what they are made from.
    pub(crate) fn programs_in(directory: &Path) -> PathBuf {
        directory.join(programs::DIRECTORY)
    }

    /// Where queues for filters are noted.
    pub(crate) fn queues_in(directory: &Path) -> PathBuf {
        directory.join(queues::DIRECTORY)
    }

    /// Whether this instance has a pinned datapath.
    pub(crate) fn is_pinned(settings: &Settings) -> bool {
        settings.bpffs.join("maps").join(map::CONFIG).exists()
    }

    /// Deletes every pin of an instance, and with it links, programs and maps.
    pub(crate) fn unpin(settings: &Settings) -> Result<()> {
        let directory = &settings.bpffs;
        // Links first: a program must not run on maps that are no longer ours.
        let parts =
            [directory.join("links"), Self::programs_in(directory), directory.join("maps"), Self::queues_in(directory)];
        for part in parts.into_iter().chain([directory.clone()]) {
            failpoint::before("remove pins");
            let gone = if part == *directory { remove_instance(directory) } else { fs::remove_dir_all(&part) };
            match gone {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(|| format!("remove {}", part.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The instance's directory, unless a bpffs is mounted on it: then it is unmounted, as [`mount_bpffs`] has mounted it.
fn remove_instance(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let parent = directory.parent().unwrap_or(directory);
    if fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev() && directory != Path::new(BPFFS) {
        nix::mount::umount(directory)?;
    }
    fs::remove_dir(directory)
}

impl Maps {
    fn open(directory: &Path) -> Result<Self> {
        Ok(Self {
            config: Table::open(directory, map::CONFIG)?,
            endpoints: Table::open(directory, map::ENDPOINTS)?,
            networks: Table::open(directory, map::NETWORKS)?,
            v4: FamilyMaps::open(directory)?,
            v6: FamilyMaps::open(directory)?,
            uplinks: Table::open(directory, map::UPLINKS)?,
            express: Table::open(directory, map::EXPRESS)?,
            generations: Table::open(directory, map::GENERATIONS)?,
            rules: Table::open(directory, map::RULES)?,
            kept: Table::open(directory, map::KEPT_PORTS)?,
            members: Table::open(directory, map::MEMBERS)?,
            confirmed: Table::open(directory, map::CONFIRMED)?,
            counters: Table::open(directory, map::COUNTERS)?,
        })
    }
}

/// The size of a map, and the setting that it comes from.
#[derive(Clone, Copy)]
struct Size {
    map: &'static str,
    setting: &'static str,
    value: u32,
    /// Places of the map for each of what the setting counts.
    places_each: u32,
}

fn sizes(settings: &Settings) -> Vec<Size> {
    let of_family = |names: map::OfFamily, flows: (&'static str, u32)| {
        let size = |map, (setting, value), places_each| Size { map, setting, value, places_each };
        [
            size(names.flows, flows, 2),
            size(names.ring, ("half_open", settings.half_open), 1),
            size(names.fragments, ("fragments", settings.fragments), 1),
            size(names.held, ("held_fragments", settings.held_fragments), 1),
        ]
    };
    let v4 = of_family(map::V4, ("flows", settings.flows));
    v4.into_iter().chain(of_family(map::V6, ("flows_v6", settings.flows_v6))).collect()
}

/// Refuses pinned maps of another version, of other sizes or of another network namespace before anything is loaded.
fn check_pinned(directory: &Path, sizes: &[Size]) -> Result<()> {
    let maps = directory.join("maps");
    if !maps.join(map::CONFIG).exists() {
        return Ok(());
    }
    let config: Table<u32, Config> = Table::open(&maps, map::CONFIG)?;
    let config = config.get(0)?.unwrap_or_default();
    match config.abi_version {
        // Made, but the agent was killed before it wrote it.
        0 | ABI_VERSION => {}
        other => return Err(foreign_layout(&format!("its maps have layout {other}, this netbpf {ABI_VERSION}"))),
    }
    // Links name devices by numbers, which mean others here. Those of a namespace that is gone mean none.
    let is_elsewhere = config.netns_cookie != 0 && config.netns_cookie != netns_cookie()?;
    if is_elsewhere && device_links(&directory.join("links"))?.iter().any(|(_, ifindex)| *ifindex != 0) {
        return Err(Error::Conflict(format!(
            "the datapath in {} serves another network namespace: start the agent or run `netbpf uninstall` there, \
             or give this instance directories of its own (--state-dir, --run-dir, --bpffs)",
            directory.display()
        )));
    }
    for Size { map, setting, value, places_each } in sizes {
        let info = match MapInfo::from_pin(maps.join(map)) {
            Ok(info) => info,
            // The agent was killed before it made it.
            Err(_) if !maps.join(map).exists() => continue,
            Err(error) => return Err(error).context(|| format!("look at the pinned map {map}")),
        };
        let pinned = info.max_entries() / places_each;
        if pinned != *value {
            return Err(Error::Unsupported(format!(
                "{setting} = {value} does not fit the pinned datapath, which has {pinned}: set {setting} = {pinned}, or \
                 remove that datapath and its flows with `netbpf uninstall`"
            )));
        }
    }
    Ok(())
}

/// Makes sure that the instance's directory can be on a bpffs that outlives the agent.
///
/// One is mounted where none is, but only in the mount namespace of PID 1: in a private one it would vanish with its
/// last process, and the datapath with it.
pub(crate) fn mount_bpffs(directory: &Path) -> Result<()> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).context(|| format!("look at {}", existing.display()))?.filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    if namespace("self").ok() != namespace("1").ok() {
        return Err(Error::Unsupported(format!(
            "{} is not on a bpffs, and one mounted from this private mount namespace would vanish with it: \
             mount it outside first (mount -t bpf bpf {BPFFS})",
            directory.display()
        )));
    }
    let target = if directory.starts_with(BPFFS) { Path::new(BPFFS) } else { directory };
    fs::create_dir_all(target).context(|| format!("make {}", target.display()))?;
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
        Error::Unsupported(format!(
            "cannot mount a bpffs on {} ({error}): the kernel needs CONFIG_BPF_SYSCALL",
            target.display()
        ))
    })
}

/// The root of the cgroup2 hierarchy, also where it is mounted beside version 1.
pub(crate) fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context(|| "read /proc/self/mounts".into())?;
    cgroup2_mount(&mounts).ok_or_else(|| {
        Error::Unsupported("no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or name it with --cgroup".into())
    })
}

/// Refuses a directory that is none of a cgroup2 hierarchy.
pub(crate) fn check_cgroup(directory: PathBuf) -> Result<PathBuf> {
    let why = match statfs(&directory) {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => return Ok(directory),
        Ok(_) => "it is not on a cgroup2 file system".to_owned(),
        Err(error) => error.desc().to_owned(),
    };
    Err(Error::Invalid(format!(
        "cannot use the cgroup {}: {why}; name a cgroup2 directory with --cgroup",
        directory.display()
    )))
}

fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_in_the_hybrid_layout() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), None);
    }
}
