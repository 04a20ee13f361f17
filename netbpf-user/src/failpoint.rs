//! Places where a test kills the agent: before each of its effects on the kernel, the database and the file system.
//!
//! A development build reads the file that `NETBPF_FAILPOINT` names at each of them. It holds how many are still to be passed, or the name of
//! one; at zero, or there, the process is killed, as by `kill -9`, and the file has the name of the place. Without the variable, and in every release build,
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
    use std::fs::File;
    use std::io::{self, Read as _, Seek as _, Write as _};
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::{env, process, thread};

    use nix::fcntl::{Flock, FlockArg};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| env::var_os("NETBPF_FAILPOINT").map(PathBuf::from));

    pub(super) fn count_down(effect: &str) {
        let Some(path) = &*FILE else { return };
        // Without the file there is nothing to count.
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        if let Err(error) = count(file, effect) {
            tracing::error!("cannot count in {}: {error}", path.display());
        }
    }

    /// Under a lock to the end, whichever it is: who takes the count away knows then whether this process dies of it.
    fn count(file: File, effect: &str) -> io::Result<()> {
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let left = match text.trim() {
            named if named == effect => 0,
            // Taken away, died over by another thread, or to be died over elsewhere.
            other => match other.parse::<u64>() {
                Ok(left) => left,
                Err(_) => return Ok(()),
            },
        };
        file.set_len(0)?;
        file.rewind()?;
        match left.checked_sub(1) {
            Some(left) => write!(file, "{left}"),
            None => {
                write!(file, "killed before: {effect}")?;
                // Like an administrator's: nothing is cleaned up, no other thread gets further than it is.
                _ = kill(Pid::from_raw(process::id() as i32), Signal::SIGKILL);
                loop {
                    thread::park();
                }
            }
        }
    }
}
