//! Whom restricted publishes let in, as the datapath is told.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use netbpf_common::abi::{RuleFlags, Visitors};
use netbpf_common::wire::{V4Addr, V6Addr};

use super::Engine;
use super::host::flag;
use super::state::{HostState, State};
use crate::datapath::{Datapath, InFamily};
use crate::error::{Error, Result};
use crate::spec::{Allowed, Host, PublishSpec};
use crate::store::RuleRecord;

impl HostState {
    /// The devices that clients can come in by.
    pub(super) fn ways_in(&self) -> BTreeMap<&str, u32> {
        self.uplinks.iter().map(|(ifindex, uplink)| (&*uplink.name, *ifindex)).collect()
    }
}

impl Engine {
    /// Lets the datapath let in who is to be let in by the devices that there are now.
    pub(super) fn follow_visitors(&self, state: &State) -> Result<()> {
        let rules = || state.containers.values().flat_map(|record| &record.rules);
        reconcile::<V4Addr>(&self.datapath, &state.host, rules())?;
        reconcile::<V6Addr>(&self.datapath, &state.host, rules())
    }
}

/// What the rule says of its lists.
pub(super) fn flags(allowed: &Allowed) -> u32 {
    flag(allowed.is_restricted(), RuleFlags::RESTRICTED) | flag(!allowed.interfaces.is_empty(), RuleFlags::BY_DEVICE)
}

/// Refuses lists that leave nobody.
pub(super) fn check(spec: &PublishSpec, host: &HostState) -> Result<()> {
    let allowed = &spec.allowed;
    if !allowed.is_restricted() {
        return Ok(());
    }
    let ways_in = host.ways_in();
    if let Some(name) = allowed.interfaces.iter().find(|name| !ways_in.contains_key(&***name)) {
        let known: Vec<&str> = ways_in.into_keys().collect();
        return Err(Error::Invalid(format!(
            "publish {spec}: nobody comes in by a device {name}: there are {}",
            known.join(", ")
        )));
    }
    match spec.host_ip {
        Some(address) if address.is_loopback() => Err(Error::Invalid(format!(
            "publish {spec}: {} is for the host's own processes, which no list leaves out: leave {allowed} out",
            Host(address)
        ))),
        Some(address) if !allowed.has_family(address.is_ipv4()) => Err(Error::Invalid(format!(
            "publish {spec}: nobody comes to {} from an address of the other family: allow a prefix of its own",
            Host(address)
        ))),
        _ => Ok(()),
    }
}

/// Those whom a rule lets in, of the family that it is published on.
fn visitors<A: InFamily>(rule: &RuleRecord, ways_in: &BTreeMap<&str, u32>) -> Vec<Visitors<A>> {
    if A::of(rule.host_ip).is_none() || !rule.allowed.is_restricted() {
        return Vec::new();
    }
    let Allowed { allow, interfaces } = &*rule.allowed;
    let devices: Vec<u32> = match &interfaces[..] {
        [] => vec![0],
        names => names.iter().filter_map(|name| ways_in.get(&**name)).copied().collect(),
    };
    let prefixes: Vec<(A, u8)> = match &allow[..] {
        [] => vec![(A::default(), 0)],
        prefixes => prefixes.iter().filter_map(|it| Some((A::of(it.addr())?, it.prefix_len()))).collect(),
    };
    let of = |device| {
        prefixes.iter().map(move |(prefix, length)| Visitors::new(rule.rule, device, *prefix, u32::from(*length)))
    };
    devices.into_iter().flat_map(of).collect()
}

/// Lets them in. Before the rule is there: it is for nobody until then.
pub(super) fn let_in<A: InFamily>(datapath: &Datapath, host: &HostState, rules: &[RuleRecord]) -> Result<()> {
    let ways_in = host.ways_in();
    let keys: Vec<Visitors<A>> = rules.iter().flat_map(|rule| visitors(rule, &ways_in)).collect();
    A::maps(&datapath.maps).allowed.set_all(&keys, &vec![1; keys.len()])
}

/// Forgets whom rules have let in that are no more.
pub(super) fn forget<A: InFamily>(datapath: &Datapath, rules: &[RuleRecord]) -> Result<()> {
    let restricted = rules.iter().filter(|rule| rule.allowed.is_restricted());
    let numbers: BTreeSet<u32> = restricted.map(|rule| rule.rule).collect();
    if numbers.is_empty() {
        return Ok(());
    }
    let table = &A::maps(&datapath.maps).allowed;
    let theirs = table.entries()?.into_iter().filter(|(them, _)| numbers.contains(&them.first.rule));
    theirs.map(|(them, _)| them).try_for_each(|them| table.remove(them))
}

fn reconcile<'a, A: InFamily>(
    datapath: &Datapath,
    host: &HostState,
    rules: impl Iterator<Item = &'a RuleRecord>,
) -> Result<()> {
    let ways_in = host.ways_in();
    let mut wanted: HashSet<Visitors<A>> = rules.flat_map(|rule| visitors(rule, &ways_in)).collect();
    let table = &A::maps(&datapath.maps).allowed;
    for (them, _) in table.entries()? {
        if !wanted.remove(&them) {
            table.remove(them)?;
        }
    }
    let missing: Vec<Visitors<A>> = wanted.into_iter().collect();
    table.set_all(&missing, &vec![1; missing.len()])
}
