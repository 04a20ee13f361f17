//! File systems that the datapath rests on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::subject::Subject;
use crate::api::types::Finding;
use crate::datapath::{cgroup_root, check_cgroup};

/// Looks at bpffs and cgroup2.
pub(super) fn look(subject: &Subject) -> [Finding; 2] {
    let cgroup = subject.cgroup.clone().map_or_else(cgroup_root, check_cgroup);
    [bpffs(&Bpffs::of(&subject.bpffs)), cgroup_found(cgroup.map_err(|error| error.to_string()))]
}

/// Where the pins are.
struct Bpffs {
    directory: PathBuf,
    /// Whether the nearest directory that exists is on a bpffs.
    is_bpffs: bool,
    /// Whether the agent will mount one: it does so in the machine's own mount namespace alone.
    is_to_be: bool,
    /// Whether PID 1 sees the same; none when that cannot be told.
    is_seen_by_init: Option<bool>,
}

impl Bpffs {
    fn of(directory: &Path) -> Self {
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let is_bpffs = statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
        let seen = Path::new("/proc/1/root").join(existing.strip_prefix("/").unwrap_or(existing));
        let is_seen_by_init = match (device(&seen), device(existing)) {
            _ if !is_bpffs => None,
            (Ok(seen), Ok(own)) => Some(seen == own),
            (Err(error), _) if error.kind() == ErrorKind::NotFound => Some(false),
            // Who may not look there cannot tell.
            _ => None,
        };
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let is_to_be = !is_bpffs && namespace("self") == namespace("1");
        Self { directory: directory.into(), is_bpffs, is_to_be, is_seen_by_init }
    }
}

fn bpffs(place: &Bpffs) -> Finding {
    const CHECK: &str = "bpffs";
    let Bpffs { directory, is_bpffs, is_to_be, is_seen_by_init } = place;
    let directory = directory.display();
    if *is_to_be {
        return Finding::well(CHECK, format!("{directory} is not on a bpffs yet: the agent mounts one"));
    }
    if !is_bpffs {
        return Finding::amiss(
            CHECK,
            format!("{directory} is not on a bpffs"),
            "mount one before the agent starts (mount -t bpf bpf /sys/fs/bpf); systemd does so by itself",
        );
    }
    if *is_seen_by_init == Some(false) {
        return Finding::amiss(
            CHECK,
            format!("{directory} is on a bpffs of a private mount namespace: the datapath ends with its last process"),
            "mount the bpffs in the machine's own mount namespace, and start the agent without PrivateMounts, ProtectSystem and \
             the like",
        );
    }
    Finding::well(CHECK, format!("{directory} is on a bpffs that outlives the agent"))
}

fn cgroup_found(cgroup: Result<PathBuf, String>) -> Finding {
    const CHECK: &str = "cgroup";
    match cgroup {
        Ok(directory) => {
            let found =
                format!("processes in {} reach published ports by the host's own addresses", directory.display());
            Finding::well(CHECK, found)
        }
        Err(why) => Finding::amiss(
            CHECK,
            why,
            "until then no process of the host reaches published ports by 127.0.0.1 or the host's own addresses",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpffs_must_be_there_and_be_everybodys() {
        let place = |is_bpffs, is_to_be, is_seen_by_init| {
            bpffs(&Bpffs { directory: "/sys/fs/bpf/netbpf".into(), is_bpffs, is_to_be, is_seen_by_init })
        };
        assert!(place(true, false, Some(true)).ok);
        assert!(place(false, true, None).ok);
        assert!(place(false, false, None).advice.contains("mount -t bpf"));
        assert!(place(true, false, Some(false)).found.contains("private mount namespace"));
    }

    #[test]
    fn a_machine_without_cgroup2_is_told_what_it_misses() {
        assert!(cgroup_found(Ok("/sys/fs/cgroup".into())).ok);
        let told = cgroup_found(Err("no cgroup2 hierarchy is mounted".into()));
        assert!(!told.ok && told.advice.contains("127.0.0.1"));
    }
}
