//! `netbpf ps`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// List containers
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf ps
  netbpf rm -f $(netbpf ps -q)
  netbpf ps --json | jq -r '.[].ip'")]
pub(super) struct Ps {
    /// Print names alone
    #[arg(short, long)]
    quiet: bool,
    /// For Docker's sake: all are listed anyway
    #[arg(short, long, hide = true)]
    all: bool,
}

impl Ps {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let containers = global.client()?.containers()?;
        if global.json {
            output::json(&containers)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            containers.iter().try_for_each(|container| output::print(&container.name))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = output::table(["NAME", "STATUS", "PID", "NETWORK", "IP", "AGE", "PORTS"]);
        for container in containers {
            let pid = if container.pid == 0 { "-".into() } else { container.pid.to_string() };
            let addresses = output::addresses_cell(container.addresses());
            table.add_row([
                container.name,
                container.status,
                pid,
                container.network,
                addresses,
                output::age(output::seconds_since(container.created)),
                output::mappings_cell(&container.ports),
            ]);
        }
        output::print_table(&table)?;
        Ok(ExitCode::SUCCESS)
    }
}
