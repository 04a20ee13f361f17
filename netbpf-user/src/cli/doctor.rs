//! `netbpf doctor`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use netbpf_user::agent;
use netbpf_user::api::ClientError;

use super::settings::SettingsFlags;
use super::{Global, client, output};

/// Look at what of the host can get in the way, each with what to do; exit code 1 when anything is
///
/// Through the agent; where none answers the flags say which instance it would be, and what can be seen without it is looked
/// at all the same.
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf doctor
  netbpf doctor --json | jq '.[] | select(.ok | not)'")]
pub(super) struct Doctor {
    #[command(flatten)]
    settings: SettingsFlags,
}

impl Doctor {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = self.settings.settings()?;
        let socket = global.socket.clone().unwrap_or_else(|| settings.socket());
        let client = client(&socket)?;
        let findings = match client.doctor() {
            Ok(findings) => [vec![agent::compare_versions(&client.status()?)], findings].concat(),
            Err(ClientError::NotRunning(_)) => {
                let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
                runtime.block_on(agent::doctor_without_agent(&settings, &socket))?
            }
            Err(error) => return Err(error.into()),
        };
        if global.json {
            output::json(&findings)?;
        } else {
            let mut table = output::table(["CHECK", "", "FOUND"]);
            for finding in &findings {
                let mark = if finding.ok { "ok" } else { "look" };
                table.add_row([&*finding.check, mark, &*finding.found]);
            }
            output::print_table(&table)?;
            for finding in findings.iter().filter(|finding| !finding.ok) {
                eprintln!("netbpf: {}: {}", finding.check, finding.advice);
            }
        }
        Ok(if findings.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
