//! Waiting for a condition, never for a time.

use std::io;
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen at once.
pub const SOON: Duration = Duration::from_secs(5);

/// How long a test listens before it believes that nothing comes. Everything in a rig arrives
/// within a millisecond.
pub const SILENCE: Duration = Duration::from_millis(400);

const INTERVAL: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`, and gives up after [`SOON`].
pub fn poll<T>(probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll_for(SOON, probe)
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
/// When it does not within [`SOON`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(poll(|| condition().then_some(())).is_some(), "still not so after {SOON:?}: {what}");
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
