//! A mount namespace in which names of network namespaces are nobody else's.

use std::fs;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where names of network namespaces are the whole machine's.
const SHARED: [&str; 2] = ["/run/netns", "/etc/netns"];

/// Does something where a lab can have containers of any name: labs made inside, their agents and commands live there.
pub(crate) fn secluded<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may");
        let whole = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, whole, None::<&str>).expect("mounts are no longer shared");
        for directory in SHARED {
            fs::create_dir_all(directory).expect("as `ip netns` and the agent do");
            // As a machine has them: a directory for everybody is refused.
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).expect("a tmpfs");
        }
        action()
    };
    // The namespace is that of a thread, and of all that it begins.
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
