//! The words of the API: what goes over the socket, and what `--json` prints.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::Allowed;

/// `POST /v1/containers`: what `create`, `run` and `attach` ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateRequest {
    /// Name; one is made when absent.
    pub name: Option<String>,
    /// Hostname; the name when absent.
    pub hostname: Option<String>,
    /// Name of a network, `host`, `none` or `container:NAME`; the default network when absent.
    pub network: Option<String>,
    /// Other names for it in that network.
    pub aliases: Vec<String>,
    /// IPv4 address; one of the pool when absent.
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address; one of the pool when absent and the network has IPv6.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address as `02:42:ac:1e:00:05`; one derived from the address when absent.
    pub mac_address: Option<String>,
    /// Publishes in the form of SPEC (see `netbpf run --help`).
    pub publish: Vec<String>,
    /// Container ports (`80`, `53/udp`, `8000-8010`) to publish on free host ports.
    pub publish_exposed: Vec<String>,
    /// Resolvers to ask for what is not of its networks; the host's when there are none.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Domains that names are looked for in; the host's when there are none, `.` for none at all.
    pub dns_search: Vec<String>,
    /// Options of its resolver; the host's when there are none.
    pub dns_options: Vec<String>,
    /// Hosts to be told of: `NAME:IP`, or `NAME:host-gateway` for the host's address.
    pub extra_hosts: Vec<String>,
    /// `attach`: the network namespace to take in, as a path. A new one is made when absent.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// `attach`: the tap of a virtual machine to take in, as the name of a device of the host.
    pub tap: Option<String>,
    /// `run`: forget the container when its process ends.
    pub remove_on_exit: bool,
}

/// `POST /v1/containers/{name}/process`: the process that `run` has started in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessRequest {
    /// Process id as the agent's PID namespace has it.
    pub pid: u32,
}

/// `POST /v1/containers/{name}/publish` and `.../unpublish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Publishes in the form of SPEC: at most 16,384, and a range is one.
    pub publish: Vec<String>,
}

/// What `doctor` has looked at, and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do; empty when all is well.
    pub advice: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// 64 hex digits.
    pub id: String,
    /// Its hostname.
    pub hostname: String,
    /// `created` (no process), `running` or `exited`.
    pub status: String,
    /// The process `run` started; 0 for none.
    pub pid: u32,
    /// Path of its network namespace, for `nsenter --net=`; empty for a machine behind a tap.
    pub netns: String,
    /// The network that holds its default route; `host`, `none` or `container:NAME` where it has none of its own.
    pub network: String,
    /// IPv4 address; null where the network has no IPv4.
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// Prefix length of the IPv4 subnet.
    pub prefix_len: Option<u8>,
    /// IPv6 address; null where the network has no IPv6.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// Prefix length of the IPv6 subnet.
    pub prefix_len6: Option<u8>,
    /// MAC address of its end.
    pub mac: String,
    /// IPv4 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway6: Option<Ipv6Addr>,
    /// Name of the host-side device.
    pub device: String,
    /// MTU of its device, in bytes.
    pub mtu: u32,
    /// Its ends of networks, in the order in which it was connected to them.
    pub networks: Vec<End>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Its own resolvers.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Its own search domains.
    pub dns_search: Vec<String>,
    /// Its own options of the resolver.
    pub dns_options: Vec<String>,
    /// Hosts that it was told of.
    pub extra_hosts: Vec<String>,
    /// Whether its namespace was there before it (`attach`), and stays when it is removed.
    pub attached: bool,
    /// Whether it is forgotten when its process ends (`run --rm`).
    pub remove_on_exit: bool,
    /// Unix time of its creation, in seconds.
    pub created: u64,
}

impl Container {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ip.map(IpAddr::from).into_iter().chain(self.ip6.map(IpAddr::from))
    }
}

