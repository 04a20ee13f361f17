//! From what somebody asks of a network to what is kept of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::bridge_options::{OPTIONS, Options};
use super::check;
use super::describe::{CONTAINER, HOST, NONE};
use super::lan_options::{self, LanRequest};
use super::network::{DEFAULT_NETWORK, now, random_id};
use super::parent::Parent;
use crate::api::types::NetworkRequest;
use crate::config::subnet::LARGEST_MTU;
use crate::config::{Addressing, DeviceKind, GatewayMode, Part, subnet};
use crate::error::{Error, Result};
use crate::store::{Driver, Lan, NetworkRecord};

/// Most addresses that a network can keep from its containers by name.
const MOST_RESERVED: usize = 256;

/// Longest name of what such an address is for, in bytes.
const LONGEST_USE: usize = 255;

/// A request that has been read: what is left open is for the instance to choose.
#[derive(Debug)]
pub(super) struct Requested {
    pub(super) name: String,
    v4: Option<RequestedPart>,
    v6: Option<RequestedPart>,
    has_v6: bool,
    reserved: BTreeMap<String, IpAddr>,
    internal: bool,
    lan: Option<LanRequest>,
    options: Options,
}

/// What is said of one family's part.
#[derive(Debug)]
struct RequestedPart {
    subnet: IpNet,
    gateway: Option<IpAddr>,
    range: Option<IpNet>,
}

pub(super) fn invalid(line: String) -> Error {
    Error::Invalid(line)
}

impl NetworkRecord {
    /// Refuses what does not go together, whoever has said which part of it.
    pub(super) fn check(&self) -> Result<()> {
        subnet::check_mtu(self.mtu, self.addressing.v6.is_some())
    }
}

impl Requested {
    /// Refuses what makes no sense by itself.
    pub(super) fn read(request: &NetworkRequest) -> Result<Self> {
        let name = &request.name;
        check::name("network", name)?;
        if [HOST, NONE, DEFAULT_NETWORK, CONTAINER.trim_end_matches(':')].contains(&&**name) {
            return Err(invalid(format!("the network name {name} is reserved: choose another")));
        }
        let lan = LanRequest::read(request)?;
        let mut parts = parts(request)?;
        let v6 = parts.iter().position(|part| part.subnet.addr().is_ipv6()).map(|place| parts.remove(place));
        let v4 = parts.pop();
        let has_v6 = request.ipv6 || v6.is_some();
        if has_v6 && !crate::net::has_ipv6() {
            return Err(Error::Unsupported("the kernel has no IPv6: make the network without".into()));
        }
        let its = request.options.iter().filter(|(name, _)| !lan_options::is_option(name));
        let options = Options::read(its)?;
        let given = |name: &str| {
            OPTIONS.iter().find(|(own, _)| *own == name).is_some_and(|(own, theirs)| {
                request.options.contains_key(*own) || theirs.iter().any(|theirs| request.options.contains_key(*theirs))
            })
        };
        if let Some(name) = ["mode_v6", "snat_v6", "external_prefix_v6"].into_iter().find(|name| !has_v6 && given(name))
        {
            return Err(invalid(format!("the option {name} is of no use without IPv6: add --ipv6, or leave it out")));
        }
        let outward =
            ["masquerade", "mode", "mode_v6", "snat", "snat_v6", "external_prefix_v6", "isolation", "full_cone"];
        if let Some(name) = outward.into_iter().find(|name| request.internal && given(name)) {
            return Err(invalid(format!(
                "the option {name} is of no use in an internal network: leave one of them out"
            )));
        }
        match (options.mode_v6, options.external, &v6) {
            (GatewayMode::Prefix, None, _) => {
                return Err(invalid(
                    "mode_v6=prefix needs to know what addresses are translated to: add -o external_prefix_v6=PREFIX"
                        .into(),
                ));
            }
            (GatewayMode::Prefix, Some(external), v6) => {
                let length = v6.as_ref().map_or(64, |part| part.subnet.prefix_len());
                subnet::check_external("external_prefix_v6", external, length)?;
            }
            (_, Some(external), _) => {
                return Err(invalid(format!("external_prefix_v6 {external} is for mode_v6=prefix: add that too")));
            }
            (_, None, _) => {}
        }
        let reserved = reserved(request, [v4.as_ref(), v6.as_ref()], lan.is_some())?;
        Ok(Self { name: name.clone(), v4, v6, has_v6, reserved, internal: request.internal, lan, options })
    }

    /// What is said of the device that it is to lie on, if it is to lie on one.
    pub(super) fn lan(&self) -> Option<&LanRequest> {
        self.lan.as_ref()
    }

