//! `netbpf demo`
use std::process::ExitCode;

use clap::Args;

use super::Global;

/// The guided tour: builds a private rig, shows what netbpf does, cleans up
#[derive(Args)]
pub(super) struct Demo {}
impl Demo {
    pub(super) fn run(self, _global: &Global) -> anyhow::Result<ExitCode> {
        Ok(ExitCode::SUCCESS)
    }
}
