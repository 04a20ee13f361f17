//! `netbpf create`

use std::process::ExitCode;

use clap::Args;

use super::container::ContainerFlags;
use super::{Global, output};

/// Make a network namespace without a process; prints the name
///
/// It is visible to `ip netns`, and to `netbpf exec`.
#[derive(Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  netbpf create --name box -p 8080:80
  netbpf create --name box --ip 172.30.0.7 && ip netns exec box ip address"
)]
pub(super) struct Create {
    #[command(flatten)]
    container: ContainerFlags,
}

impl Create {
    #[cfg(test)]
    pub(super) fn request(self) -> netbpf_user::api::types::CreateRequest {
        self.container.request()
    }

    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        output::made(global, &global.client()?.create(&self.container.request())?)
    }
}