    /// Whether the instance is to choose a subnet of a family.
    pub(super) fn lacks_subnet(&self, is_ipv4: bool) -> bool {
        if is_ipv4 { self.v4.is_none() } else { self.has_v6 && self.v6.is_none() }
    }

    /// Addresses of the host that it is to masquerade under.
    pub(super) fn snat(&self) -> impl Iterator<Item = IpAddr> {
        self.options.snat.into_iter().chain(self.options.snat_v6)
    }

    /// What is kept of it, with subnets chosen where none was named, and the settings' values for what was not said; of one on a
    /// device of the host, that device's.
    pub(super) fn record(
        self,
        number: u16,
        chosen: &[IpNet],
        like: &NetworkRecord,
        parent: Option<Parent>,
    ) -> NetworkRecord {
        let named = [&self.v4, &self.v6].into_iter().flatten().filter_map(|part| part.gateway).collect();
        let most = parent.as_ref().map_or(like.mtu, |parent| parent.mtu.min(LARGEST_MTU));
        let lan = self.lan.zip(parent).map(|(request, Parent { name, made, .. })| {
            Driver::Lan(Lan { parent: name, made, mode: request.mode, gateways: named })
        });
        let driver = lan.unwrap_or(Driver::Bridge);
        let is_ours = driver == Driver::Bridge;
        let Options { mtu, mode, mode_v6, external, snat, snat_v6, isolated, full_cone, clamp_mss, device } =
            self.options;
        let chosen_of = |is_ipv4: bool| {
            let subnet = *chosen.iter().find(|subnet| subnet.addr().is_ipv4() == is_ipv4)?;
            Some(RequestedPart { subnet, gateway: None, range: None })
        };
        let part = |requested: Option<RequestedPart>, mode, external, snat| {
            let RequestedPart { subnet, gateway, range } = requested?;
            let gateway = gateway.unwrap_or_else(|| first_host(subnet));
            let mode = if self.internal { GatewayMode::Closed } else { mode };
            Some(Part { subnet, gateway, range: range.unwrap_or(subnet), mode, external, snat })
        };
        NetworkRecord {
            name: self.name,
            id: random_id(),
            number,
            driver,
            addressing: Addressing {
                v4: part(self.v4.or_else(|| chosen_of(true)), mode, None, snat),
                v6: part(self.v6.or_else(|| chosen_of(false)), mode_v6, external, snat_v6),
            },
            reserved: self.reserved,
            mtu: mtu.unwrap_or(most),
            internal: self.internal,
            isolated,
            full_cone: full_cone.unwrap_or(is_ours && like.full_cone),
            clamp_mss: clamp_mss.unwrap_or(is_ours && like.clamp_mss),
            device: device.unwrap_or(if is_ours { like.device } else { DeviceKind::Veth }),
            last: Vec::new(),
            created: now(),
        }
    }
}

fn first_host(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => std::net::Ipv4Addr::from_bits(subnet.network().to_bits() + 1).into(),
        IpNet::V6(subnet) => Ipv6Addr::from_bits(subnet.network().to_bits() + 1).into(),
    }
}

pub(super) fn parse<T: FromStr>(what: &str, text: &str, example: &str) -> Result<T> {
    text.parse().map_err(|_| invalid(format!("bad {what} '{}': write one as {example}", text.escape_debug())))
}

/// The parts that the subnets name, with the gateways and ranges that lie in them.
fn parts(request: &NetworkRequest) -> Result<Vec<RequestedPart>> {
    let mut parts: Vec<RequestedPart> = Vec::new();
    for text in &request.subnets {
        let subnet: IpNet = parse("subnet", text, "10.5.0.0/24 or fd00:5::/64")?;
        subnet::check_subnet("subnet", subnet)?;
        if let Some(other) = parts.iter().find(|part| part.subnet.addr().is_ipv4() == subnet.addr().is_ipv4()) {
            return Err(invalid(format!(
                "subnets {} and {subnet} are of the same family: a network has at most one of each",
                other.subnet
            )));
        }
        parts.push(RequestedPart { subnet, gateway: None, range: None });
    }
    let no_subnet = |what: &str, text: &str| {
        invalid(format!("{what} {text} is in no subnet of the network: add --subnet with the one that it is in"))
    };
    for text in &request.gateways {
        let gateway: IpAddr = parse("gateway", text, "10.5.0.1")?;
        let of_family = parts.iter_mut().find(|part| part.subnet.addr().is_ipv4() == gateway.is_ipv4());
        let part = of_family.ok_or_else(|| no_subnet("gateway", text))?;
        subnet::check_gateway("gateway", gateway, part.subnet)?;
        if part.gateway.replace(gateway).is_some() {
            return Err(invalid(format!("subnet {} has two gateways: name one", part.subnet)));
        }
    }
    for text in &request.ip_ranges {
        let range: IpNet = parse("IP range", text, "10.5.0.128/25")?;
        let of_family = parts.iter_mut().find(|part| part.subnet.addr().is_ipv4() == range.addr().is_ipv4());
        let part = of_family.ok_or_else(|| no_subnet("IP range", text))?;
        subnet::check_range("IP range", range, part.subnet)?;
        if part.range.replace(range).is_some() {
            return Err(invalid(format!("subnet {} has two IP ranges: name one", part.subnet)));
        }
    }
    Ok(parts)
}

