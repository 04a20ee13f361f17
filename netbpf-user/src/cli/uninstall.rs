//! `netbpf uninstall`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use netbpf_user::Settings;
use netbpf_user::agent;
use netbpf_user::api::ClientError;

use super::settings::SettingsFlags;
use super::{Global, client};

/// Remove every program, pin, device, address and file of an instance
///
/// Through its agent when one runs; else the flags say which instance, as for `netbpf agent`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf uninstall
  netbpf uninstall --state-dir /tmp/a/state --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a")]
pub(super) struct Uninstall {
    #[command(flatten)]
    settings: SettingsFlags,
}

impl Uninstall {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = self.settings.settings()?;
        let socket = global.socket.clone().unwrap_or_else(|| settings.socket());
        match client(&socket)?.uninstall() {
            Err(ClientError::NotRunning(_)) => without_agent(settings)?,
            answer => answer?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn without_agent(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
    Ok(runtime.block_on(agent::uninstall(&settings))?)
}
