//! `netbpf flows`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// Show the flow table
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf flows
  netbpf flows --container web --json | jq length")]
pub(super) struct Flows {
    /// Only flows of this container
    #[arg(long, value_name = "N")]
    container: Option<String>,
}

impl Flows {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let flows = global.client()?.flows(self.container.as_deref())?;
        if global.json {
            output::json(&flows)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = output::table([
            "PROTO",
            "STATE",
            "SOURCE",
            "DESTINATION",
            "SOURCE SEEN",
            "ANSWERED BY",
            "SENT",
            "RECEIVED",
            "IDLE",
            "ENDS IN",
        ]);
        for flow in flows {
            table.add_row([
                flow.protocol,
                flow.state,
                flow.source,
                flow.destination,
                flow.translated_source,
                flow.translated_destination,
                traffic(flow.packets, flow.bytes),
                traffic(flow.reply_packets, flow.reply_bytes),
                output::age(flow.idle),
                output::age(flow.expires),
            ]);
        }
        output::print_table(&table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn traffic(packets: u64, bytes: u64) -> String {
    format!("{packets} / {}", indicatif::HumanBytes(bytes))
}
