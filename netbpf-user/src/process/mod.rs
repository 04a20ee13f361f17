//! Processes in containers: `run` and `exec`.
//!
//! A process enters its namespaces by itself: the binary is executed again, and while it has a single
//! thread and no runtime it enters, mounts, waits for the word of who started it, and becomes the command
//! (see [`Entry`]). So nothing has to be done between fork and exec.

mod entry;
mod files;
mod foreground;
mod launch;

pub use entry::{ENTER, Entry, Failure, Namespaces, enter};
pub(crate) use files::Contents;
pub use files::Files;
pub use foreground::Foreground;
pub use launch::{Launch, replace};
