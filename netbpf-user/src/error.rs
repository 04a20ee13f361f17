//! Why the engine refuses: every variant's text is one line for the user, saying what, why and what to do.

use std::error;

/// A refusal or a failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container, publish or network.
    #[error("{0}")]
    NotFound(String),
    /// The request contradicts what is there: a name, address or port in use.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense on its own.
    #[error("{0}")]
    Invalid(String),
    /// The machine lacks what netbpf needs, or what is asked for is not offered.
    #[error("{0}")]
    Unsupported(String),
    /// A pool is used up: addresses, ports, endpoint slots.
    #[error("{0}")]
    Exhausted(String),
    /// The kernel or the file system refused.
    #[error("{0}")]
    Internal(String),
}

/// Result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns the error of a kernel call or a library into [`Error::Internal`], naming what was attempted.
pub(crate) trait Context<T> {
    /// `what` completes the sentence "cannot ...".
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn error::Error>>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Internal(format!("cannot {}: {}", what(), chain(&*error.into()))))
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &(dyn error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