/// A container's end of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// The network.
    pub network: String,
    /// Name of the container's device: `eth0`, `eth1`, ...
    pub name: String,
    /// Other names that it has in this network.
    pub aliases: Vec<String>,
    /// IPv4 address; null where the network has no IPv4.
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// Prefix length of the IPv4 subnet.
    pub prefix_len: Option<u8>,
    /// IPv6 address; null where the network has no IPv6.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// Prefix length of the IPv6 subnet.
    pub prefix_len6: Option<u8>,
    /// MAC address of its end.
    pub mac: String,
    /// IPv4 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway6: Option<Ipv6Addr>,
    /// Whether it holds the container's default route of IPv4: the first network with a way to the world.
    pub default_route: bool,
    /// The same of IPv6.
    pub default_route6: bool,
    /// Name of the host-side device; empty where there is none (macvlan, ipvlan).
    pub device: String,
    /// Driver of the network: `bridge`, `macvlan` or `ipvlan`.
    pub driver: String,
    /// The device of the host that a macvlan or ipvlan lies on.
    pub parent: Option<String>,
    /// Mode of a macvlan or ipvlan.
    pub mode: Option<String>,
    /// MTU of its device, in bytes.
    pub mtu: u32,
    /// What its device and the one on the host's side are: `veth` or `netkit`; nothing of taps, macvlans and ipvlans.
    #[serde(default)]
    pub device_kind: Option<String>,
}

/// `POST /v1/networks`: what `network create` asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkRequest {
    /// Name.
    pub name: String,
    /// `bridge` (also when empty), `macvlan` or `ipvlan`.
    pub driver: String,
    /// Subnets, at most one of each family; of IPv4 one of the pools when there is none.
    pub subnets: Vec<String>,
    /// Gateways, each in one of the subnets; the first address when absent, of a macvlan or ipvlan none.
    pub gateways: Vec<String>,
    /// Parts of the subnets that containers get their addresses from; all of it when absent.
    pub ip_ranges: Vec<String>,
    /// Addresses that no container gets, by what they are for.
    pub aux_addresses: BTreeMap<String, String>,
    /// Whether it has IPv6: a /64 of unique local addresses when no subnet of IPv6 is named.
    pub ipv6: bool,
    /// Whether nothing goes out or comes in; of a macvlan or ipvlan, whether containers get no default route.
    pub internal: bool,
    /// Options, see `netbpf network create --help`.
    pub options: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// 64 hex digits.
    pub id: String,
    /// `bridge`, `macvlan` or `ipvlan`.
    pub driver: String,
    /// Subnets, IPv4 first.
    pub subnets: Vec<String>,
    /// Gateways, in the same order; of a macvlan or ipvlan those that were named.
    pub gateways: Vec<String>,
    /// Parts of the subnets that containers get their addresses from, where that is not all.
    pub ip_ranges: Vec<String>,
    /// Addresses that no container gets, by what they are for.
    pub aux_addresses: BTreeMap<String, String>,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether nothing goes out or comes in.
    pub internal: bool,
    /// Options.
    pub options: BTreeMap<String, String>,
    /// What is not as the options say, one line each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Who is in it.
    pub containers: Vec<Member>,
    /// Unix time of its creation, in seconds.
    pub created: u64,
}

/// A container in a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address.
    pub mac: String,
    /// Name of the host-side device.
    pub device: String,
}

/// `POST /v1/networks/{name}/connect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectRequest {
    /// The container.
    pub container: String,
    /// IPv4 address; one of the pool when absent.
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address; one of the pool when absent and the network has IPv6.
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address; one derived from the address when absent.
    pub mac_address: Option<String>,
    /// Other names for it in this network.
    pub aliases: Vec<String>,
}

/// `POST /v1/networks/{name}/disconnect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DisconnectRequest {
    /// The container.
    pub container: String,
}

/// A publish as it is in force: `count` host ports led to as many container ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(from = "FlatMapping")]
pub struct PortMapping {
    /// Address of the host; `0.0.0.0` for all of IPv4, `::` for all of IPv6.
    #[schema(value_type = String)]
    pub host_ip: IpAddr,
    /// First host port.
    pub host_port: u16,
    /// First container port.
    pub container_port: u16,
    /// Number of ports.
    pub count: u32,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Whom it is for.
    #[serde(flatten)]
    pub allowed: Allowed,
}