fn reserved(
    request: &NetworkRequest,
    parts: [Option<&RequestedPart>; 2],
    is_lan: bool,
) -> Result<BTreeMap<String, IpAddr>> {
    check::few("auxiliary addresses", request.aux_addresses.len(), MOST_RESERVED)?;
    if let Some(name) = request.aux_addresses.keys().find(|name| name.len() > LONGEST_USE) {
        return Err(invalid(format!(
            "bad name '{}' of an auxiliary address: write at most {LONGEST_USE} letters",
            name.escape_debug()
        )));
    }
    let gateway = |part: &RequestedPart| part.gateway.or((!is_lan).then(|| first_host(part.subnet)));
    let mut reserved = BTreeMap::new();
    for (name, text) in &request.aux_addresses {
        let address: IpAddr = parse("auxiliary address", text, "router=10.5.0.2")?;
        if !parts.iter().flatten().any(|part| part.subnet.contains(&address)) {
            return Err(invalid(format!("auxiliary address {name}={address} is in no subnet of the network")));
        }
        if parts.iter().flatten().any(|part| gateway(part) == Some(address)) {
            return Err(invalid(format!("auxiliary address {name}={address} is the gateway's: choose another")));
        }
        if let Some((other, _)) = reserved.iter().find(|(_, other)| **other == address) {
            return Err(invalid(format!("auxiliary addresses {other} and {name} are the same ({address})")));
        }
        reserved.insert(name.clone(), address);
    }
    Ok(reserved)
}

/// The first subnet of this size in a pool that nobody has.
pub(super) fn free_subnet(pool: Ipv4Net, size: u8, is_free: impl Fn(IpNet) -> bool) -> Option<IpNet> {
    pool.subnets(size).ok()?.map(IpNet::V4).find(|subnet| is_free(*subnet))
}

#[cfg(test)]
mod tests {
    use super::super::network::Network;
    use super::*;
    use crate::config::Settings;

