//! `netbpf rm`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// Remove containers; prints their names
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf rm web
  netbpf rm -f web db        also when their processes run")]
pub(super) struct Rm {
    /// Also running ones: their processes are killed
    #[arg(short, long)]
    force: bool,
    /// The containers
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Rm {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        output::removed(global, &self.names, |name| client.remove(name, self.force))
    }
}
