//! Ctrl-C, seen in time to clean up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Whether this process was told to end. While it lives the process does not end by itself.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches SIGINT, SIGTERM and SIGHUP. To be made before the process has other threads.
    ///
    /// # Errors
    /// When the process can have no further thread.
    pub fn watch() -> io::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let interrupt = Self(Arc::default());
        let told = interrupt.0.clone();
        thread::Builder::new().name("interrupt".into()).spawn(move || {
            // Fails only for a set that holds no signal.
            if signals.wait().is_ok() {
                told.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(interrupt)
    }

    /// Whether it was told.
    pub fn told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
