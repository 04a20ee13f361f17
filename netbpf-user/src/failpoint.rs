//! Places where a test kills the agent: before each of its effects on the kernel, the database and the file system.
//!
//! A development build reads the file that `NETBPF_FAILPOINT` names at each of them. It holds how many are still to be passed; at zero the
//! process is killed there, as by `kill -9`, and the file has the name of the place. Without the variable, and in every release build,
//! there is nothing.

/// A place before an effect.
pub(crate) fn before(effect: &str) {
    #[cfg(debug_assertions)]
    armed::count_down(effect);
    #[cfg(not(debug_assertions))]
    let _ = effect;
}

#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex};
    use std::{env, fs, process, thread};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| env::var_os("NETBPF_FAILPOINT").map(PathBuf::from));
    /// Effects of several threads are counted one after the other.
    static TURN: Mutex<()> = Mutex::new(());

    pub(super) fn count_down(effect: &str) {
        let Some(file) = &*FILE else { return };
        let _turn = TURN.lock();
        let Some(left) = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()) else { return };
        let next = left.checked_sub(1).map_or_else(|| format!("killed before: {effect}"), |left| left.to_string());
        if let Err(error) = fs::write(file, next) {
            tracing::error!("cannot write {}: {error}", file.display());
        }
        if left == 0 {
            // Like an administrator's: nothing is cleaned up, no other thread gets further than it is.
            _ = kill(Pid::from_raw(process::id() as i32), Signal::SIGKILL);
            loop {
                thread::park();
            }
        }
    }
}