    fn request(change: impl FnOnce(&mut NetworkRequest)) -> Result<Requested> {
        let mut request = NetworkRequest { name: "n".into(), ..NetworkRequest::default() };
        change(&mut request);
        Requested::read(&request)
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    fn options(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_line() {
        type Case = (fn(&mut NetworkRequest), &'static str);
        let cases: &[Case] = &[
            (|r| r.name = "a/b".into(), "a/b"),
            (|r| r.name = String::new(), "network name"),
            (|r| r.name = "x".repeat(64), "network name"),
            (|r| r.name = "host".into(), "reserved"),
            (|r| r.name = "none".into(), "reserved"),
            (|r| r.name = "default".into(), "reserved"),
            (|r| r.driver = "overlay".into(), "overlay"),
            (|r| r.subnets = strings(&["10.5.0.0"]), "10.5.0.0/24"),
            (|r| r.subnets = strings(&["10.5.0.1/24"]), "10.5.0.0/24"),
            (|r| r.subnets = strings(&["10.5.0.0/33"]), "10.5.0.0/33"),
            (|r| r.subnets = strings(&["10.5.0.0/30"]), "/29"),
            (|r| r.subnets = strings(&["224.0.0.0/24"]), "unicast"),
            (|r| r.subnets = strings(&["fe80::/64"]), "link-local"),
            (|r| r.subnets = strings(&["fd00::/32"]), "/48"),
            (|r| r.subnets = strings(&["10.5.0.0/24", "10.6.0.0/24"]), "same family"),
            (|r| r.gateways = strings(&["10.5.0.1"]), "--subnet"),
            (|r| (r.subnets, r.gateways) = (strings(&["10.5.0.0/24"]), strings(&["10.6.0.1"])), "10.6.0.1"),
            (|r| (r.subnets, r.gateways) = (strings(&["10.5.0.0/24"]), strings(&["10.5.0.255"])), "10.5.0.255"),
            (|r| (r.subnets, r.gateways) = (strings(&["10.5.0.0/24"]), strings(&["x"])), "bad gateway"),
            (
                |r| (r.subnets, r.gateways) = (strings(&["10.5.0.0/24"]), strings(&["10.5.0.1", "10.5.0.2"])),
                "two gateways",
            ),
            (|r| (r.subnets, r.ip_ranges) = (strings(&["10.5.0.0/24"]), strings(&["10.6.0.0/25"])), "10.6.0.0/25"),
            (|r| (r.subnets, r.ip_ranges) = (strings(&["10.5.0.0/24"]), strings(&["10.5.0.1/25"])), "host bits"),
            (
                |r| (r.subnets, r.aux_addresses) = (strings(&["10.5.0.0/24"]), options(&[("a", "10.6.0.9")])),
                "a=10.6.0.9",
            ),
            (
                |r| (r.subnets, r.aux_addresses) = (strings(&["10.5.0.0/24"]), options(&[("a", "10.5.0.1")])),
                "gateway's",
            ),
            (|r| r.options = options(&[("mtuu", "9")]), "mtu"),
            (|r| r.options = options(&[("mtu", "many")]), "many"),
            (|r| r.options = options(&[("isolation", "maybe")]), "on or off"),
            (|r| r.options = options(&[("device", "netkit2")]), "veth and netkit"),
            (|r| r.options = options(&[("device", "")]), "veth and netkit"),
            (|r| r.options = options(&[("mode", "prefix")]), "IPv6 alone"),
            (|r| r.options = options(&[("mode", "bridged")]), "masquerade, routed"),
            (|r| r.options = options(&[("mode", "routed"), ("masquerade", "on")]), "different things"),
            (|r| r.options = options(&[("mode", "routed"), ("snat", "10.0.0.1")]), "masquerading"),
            (|r| r.options = options(&[("snat", "fd00::1")]), "other family"),
            (|r| (r.ipv6, r.options) = (true, options(&[("mode_v6", "prefix")])), "external_prefix_v6"),
            (|r| r.options = options(&[("mode_v6", "routed")]), "without IPv6"),
            (|r| (r.internal, r.options) = (true, options(&[("isolation", "off")])), "internal"),
            (|r| (r.internal, r.options) = (true, options(&[("masquerade", "on")])), "internal"),
            (|r| (r.ipv6, r.options) = (true, options(&[("external_prefix_v6", "2001:db8::/64")])), "mode_v6=prefix"),
            (
                |r| {
                    r.ipv6 = true;
                    r.options = options(&[("mode_v6", "prefix"), ("external_prefix_v6", "2001:db8::/56")]);
                },
                "as long as",
            ),
            (|r| r.options = options(&[("mtu", "1400"), ("com.docker.network.driver.mtu", "1400")]), "twice"),
        ];
        for (change, word) in cases {
            let line = request(change).unwrap_err().to_string();
            assert!(line.contains(word) && !line.contains('\n'), "`{word}` is not named: {line}");
        }
    }

    #[test]
    fn an_mtu_must_fit_the_families() {
        let like = Network::of_settings(&Settings::default(), Addressing::default(), None).record;
        let check = |ipv6, mtu: &str| {
            let requested = request(|r| (r.ipv6, r.options) = (ipv6, options(&[("mtu", mtu)]))).unwrap();
            let chosen = ["10.0.0.0/24", "fd00::/64"].map(|net| net.parse().unwrap());
            requested
                .record(2, &chosen[..if ipv6 { 2 } else { 1 }], &like, None)
                .check()
                .map_err(|error| error.to_string())
        };
        assert!(check(false, "9").unwrap_err().contains("576"));
        assert!(check(true, "1000").unwrap_err().contains("1280"));
        check(false, "1000").unwrap();
    }

    #[test]
    fn dockers_words_mean_what_ours_do() {
        let given = options(&[
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.enable_ip_masquerade", "false"),
        ]);
        let requested = request(|r| r.options = given).unwrap();
        assert_eq!((requested.options.mtu, requested.options.mode), (Some(1400), GatewayMode::Plain));
    }

    #[test]
    fn the_first_free_subnet_of_a_pool_is_chosen() {
        let pool = "10.0.0.0/22".parse().unwrap();
        let taken: IpNet = "10.0.0.0/23".parse().unwrap();
        let free = free_subnet(pool, 24, |subnet| !taken.contains(&subnet)).unwrap();
        assert_eq!(free.to_string(), "10.0.2.0/24");
        assert_eq!(free_subnet(pool, 24, |_| false), None);
    }
}
