//! `netbpf status`

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use netbpf_user::api::types;

use super::{Global, output};

/// Show what is attached, where, since when, how full; exit code 1 when anything is not as desired
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf status
  netbpf status --json | jq .drops")]
pub(super) struct Status {}

impl Status {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let status = global.client()?.status()?;
        if global.json {
            output::json(&status)?
        } else {
            print(&status)?
        }
        Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(status: &types::Status) -> anyhow::Result<()> {
    let age = output::age(output::seconds_since(status.since));
    output::print(format_args!("netbpf {}, process {}, up for {age}", status.version, status.pid))?;

    let mut uplinks = output::table(["UPLINK", "IFINDEX", "ADDRESS"]);
    for uplink in &status.uplinks {
        let both = uplink.address.map(IpAddr::from).into_iter().chain(uplink.address6.map(IpAddr::from));
        uplinks.add_row([uplink.name.clone(), uplink.ifindex.to_string(), output::addresses_cell(both)]);
    }
    let mut programs = output::table(["PROGRAM", "ATTACHED TO", "LINK", "ID"]);
    for program in &status.programs {
        let link = if program.link_id == 0 { "-".into() } else { program.link_id.to_string() };
        programs.add_row([program.name.clone(), program.attach_point.clone(), link, program.program_id.to_string()]);
    }
    let mut maps = output::table(["MAP", "ENTRIES", "OF"]);
    for map in &status.maps {
        maps.add_row([map.name.clone(), map.entries.to_string(), map.max.to_string()]);
    }
    for table in [uplinks, programs, maps, counters("DROPPED", &status.drops), counters("COUNTED", &status.events)] {
        if !table.is_empty() {
            output::print("")?;
            output::print_table(&table)?;
        }
    }
    for problem in &status.problems {
        eprintln!("netbpf: {problem}");
    }
    Ok(())
}

/// Counters by name.
pub(super) fn counters(heading: &str, counts: &BTreeMap<String, u64>) -> comfy_table::Table {
    let mut table = output::table([heading, "TIMES"]);
    for (name, count) in counts {
        table.add_row([name.clone(), count.to_string()]);
    }
    table
}
