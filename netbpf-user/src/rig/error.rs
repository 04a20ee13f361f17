//! Why a rig cannot be built or used.

use std::fmt::Display;

/// One line: what, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing}: {reason}")]
pub struct RigError {
    doing: String,
    reason: String,
}

impl RigError {
    pub(super) fn new(doing: impl Into<String>, reason: impl Display) -> Self {
        Self { doing: doing.into(), reason: reason.to_string() }
    }
}

/// Says what was being done when an error came.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RigError>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RigError> {
        self.map_err(|error| RigError::new(what(), error))
    }
}
