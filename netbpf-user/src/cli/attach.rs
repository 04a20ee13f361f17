//! `netbpf attach`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use netbpf_user::api::types::CreateRequest;

use super::container::NetworkFlags;
use super::{Global, output};

/// Take in a network namespace that exists, or the tap of a virtual machine; prints the name
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf attach --name box --netns /run/netns/box
  netbpf attach --name db --pid 4711 -p 5432:5432
  netbpf attach --name vm --tap tap0 --mac-address 02:42:ac:1e:00:09")]
pub(super) struct Attach {
    /// Name
    #[arg(long, value_name = "N")]
    name: String,
    #[command(flatten)]
    namespace: Namespace,
    #[command(flatten)]
    network: NetworkFlags,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Namespace {
    /// The namespace, as a path
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// The namespace of this process
    #[arg(long)]
    pid: Option<u32>,
    /// A tap device of the host; the machine behind it is to have the addresses that `inspect` shows
    #[arg(long, value_name = "DEVICE")]
    tap: Option<String>,
}

impl Attach {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let Namespace { netns, pid, tap } = self.namespace;
        let netns = netns.or_else(|| pid.map(|pid| format!("/proc/{pid}/ns/net").into()));
        let request = CreateRequest { name: Some(self.name), netns, tap, ..self.network.request() };
        output::made(global, &global.client()?.create(&request)?)
    }
}
