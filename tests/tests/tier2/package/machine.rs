//! A machine of its own: a booted systemd on a copy of this one's files, with the network of a lab's host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use netbpf_tests::wait::poll_for;
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

use crate::lab::{Lab, Outcome};

/// How long systemd may take to boot, on a machine that is busy.
const BOOT: Duration = Duration::from_secs(30);

/// What dpkg and the tools for groups write down for themselves: their books, logs, caches and locks.
const BOOKS: [&str; 7] =
    ["var/lib/dpkg", "var/lib/systemd", "var/log", "var/cache", "etc/group-", "etc/gshadow-", "etc/.pwd.lock"];

/// A booted machine; gone with all that runs on it when dropped.
pub(super) struct Machine<'lab> {
    lab: &'lab Lab,
    /// The parent of its first process, which does not outlive it.
    keeper: Child,
    /// Its first process, as this machine numbers it.
    first: u32,
    directory: TempDir,
}

impl<'lab> Machine<'lab> {
    pub(super) fn boot(lab: &'lab Lab) -> Self {
        let directory = lab.scratch();
        let mut command = lab.rig().host_command("unshare");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tier2/package/boot.sh");
        command
            .args(["--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "sh"])
            .args([script.as_os_str(), directory.path().as_os_str()])
            .stdin(Stdio::null());
        let keeper = lab.host.run(|| command.spawn()).expect("unshare is there");
        let mut machine = Self { lab, keeper, first: 0, directory };
        let first = poll_for(BOOT, || machine.child_of_keeper()).expect("it has begun");
        machine.first = first;
        let booted = poll_for(BOOT, || (machine.run("systemctl is-system-running").code == Some(0)).then_some(()));
        assert!(booted.is_some(), "not booted: {}", machine.run("systemctl list-jobs; systemctl --failed").stdout);
        machine
    }

    fn child_of_keeper(&self) -> Option<u32> {
        let parent = format!("PPid:\t{}", self.keeper.id());
        let processes = fs::read_dir("/proc").expect("readable").flatten();
        let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.find(|number| {
            let status = fs::read_to_string(format!("/proc/{number}/status"));
            status.is_ok_and(|status| status.lines().any(|line| line == parent))
        })
    }

    /// Runs a line of a shell there as root; errors are among what it prints.
    pub(super) fn run(&self, line: &str) -> Outcome {
        let mut command = self.lab.rig().host_command("nsenter");
        command
            .args(["--target", &self.first.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "chroot"])
            .arg(self.directory.path().join("root"))
            .args(["timeout", "--signal=KILL", "60", "sh", "-c", &format!("exec 2>&1\n{line}")])
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("HOME", "/root"),
                ("DEBIAN_FRONTEND", "noninteractive"),
            ]);
        command.output().expect("nsenter is there").into()
    }

    /// The same, which must succeed; gives what it prints.
    #[track_caller]
    pub(super) fn done(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.code, Some(0), "{line}: {}{}", outcome.stdout, self.log());
        outcome.stdout
    }

    /// The same for a line that must fail.
    #[track_caller]
    pub(super) fn refused(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_ne!(outcome.code, Some(0), "{line}: {}", outcome.stdout);
        outcome.stdout
    }

    /// What the agent has logged.
    pub(super) fn log(&self) -> String {
        self.run("cat /run/netbpf.log").stdout
    }

    /// Takes a file of this machine there, below /tmp.
    pub(super) fn bring(&self, file: &Path) -> String {
        let there = Path::new("/tmp").join(file.file_name().expect("a file"));
        let root = PathBuf::from(format!("/proc/{}/root", self.first));
        fs::copy(file, root.join(there.strip_prefix("/").expect("absolute"))).expect("copied");
        there.to_str().expect("UTF-8").to_owned()
    }

    /// A process of it, by the number that it has there.
    pub(super) fn status_of(&self, pid: &str) -> String {
        self.done(&format!("cat /proc/{pid}/status"))
    }

    /// Every file that differs from this machine's, with what is in it; what is removed there has nothing in it. The books of
    /// the package manager are left out.
    pub(super) fn changes(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let namespace = fs::File::open(format!("/proc/{}/ns/mnt", self.first)).expect("it runs");
        let upper = self.directory.path().join("upper");
        let look = || {
            // A thread alone can enter a mount namespace, once its directories are its own.
            unshare(CloneFlags::CLONE_FS).expect("root may");
            setns(namespace, CloneFlags::CLONE_NEWNS).expect("root may");
            let mut changes = BTreeMap::new();
            collect(&upper, Path::new(""), &mut changes);
            changes
        };
        thread::scope(|scope| scope.spawn(look).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Its first process is killed with it, and all others with that.
        _ = self.keeper.kill();
        _ = self.keeper.wait();
    }
}

fn collect(upper: &Path, below: &Path, changes: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for entry in fs::read_dir(upper.join(below)).expect("readable") {
        let entry = entry.expect("readable");
        let path = below.join(entry.file_name());
        let kind = entry.file_type().expect("readable");
        if BOOKS.iter().any(|book| path == Path::new(book)) {
            continue;
        }
        if kind.is_dir() {
            if !Path::new("/").join(&path).is_dir() {
                changes.insert(path.clone(), None);
            }
            collect(upper, &path, changes);
            continue;
        }
        // The overlay's mark of what was removed.
        let is_removed = kind.is_char_device();
        let content = if kind.is_symlink() {
            fs::read_link(entry.path()).map(|target| target.into_os_string().into_encoded_bytes()).ok()
        } else if is_removed {
            None
        } else {
            fs::read(entry.path()).ok()
        };
        let is_as_here = !is_removed && fs::read(Path::new("/").join(&path)).ok() == content;
        if !is_as_here {
            changes.insert(path, content);
        }
    }
}
