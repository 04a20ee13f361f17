//! `netbpf inspect`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// Show all there is to know about containers, in JSON
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf inspect web
  netbpf inspect web db | jq '.[].netns'")]
pub(super) struct Inspect {
    /// The containers; a list is printed for several
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Inspect {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        let containers = self.names.iter().map(|name| client.container(name)).collect::<Result<Vec<_>, _>>()?;
        match containers.as_slice() {
            [container] => output::json(container)?,
            containers => output::json(&containers)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
