//! `netbpf port`

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use netbpf_user::spec::{PublishSpec, transport_name};

use super::Global;
use super::output::{self, SinglePort};

/// Show where the ports of a container are published
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf port web            80/tcp -> 0.0.0.0:32768, 80/tcp -> [::]:32768
  netbpf port web 53/udp")]
pub(super) struct Port {
    /// The container
    name: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTO]")]
    port: Option<String>,
}

impl Port {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let wanted = self.port.as_deref().map(PublishSpec::exposed).transpose()?;
        let container = global.client()?.container(&self.name)?;
        let matches = |port: &SinglePort| {
            wanted.as_ref().is_none_or(|wanted| {
                let (first, last) = wanted.container_port;
                transport_name(wanted.transport) == port.protocol
                    && (u32::from(first)..=u32::from(last)).contains(&port.container_port)
            })
        };
        let ports: Vec<SinglePort> = output::single_ports(&container.ports).filter(matches).collect();
        if let (Some(wanted), true) = (&self.port, ports.is_empty()) {
            bail!("port {wanted} of {} is not published; `netbpf port {}` lists those that are", self.name, self.name);
        }
        output::single_port_list(global, &ports)?;
        Ok(ExitCode::SUCCESS)
    }
}
