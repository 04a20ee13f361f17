//! `netbpf exposure`

use std::process::ExitCode;

use clap::Args;
use netbpf_user::api::types::{self, Origin};
use netbpf_user::spec::Host;

use super::{Global, output};

/// Show which port of which container is reached from where
#[derive(Args)]
#[command(after_help = "\
Of each container what is published, and what a process in it listens on. FROM says who reaches it at AT:
  host          processes of the host
  world         whoever comes by a device of the host
  containers    containers of all networks that are not internal
  network N     containers of network N
  link          whoever is on the link of the parent device (macvlan, ipvlan)

Examples:
  netbpf exposure
  netbpf exposure web --json")]
pub(super) struct Exposure {
    /// Only this container
    name: Option<String>,
}

impl Exposure {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let exposed = global.client()?.exposure(self.name.as_deref())?;
        if global.json {
            output::json(&exposed)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = output::table(["CONTAINER", "PORT", "LISTENS", "FROM", "AT", "ALLOWED"]);
        for way in exposed {
            let ports = format!("{}/{}", output::range(way.port, way.count), way.protocol);
            let at = format!("{}:{}", Host(way.address), output::range(way.at_port, way.count));
            let (listens, from) = (listens(&way), way.from.iter().map(origin).collect::<Vec<_>>().join(", "));
            let allowed = if way.allowed.is_restricted() { way.allowed.to_string() } else { "-".into() };
            table.add_row([way.container, ports, listens, from, at, allowed]);
        }
        output::print_table(&table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn listens(way: &types::Exposure) -> String {
    match (way.listeners, way.count) {
        (None, _) => "?".into(),
        (Some(0), _) => "no".into(),
        (Some(_), 1) => "yes".into(),
        (Some(listeners), count) => format!("{listeners} of {count}"),
    }
}

fn origin(from: &Origin) -> String {
    match from {
        Origin::Host => "host".into(),
        Origin::World => "world".into(),
        Origin::Containers => "containers".into(),
        Origin::Network(name) => format!("network {name}"),
        Origin::Link => "link".into(),
    }
}
