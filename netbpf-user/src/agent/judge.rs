//! What can be said of a request without an instance: for fuzzing, which has none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::check;
use super::connect::Asked;
use super::network::{Network, random_id};
use super::requested::Requested;
use super::wish::Wish;
use crate::Settings;
use crate::api::types::{ConnectRequest, CreateRequest, NetworkRequest};
use crate::config::{Addressing, unique_local};
use crate::error::Result;
use crate::spec::PublishSpec;
use crate::store::NetworkRecord;

/// A container as it was understood.
#[derive(Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its hostname.
    pub hostname: String,
    /// What it publishes.
    pub specs: Vec<PublishSpec>,
    /// Names of hosts that it is told of.
    pub hosts: Vec<String>,
}

/// A network as it was understood.
#[derive(Debug)]
pub struct JudgedNetwork {
    /// Its name.
    pub name: String,
    /// Subnet, gateway and range of each family.
    pub parts: Vec<(IpNet, IpAddr, IpNet)>,
    /// Addresses that no container gets.
    pub reserved: BTreeMap<String, IpAddr>,
    /// MTU of its containers.
    pub mtu: u32,
    /// Whether what is kept of it reads back as it is.
    pub is_kept: bool,
}

/// Judges what `create` asks for.
///
/// # Errors
/// When it is refused.
pub fn container(request: &CreateRequest) -> Result<Container> {
    let Wish { name, hostname, specs, extra_hosts, .. } = Wish::read(request, &random_id())?;
    Ok(Container { name, hostname, specs, hosts: extra_hosts.into_iter().map(|host| host.name).collect() })
}

/// Judges what `network connect` asks for.
///
/// # Errors
/// When it is refused.
pub fn end(request: &ConnectRequest) -> Result<()> {
    Asked::further(request).map(drop)
}

/// Judges what `publish` asks for.
///
/// # Errors
/// When it is refused.
pub fn publishes(specs: &[String]) -> Result<Vec<PublishSpec>> {
    check::specs(specs, &[])
}

/// Judges what `network create` asks for, on a host where every subnet is free.
///
/// # Errors
/// When it is refused.
pub fn network(request: &NetworkRequest) -> Result<JudgedNetwork> {
    let settings = Settings { ipv6: true, ..Settings::default() };
    let like = Network::of_settings(&settings, Addressing::new(&settings, [0; 5])?, None).record;
    let requested = Requested::read(request)?;
    let pool = settings.default_address_pools[0];
    let free: IpNet = pool.base.subnets(pool.size).into_iter().flatten().next().map_or(pool.base.into(), IpNet::V4);
    let chosen = [(true, free), (false, unique_local([0; 5], 2, 64).into())];
    let chosen: Vec<IpNet> =
        chosen.into_iter().filter(|(is_ipv4, _)| requested.lacks_subnet(*is_ipv4)).map(|(_, subnet)| subnet).collect();
    let record = requested.record(2, &chosen, &like, None);
    record.check()?;
    let kept = serde_json::to_vec(&record).ok().and_then(|kept| serde_json::from_slice::<NetworkRecord>(&kept).ok());
    let parts = record.addressing.parts().map(|part| (part.subnet, part.gateway, part.range)).collect();
    let is_kept = kept.as_ref() == Some(&record);
    Ok(JudgedNetwork { name: record.name, parts, reserved: record.reserved, mtu: record.mtu, is_kept })
}
