//! The flags that `run`, `create` and `attach` share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netbpf_user::api::types::CreateRequest;

/// What SPEC is. Rust's documentation would take the brackets for links.
pub(super) const SPEC_HELP: &str = "Publish: [HOST_IP:][HOST_PORT[-HOST_PORT]]:CONTAINER_PORT[-CONTAINER_PORT][/tcp|/udp|/sctp]\
    [,allow=CIDR]...[,interface=IF]...; CONTAINER_PORT alone, or HOST_IP::CONTAINER_PORT, chooses a free host port. Without HOST_IP \
    all addresses of the host are meant; an IPv6 address stands in brackets, [::] for all of them. allow and interface leave out \
    clients from other addresses, and those who come in by other devices";

/// The network of a container.
#[derive(clap::Args)]
pub(super) struct NetworkFlags {
    /// A network, host, none, or container:NAME for the network of that one
    #[arg(long, alias = "net", value_name = "NET")]
    network: Option<String>,
    /// Another name for it in that network
    #[arg(long = "network-alias", alias = "net-alias", value_name = "A")]
    aliases: Vec<String>,
    /// IPv4 address; a free one of the pool by default
    #[arg(long, value_name = "A")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address; a free one of the pool by default, where the network has IPv6
    #[arg(long, value_name = "A")]
    ip6: Option<Ipv6Addr>,
    /// MAC address; derived from the address by default
    #[arg(long, value_name = "M")]
    mac_address: Option<String>,
    /// Resolver for what is not of its networks; the host's by default
    #[arg(long, value_name = "A")]
    dns: Vec<IpAddr>,
    /// Domain that names are looked for in; the host's by default, . for none
    #[arg(long, value_name = "D")]
    dns_search: Vec<String>,
    /// Option of its resolver, as ndots:2
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "O")]
    dns_options: Vec<String>,
    /// A host that it is told of; host-gateway for the host's own address
    #[arg(long = "add-host", value_name = "NAME:IP")]
    extra_hosts: Vec<String>,
    #[arg(short, long, value_name = "SPEC", help = SPEC_HELP)]
    publish: Vec<String>,
    /// Publish container ports (80, 53/udp, 8000-8010) on free host ports
    #[arg(short = 'P', long, value_name = "EXPOSED")]
    publish_exposed: Vec<String>,
}

impl NetworkFlags {
    pub(super) fn request(self) -> CreateRequest {
        CreateRequest {
            network: self.network,
            aliases: self.aliases,
            ip: self.ip,
            ip6: self.ip6,
            mac_address: self.mac_address,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_options: self.dns_options,
            extra_hosts: self.extra_hosts,
            publish: self.publish,
            publish_exposed: self.publish_exposed,
            ..Default::default()
        }
    }
}

/// A container that is made.
///
/// `-h` is the hostname, as Docker has it, so that the verbs with these flags have `--help` alone.
#[derive(clap::Args)]
pub(super) struct ContainerFlags {
    /// Name; one is made up by default
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Hostname; the name by default
    #[arg(short = 'h', long, value_name = "H")]
    hostname: Option<String>,
    #[command(flatten)]
    network: NetworkFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl ContainerFlags {
    pub(super) fn request(self) -> CreateRequest {
        CreateRequest { name: self.name, hostname: self.hostname, ..self.network.request() }
    }
}
