//! `netbpf exec`

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use netbpf_user::process::{self, Entry, Files, Namespaces};

use super::Global;

/// Run a command in the namespaces of a container
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf exec web -- ss -ltn
  netbpf exec box -- ping -c1 172.30.0.1")]
pub(super) struct Exec {
    /// For Docker's sake: a command has the stdin of its caller anyway
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// For Docker's sake: a command has the terminal of its caller anyway
    #[arg(short, long, hide = true)]
    tty: bool,
    /// The container
    name: String,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        let container = client.container(&self.name)?;
        if container.netns.is_empty() {
            bail!("container {} is a machine behind a tap: log in there", self.name);
        }
        let namespaces = if container.status == "running" {
            Namespaces::Of(container.pid)
        } else {
            let files = Files::of(client.socket().parent().unwrap_or(Path::new("/")), &container.name);
            Namespaces::New { hostname: container.hostname.clone(), files }
        };
        let entry = Entry { netns: container.netns.into(), namespaces, session: false, pipes: None };
        Err(process::replace(&entry, &self.command)).context("cannot start a process")
    }
}
