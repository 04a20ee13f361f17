//! `netbpf run`

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, ExitCode};

use anyhow::{Context as _, anyhow};
use clap::Args;
use netbpf_user::api::Client;
use netbpf_user::api::types::{Container, CreateRequest};
use netbpf_user::process::{Entry, Failure, Files, Foreground, Launch, Namespaces};

use super::container::ContainerFlags;
use super::{Global, output};

/// Run a process in a network namespace of its own
///
/// It has its own hostname, /etc/hosts and /etc/resolv.conf, and the host's file system. In the foreground the exit code
/// is the command's: 128 and the signal when one ended it, 127 when it was not found.
#[derive(Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  netbpf run --rm -- ip address
  netbpf run -d --name web -p 8080:80 -- nginx -g 'daemon off;'
  netbpf run -d -p 127.0.0.1:5353:53/udp -p 8000-8010:9000-9010 --ip 172.30.0.7 -- my-server"
)]
pub(super) struct Run {
    /// In the background; prints the name
    #[arg(short, long)]
    detach: bool,
    /// For Docker's sake: a command has the stdin of its caller anyway
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// For Docker's sake: a command has the terminal of its caller anyway
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Remove the container when its process ends
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    container: ContainerFlags,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    #[cfg(test)]
    pub(super) fn command(&self) -> &[OsString] {
        &self.command
    }

    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        // From here on a Ctrl-C is for the command: it cannot leave a container without one.
        let foreground = Foreground::hold().context("cannot watch for signals")?;
        let container = client.create(&CreateRequest { remove_on_exit: self.rm, ..self.container.request() })?;
        let mut child = match start(&client, &container, &self.command, self.detach) {
            Ok(child) => child,
            Err(failure) => {
                remove(&client, &container.name)?;
                eprintln!("netbpf: {failure}");
                return Ok(ExitCode::from(failure.code));
            }
        };
        if self.detach {
            let running = match client.container(&container.name) {
                // It has ended already, and the agent has forgotten it as it was told to.
                Err(error) if self.rm && error.is_not_found() => container,
                running => running?,
            };
            return output::made(global, &running);
        }
        let status = foreground.wait(&mut child).context("cannot wait for the command")?;
        if self.rm {
            remove(&client, &container.name)?;
        }
        Ok(ExitCode::from(Foreground::exit_code(status)))
    }
}

/// Starts the command; the agent knows its process before it runs.
fn start(client: &Client, container: &Container, command: &[OsString], detach: bool) -> Result<Child, Failure> {
    let run_dir = client.socket().parent().unwrap_or(Path::new("/"));
    let files = Files::of(run_dir, &container.name);
    let log = if detach { files.create_log().map(Some) } else { Ok(None) };
    let log = log.map_err(|error| Failure::underway("make the log of the container", error))?;
    let entry = Entry {
        netns: container.netns.clone().into(),
        namespaces: Namespaces::New { hostname: container.hostname.clone(), files },
        session: detach,
        pipes: None,
    };
    let launch =
        Launch::start(entry, command, log.as_ref()).map_err(|error| Failure::underway("start a process", error))?;
    if let Err(error) = client.set_process(&container.name, launch.pid()) {
        launch.abandon();
        return Err(Failure { code: 1, line: error.to_string() });
    }
    launch.go()
}

/// The agent may have been faster.
fn remove(client: &Client, name: &str) -> anyhow::Result<()> {
    match client.remove(name, true) {
        Err(error) if !error.is_not_found() => Err(anyhow!(error)),
        _ => Ok(()),
    }
}
