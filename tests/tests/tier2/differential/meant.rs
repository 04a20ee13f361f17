//! Where netbpf is meant to differ from conntrack and Docker's rules, and why.

use super::record::Difference;

/// A difference that is meant.
pub(super) struct Meant {
    pub(super) name: &'static str,
    /// Why netbpf does it its way.
    pub(super) reason: &'static str,
    pub(super) is: fn(&Difference) -> bool,
}

/// All of them.
pub(super) const MEANT: &[Meant] = &[];
