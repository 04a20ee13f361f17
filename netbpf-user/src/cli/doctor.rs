//! `netbpf doctor`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// Look at what of the host can get in the way, each with what to do; exit code 1 when anything is
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf doctor
  netbpf doctor --json | jq '.[] | select(.ok | not)'")]
pub(super) struct Doctor {}

impl Doctor {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let findings = global.client()?.doctor()?;
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
