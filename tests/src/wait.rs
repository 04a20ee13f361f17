//! Waiting for a condition, never for a time.

use std::env;
use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Names the variable that says how many times as long as on a real machine everything takes: an emulated one is slow.
pub const SLOWNESS: &str = "NETBPF_SLOWNESS";

static FACTOR: LazyLock<u32> = LazyLock::new(|| {
    env::var(SLOWNESS).map_or(1, |factor| factor.parse().unwrap_or_else(|_| panic!("{SLOWNESS}={factor} is no number")))
});

/// Whether the machine is an emulated one.
pub fn is_slow() -> bool {
    *FACTOR > 1
}

/// What takes this time on a real machine takes here.
pub fn scaled(time: Duration) -> Duration {
    time * *FACTOR
}

/// How long a test waits for something that should happen at once.
pub fn soon() -> Duration {
    scaled(Duration::from_secs(5))
}

/// How long a test listens before it believes that nothing comes. Everything in a rig arrives
/// within a millisecond.
pub fn silence() -> Duration {
    scaled(Duration::from_millis(400))
}

const INTERVAL: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`, and gives up after [`soon`].
pub fn poll<T>(probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll_for(soon(), probe)
}

/// Asks until the answer is `Some` or the time is over.
pub fn poll_for<T>(time: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until the condition holds.
///
/// # Panics
/// When it does not within [`soon`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(poll(|| condition().then_some(())).is_some(), "still not so after {:?}: {what}", soon());
}

/// Makes a system call again for as long as it is interrupted. A socket with a timeout is interrupted without any
/// handler of a signal when the process is stopped and goes on, also by a freezer (signal(7)).
///
/// # Errors
/// What the system call fails with otherwise.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