/// The same as it is read: with `flatten` every field would be kept aside first, and there may be ten thousands.
#[derive(Deserialize)]
struct FlatMapping {
    host_ip: IpAddr,
    host_port: u16,
    container_port: u16,
    count: u32,
    protocol: String,
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default)]
    interfaces: Vec<String>,
}

impl From<FlatMapping> for PortMapping {
    fn from(flat: FlatMapping) -> Self {
        let FlatMapping { host_ip, host_port, container_port, count, protocol, allow, interfaces } = flat;
        let allowed = Allowed { allow, interfaces };
        Self { host_ip, host_port, container_port, count, protocol, allowed }
    }
}

/// A way by which ports of a container are reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Exposure {
    /// The container.
    pub container: String,
    /// Its first port.
    pub port: u16,
    /// Number of ports.
    pub count: u32,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// How many of them somebody listens on; null where the kernel does not tell (SCTP).
    pub listeners: Option<u32>,
    /// From where.
    pub from: Vec<Origin>,
    /// The address that they are reached at: `0.0.0.0` and `::` for all addresses of the host.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The first port there.
    pub at_port: u16,
    /// Who of those from `world` and `containers` is let in.
    #[serde(flatten)]
    pub allowed: Allowed,
}

/// From where a port is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Processes of the host.
    Host,
    /// Whoever comes by a device of the host.
    World,
    /// Containers of every network that is not internal.
    Containers,
    /// Containers of this network.
    Network(String),
    /// Whoever is on the link of the parent device: the datapath has no part in it.
    Link,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Unix time since when the agent runs, in seconds.
    pub since: u64,
    /// Devices to the world.
    pub uplinks: Vec<UplinkStatus>,
    /// Programs and what they hang on.
    pub programs: Vec<ProgramStatus>,
    /// Maps and how full they are.
    pub maps: Vec<MapStatus>,
    /// Packets dropped, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// What else the datapath counts.
    pub events: BTreeMap<String, u64>,
    /// What is not as desired, one line each; `status` exits 1 when there is any.
    pub problems: Vec<String>,
}

/// A device to the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UplinkStatus {
    /// Name.
    pub name: String,
    /// ifindex.
    pub ifindex: u32,
    /// Address that masqueraded IPv4 packets leave with.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The same of IPv6.
    #[schema(value_type = Option<String>)]
    pub address6: Option<Ipv6Addr>,
}

/// A program at one of its places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgramStatus {
    /// Name.
    pub name: String,
    /// Device and direction, or cgroup.
    pub attach_point: String,
    /// Number of the BPF link; 0 for a filter (clsact), which a new device has for a moment, and every device before Linux 6.6.
    pub link_id: u32,
    /// Number of the program.
    pub program_id: u32,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MapStatus {
    /// Name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub max: u64,
}

/// One flow, both directions together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`, `icmpv6` or the protocol's number.
    pub protocol: String,
    /// `half`, `established`, `closing`, ...
    pub state: String,
    /// Who began, as it sent: address and port or echo identifier, `10.0.0.1:80` or `[fd00::1]:80`.
    pub source: String,
    /// To whom, as it was sent.
    pub destination: String,
    /// Who began, as the other side sees it.
    pub translated_source: String,
    /// Who answers, as it sees itself.
    pub translated_destination: String,
    /// Containers at its ends.
    pub containers: Vec<String>,
    /// Packets of the originator.
    pub packets: u64,
    /// Bytes of the originator from the IP header on.
    pub bytes: u64,
    /// Packets of the replies.
    pub reply_packets: u64,
    /// Bytes of the replies.
    pub reply_bytes: u64,
    /// Seconds since the last packet.
    pub idle: u64,
    /// Seconds until it is collected if nothing comes.
    pub expires: u64,
}

/// Every refusal: one clear line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What, why, what to do.
    pub error: String,
}
