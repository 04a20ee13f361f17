//! `netbpf network`

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use netbpf_user::api::types::{ConnectRequest, NetworkRequest};

use super::{Global, output};

/// Make, list and remove networks, and say who is in them
#[derive(Args)]
pub(super) struct Network {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Create(Create),
    #[command(alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(alias = "remove")]
    Rm(Rm),
    Prune(Prune),
    Connect(Connect),
    Disconnect(Disconnect),
}

/// Make a network; prints its name
#[derive(Args)]
#[command(after_help = "\
Options of -o, and what they are by default:
  mtu=BYTES                  MTU of the containers' devices (that of the agent's settings)
  masquerade=on|off          whether containers leave under an address of the host (on)
  mode=MODE, mode_v6=MODE    masquerade, routed, plain or closed, of IPv6 also prefix (masquerade)
  external_prefix_v6=PREFIX  what addresses are translated to, for mode_v6=prefix
  snat=A, snat_v6=A          the address of the host to masquerade under (the uplink's)
  isolation=on|off           whether networks with isolation=off reach this one (on)
  full_cone=on|off           one NAT port for each port, open to everybody (that of the settings)
  clamp_mss=on|off           hold the MSS of connections with the world down (that of the settings)
  device=veth|netkit         what containers' devices are; netkit where the kernel has it, else veth (that of the settings)
Docker's names for them (com.docker.network.driver.mtu and others) are understood.
Of macvlan and ipvlan, which bypass the host, besides mtu:
  parent=DEVICE              the device of the host that containers are on; DEVICE.N makes VLAN N of it
  macvlan_mode=MODE          bridge, private, vepa or passthru (bridge)
  ipvlan_mode=MODE           l2, l3 or l3s (l2)

Examples:
  netbpf network create front
  netbpf network create --subnet 10.5.0.0/24 --gateway 10.5.0.254 --ip-range 10.5.0.128/25 back
  netbpf network create --ipv6 -o mtu=1450 six
  netbpf network create --internal vault
  netbpf network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 --gateway 192.168.1.1 \\
      --ip-range 192.168.1.192/26 lan")]
struct Create {
    /// Subnet; at most one of each family, one of the agent's pools by default
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// Gateway of a subnet; its first address by default, of macvlan and ipvlan none
    #[arg(long, value_name = "A")]
    gateway: Vec<String>,
    /// Part of a subnet that containers get their addresses from
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// An address that no container gets
    #[arg(long, value_name = "N=A", value_parser = pair)]
    aux_address: Vec<(String, String)>,
    /// With IPv6: unique local addresses where no subnet of IPv6 is named
    #[arg(long)]
    ipv6: bool,
    /// Nothing goes out or comes in
    #[arg(long)]
    internal: bool,
    /// bridge, macvlan or ipvlan
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Options, see below
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = pair)]
    options: Vec<(String, String)>,
    /// The network
    #[arg(value_name = "NAME")]
    name: String,
}

/// List networks
#[derive(Args)]
struct Ls {
    /// Print names alone
    #[arg(short, long)]
    quiet: bool,
}

/// Remove all networks that nobody is in; prints their names
#[derive(Args)]
struct Prune {
    /// For Docker's sake: nobody is asked anyway
    #[arg(short, long, hide = true)]
    force: bool,
}

/// Show all there is to know about networks, in JSON
#[derive(Args)]
struct Inspect {
    /// The networks; a list is printed for several
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Remove networks that nobody is in; prints their names
#[derive(Args)]
struct Rm {
    /// The networks
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Connect a container to a network, live
#[derive(Args)]
struct Connect {
    /// IPv4 address; a free one by default
    #[arg(long, value_name = "A")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address; a free one by default, where the network has IPv6
    #[arg(long, value_name = "A")]
    ip6: Option<Ipv6Addr>,
    /// MAC address; derived from the address by default
    #[arg(long, value_name = "M")]
    mac_address: Option<String>,
    /// Another name for it in this network
    #[arg(long, value_name = "A")]
    alias: Vec<String>,
    /// The network
    #[arg(value_name = "NET")]
    network: String,
    /// The container
    #[arg(value_name = "NAME")]
    container: String,
}

/// Take a container out of a network, live
#[derive(Args)]
struct Disconnect {
    /// The network
    #[arg(value_name = "NET")]
    network: String,
    /// The container
    #[arg(value_name = "NAME")]
    container: String,
}

/// A name and its value.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

/// Pairs as a map; a name that is there twice is a mistake.
fn map(what: &str, pairs: Vec<(String, String)>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        anyhow::ensure!(!map.contains_key(&name), "{what} {name} is given twice: leave one out");
        map.insert(name, value);
    }
    Ok(map)
}

impl Network {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Create(create) => create.run(global),
            Verb::Ls(ls) => ls.run(global),
            Verb::Inspect(inspect) => inspect.run(global),
            Verb::Rm(rm) => rm.run(global),
            Verb::Prune(_) => {
                let removed = global.client()?.prune_networks()?;
                names(global, &removed)
            }
            Verb::Connect(connect) => connect.run(global),
            Verb::Disconnect(Disconnect { network, container }) => {
                let container = global.client()?.disconnect(&network, &container)?;
                if global.json { output::json(&container).map(|()| ExitCode::SUCCESS) } else { Ok(ExitCode::SUCCESS) }
            }
        }
    }
}

impl Create {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let request = NetworkRequest {
            name: self.name,
            driver: self.driver,
            subnets: self.subnet,
            gateways: self.gateway,
            ip_ranges: self.ip_range,
            aux_addresses: map("auxiliary address", self.aux_address)?,
            ipv6: self.ipv6,
            internal: self.internal,
            options: map("option", self.options)?,
        };
        let network = global.client()?.create_network(&request)?;
        for line in &network.warnings {
            eprintln!("netbpf: {line}");
        }
        if global.json {
            output::json(&network)?;
        } else {
            output::print(&network.name)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Ls {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let networks = global.client()?.networks()?;
        if global.json {
            output::json(&networks)?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            networks.iter().try_for_each(|network| output::print(&network.name))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = output::table(["NAME", "DRIVER", "SUBNETS", "CONTAINERS", "INTERNAL", "AGE"]);
        for network in networks {
            table.add_row([
                network.name,
                network.driver,
                network.subnets.join(", "),
                network.containers.len().to_string(),
                if network.internal { "yes" } else { "no" }.into(),
                output::age(output::seconds_since(network.created)),
            ]);
        }
        output::print_table(&table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn names(global: &Global, names: &[String]) -> anyhow::Result<ExitCode> {
    if global.json {
        output::json(&names)?;
    } else {
        names.iter().try_for_each(output::print)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Inspect {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        let networks = self.names.iter().map(|name| client.network(name)).collect::<Result<Vec<_>, _>>()?;
        match networks.as_slice() {
            [network] => output::json(network)?,
            networks => output::json(&networks)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Rm {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = global.client()?;
        output::removed(global, &self.names, |name| client.remove_network(name))
    }
}

impl Connect {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let Self { ip, ip6, mac_address, alias: aliases, network, container } = self;
        let request = ConnectRequest { container, ip, ip6, mac_address, aliases };
        let container = global.client()?.connect(&network, &request)?;
        if global.json {
            output::json(&container)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
