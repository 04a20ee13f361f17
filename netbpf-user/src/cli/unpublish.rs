//! `netbpf unpublish`

use std::process::ExitCode;

use clap::Args;

use super::{Global, output};

/// Take publishes of a container back, without restarting anything; prints what remains
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf unpublish web -p 8080:80
  netbpf unpublish web -p 127.0.0.1:5353:53/udp")]
pub(super) struct Unpublish {
    /// The container
    name: String,
    /// The publish, as `netbpf publish` takes it
    #[arg(short = 'p', long = "publish", value_name = "SPEC", required = true, num_args = 1..)]
    specs: Vec<String>,
}

impl Unpublish {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        output::mappings(global, &global.client()?.unpublish(&self.name, &self.specs)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
