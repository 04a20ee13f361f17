//! `netbpf publish`

use std::process::ExitCode;

use clap::Args;

use super::container::SPEC_HELP;
use super::{Global, output};

/// Publish ports of a container, without restarting anything
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf publish web -p 8080:80
  netbpf publish web -p 80 -p 127.0.0.1:5353:53/udp      80 on a free port: see what is printed
  netbpf publish web -p [::1]:8080:80                     on one IPv6 address
  netbpf publish web -p 10000-19999:10000-19999

One command takes up to 16,384 SPECs; a range is one.")]
pub(super) struct Publish {
    /// The container
    name: String,
    #[arg(short = 'p', long = "publish", value_name = "SPEC", required = true, num_args = 1.., help = SPEC_HELP)]
    specs: Vec<String>,
}

impl Publish {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        output::mappings(global, &global.client()?.publish(&self.name, &self.specs)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
