//! What containers see in /etc: who they are, whom they know, and whom they ask for the rest.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Engine;
use super::network::Networks;
use super::state::State;
use crate::config::Settings;
use crate::error::{Context as _, Error, Result};
use crate::failpoint;
use crate::net::namespace;
use crate::process::{Contents, Files};
use crate::store::ContainerRecord;
use crate::trust;

/// Most servers that a resolver asks (resolv.conf(5), MAXNS).
const MOST_SERVERS: usize = 3;

/// What `--add-host` says for the host's own address.
pub(super) const HOST_GATEWAY: &str = "host-gateway";

/// Where `ip netns exec` looks for files to mount over those of /etc (ip-netns(8)).
pub(super) const OF_NAMESPACES: &str = "/etc/netns";

impl Engine {
    /// Writes the files of a container, and of those who share its namespace.
    pub(super) fn write_files(&self, state: &State, record: &ContainerRecord) -> Result<()> {
        let owner = record.shared_with.as_ref().and_then(|name| state.containers.get(name)).unwrap_or(record);
        self.write_own_files(&state.networks, record, owner)?;
        let sharers = state.containers.values().filter(|other| other.shared_with.as_ref() == Some(&record.name));
        sharers.into_iter().try_for_each(|sharer| self.write_own_files(&state.networks, sharer, record))
    }

    /// Writes the files of a container in the networks of another, or of itself.
    fn write_own_files(&self, networks: &Networks, record: &ContainerRecord, owner: &ContainerRecord) -> Result<()> {
        if record.is_machine() {
            return Ok(());
        }
        let files = Files::of(&self.settings.run_dir, &record.name);
        let write = || files.write(&contents(&self.settings, networks, record, owner)?);
        write().context(|| format!("write the files of container {}", record.name))?;
        failpoint::before("link the files of a container");
        if let Some(link) = link(record)
            && let Err(error) = lead(&link, &files.etc())
        {
            tracing::warn!("`ip netns exec {}` will see the host's files: {error}", record.name);
        }
        Ok(())
    }

    /// Removes them.
    pub(super) fn remove_files(&self, record: &ContainerRecord) -> Result<()> {
        let files = Files::of(&self.settings.run_dir, &record.name);
        remove_link(&files, record)?;
        files.remove().context(|| format!("remove the files of container {}", record.name))
    }
}

/// Lets `ip netns exec` find the files.
fn lead(link: &Path, to: &Path) -> Result<()> {
    trust::directory(Path::new(OF_NAMESPACES))?;
    match fs::create_dir_all(OF_NAMESPACES).and_then(|()| symlink(to, link)) {
        // Of this container before, or what an administrator has put there.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.context(|| format!("make {}", link.display())),
    }
}

/// Removes what `ip netns exec` finds, if it leads to these files.
fn remove_link(files: &Files, record: &ContainerRecord) -> Result<()> {
    match link(record).filter(|link| fs::read_link(link).is_ok_and(|to| to == files.etc())) {
        Some(link) => {
            failpoint::before("remove the link to files");
            fs::remove_file(&link).context(|| format!("remove {}", link.display()))
        }
        None => Ok(()),
    }
}

/// The directory that `ip netns exec` looks for, of a container whose namespace has its name.
fn link(record: &ContainerRecord) -> Option<PathBuf> {
    let is_named = record.netns == namespace::path(&record.name);
    is_named.then(|| PathBuf::from(OF_NAMESPACES).join(&record.name))
}

/// Removes what containers have left that nobody knows: links into the instance's files, and the files.
pub(super) fn sweep(run_dir: &Path, is_known: impl Fn(&str) -> bool) {
    let files = Files::all(run_dir);
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let is_stray = |name: &std::ffi::OsStr| !name.to_str().is_some_and(&is_known);
    for link in entries(Path::new(OF_NAMESPACES)).filter(|entry| is_stray(&entry.file_name())) {
        if fs::read_link(link.path()).is_ok_and(|to| to.starts_with(&files))
            && let Err(error) = fs::remove_file(link.path())
        {
            tracing::warn!("cannot remove {}: {error}", link.path().display());
        }
    }
    for directory in entries(&files).filter(|entry| is_stray(&entry.file_name())) {
        if let Err(error) = fs::remove_dir_all(directory.path()) {
            tracing::warn!("cannot remove {}: {error}", directory.path().display());
        }
    }
}

/// What a container says, or where it says nothing what holds for all.
pub(super) fn said_or<'a, T>(said: &'a [T], all: &'a [T]) -> &'a [T] {
    if said.is_empty() { all } else { said }
}

fn contents(
    settings: &Settings,
    networks: &Networks,
    record: &ContainerRecord,
    owner: &ContainerRecord,
) -> std::io::Result<Contents> {
    let hostname = format!("{}\n", record.hostname);
    let own = record.extra_hosts.iter().map(|host| (host.name.clone(), host.address));
    // Where the datapath has no part, the gateway is not the host.
    let gateway = owner.serving(networks, true).or(owner.serving(networks, false));
    let gateway = gateway.and_then(|endpoint| networks.of(endpoint).record.addressing.parts().next());
    let extra: Vec<(String, IpAddr)> =
        own.filter_map(|(name, address)| Some((name, address.or(gateway.map(|part| part.gateway))?))).collect();
    if record.is_host {
        let mut hosts = read("/etc/hosts")?.unwrap_or_default();
        hosts.extend(extra.iter().map(|(name, address)| format!("{address}\t{name}\n")));
        return Ok(Contents { hosts, hostname, resolv_conf: resolv_conf(settings, record, Vec::new(), |_| true)? });
    }
    let addresses = owner.endpoints.iter().flat_map(|endpoint| endpoint.addresses());
    let hosts = hosts(&record.hostname, addresses, &extra);
    let answered = owner.ours(networks).filter(|_| settings.resolver);
    let gateways = answered.flat_map(|endpoint| {
        let addressing = &networks.of(endpoint).record.addressing;
        endpoint.addresses().filter_map(|address| Some(addressing.of_family(address)?.gateway))
    });
    // Where nobody answers at a gateway, what listens on the host's loopback is out of reach.
    let resolv_conf = resolv_conf(settings, record, gateways.collect(), |address| !address.is_loopback())?;
    Ok(Contents { hosts, hostname, resolv_conf })
}

/// /etc/hosts: the container itself by every address that it has, and whom it was told of.
fn hosts(hostname: &str, addresses: impl Iterator<Item = IpAddr>, extra: &[(String, IpAddr)]) -> String {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    hosts.extend(extra.iter().map(|(name, address)| format!("{address}\t{name}\n")));
    hosts.extend(addresses.map(|address| format!("{address}\t{hostname}\n")));
    hosts
}

/// /etc/resolv.conf: the gateways, where netbpf answers; without one, the servers that were named, or the host's own.
fn resolv_conf(
    settings: &Settings,
    record: &ContainerRecord,
    gateways: Vec<IpAddr>,
    is_reachable: impl Fn(IpAddr) -> bool,
) -> std::io::Result<String> {
    let is_ours = !gateways.is_empty();
    let host = host_resolv_conf(is_reachable)?;
    let of_host = |keyword: &str| -> Vec<String> {
        let mut lines = host.lines().filter_map(|line| {
            line.split_whitespace().collect::<Vec<_>>().split_first().map(|(first, rest)| {
                (first.to_string(), rest.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
            })
        });
        // The last one counts (resolv.conf(5)).
        lines.rfind(|(first, _)| first == keyword).map(|(_, rest)| rest).unwrap_or_default()
    };
    let servers: Vec<IpAddr> = if !gateways.is_empty() {
        let mut seen = BTreeSet::new();
        gateways.into_iter().filter(|gateway| seen.insert(*gateway)).collect()
    } else {
        match said_or(&record.dns, &settings.dns) {
            [] => host.lines().filter_map(nameserver).collect(),
            named => named.to_vec(),
        }
    };
    let or_of_host = |said: &[String], keyword| if said.is_empty() { of_host(keyword) } else { said.to_vec() };
    let search = or_of_host(said_or(&record.dns_search, &settings.dns_search), "search");
    let options = or_of_host(said_or(&record.dns_options, &settings.dns_options), "options");
    // Names of containers have one label, and are to be asked for as they are first.
    let has_ndots = options.iter().any(|option| option.starts_with("ndots:"));
    let ndots = (is_ours && !has_ndots).then(|| "ndots:0".to_owned());
    let options: Vec<String> = options.into_iter().chain(ndots).collect();
    let mut text = String::new();
    text.extend(servers.iter().take(MOST_SERVERS).map(|server| format!("nameserver {server}\n")));
    // `--dns-search .` is how to say none.
    let search: Vec<String> = search.into_iter().filter(|domain| domain != ".").collect();
    for (keyword, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    Ok(text)
}

/// The host's file with resolvers that can be reached.
fn host_resolv_conf(is_reachable: impl Fn(IpAddr) -> bool) -> std::io::Result<String> {
    let is_kept = |line: &&str| nameserver(line).is_none_or(&is_reachable);
    let mut first = None;
    // systemd-resolved puts itself into the first and the real servers into the second.
    for candidate in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let Some(text) = read(candidate)? else { continue };
        let text: String = text.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
        if text.lines().any(|line| nameserver(line).is_some()) {
            return Ok(text);
        }
        first.get_or_insert(text);
    }
    Ok(first.unwrap_or_default())
}

fn read(path: &str) -> std::io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
}

/// A host that a container is told of: its name, and its address or nothing for the host's own.
pub(super) fn extra_host(text: &str) -> Result<(String, Option<IpAddr>)> {
    let bad = || {
        Error::Invalid(format!(
            "bad host '{}': write it as NAME:IP, or NAME:{HOST_GATEWAY} for the host",
            text.escape_debug()
        ))
    };
    let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
    super::check::labels("host", name)?;
    if address == HOST_GATEWAY {
        return Ok((name.into(), None));
    }
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = bracketed.unwrap_or(address);
    Ok((name.into(), Some(address.parse().map_err(|_| bad())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_finds_itself_by_every_address_and_whom_it_was_told_of() {
        let addresses = ["172.30.0.2", "fd00::2"].map(|text| text.parse().unwrap());
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let hosts = hosts("web", addresses.into_iter(), &extra);
        assert!(hosts.ends_with("\n10.0.0.9\tdb\n172.30.0.2\tweb\nfd00::2\tweb\n"), "{hosts}");
    }

    #[test]
    fn a_host_is_told_by_name_and_address() {
        let read = |text: &str| extra_host(text).map(|(name, address)| (name, address.map(|it| it.to_string())));
        assert_eq!(read("db:10.0.0.9").unwrap(), ("db".into(), Some("10.0.0.9".into())));
        assert_eq!(read("db:fd00::9").unwrap(), ("db".into(), Some("fd00::9".into())));
        assert_eq!(read("db=[fd00::9]").unwrap(), ("db".into(), Some("fd00::9".into())));
        assert_eq!(read("host:host-gateway").unwrap(), ("host".into(), None));
        for bad in ["db", "db:", "db:x", "db:[fd00::9", ":10.0.0.1", "a b:10.0.0.1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resolvers_are_the_gateways_else_those_that_were_named() {
        let mut record = ContainerRecord::example("web");
        record.dns = vec!["10.0.0.1".parse().unwrap()];
        record.dns_search = vec!["example.org".into()];
        record.dns_options = vec!["ndots:2".into()];
        let settings = Settings::default();
        let text = |gateways: &[&str]| {
            let gateways = gateways.iter().map(|text| text.parse().unwrap()).collect();
            resolv_conf(&settings, &record, gateways, |_| true).unwrap()
        };
        assert_eq!(
            text(&["172.30.0.1", "fd00::1", "172.30.0.1"]),
            "nameserver 172.30.0.1\nnameserver fd00::1\nsearch example.org\noptions ndots:2\n"
        );
        assert!(text(&[]).starts_with("nameserver 10.0.0.1\n"));
        let unset = ContainerRecord { dns_options: vec!["timeout:1".into()], ..record.clone() };
        let text = resolv_conf(&settings, &unset, vec!["172.30.0.1".parse().unwrap()], |_| true).unwrap();
        assert!(text.ends_with("options timeout:1 ndots:0\n"), "{text}");
    }

    #[test]
    fn what_a_container_leaves_open_the_settings_say() {
        let settings = Settings {
            dns: vec!["10.0.0.8".parse().unwrap()],
            dns_search: vec!["all.example".into()],
            dns_options: vec!["attempts:1".into()],
            ..Settings::default()
        };
        let text = |record: &ContainerRecord| resolv_conf(&settings, record, Vec::new(), |_| true).unwrap();
        let silent = ContainerRecord::example("web");
        assert_eq!(text(&silent), "nameserver 10.0.0.8\nsearch all.example\noptions attempts:1\n");
        let own = ContainerRecord {
            dns: vec!["10.0.0.9".parse().unwrap()],
            dns_search: vec![".".into()],
            ..ContainerRecord::example("web")
        };
        assert_eq!(text(&own), "nameserver 10.0.0.9\noptions attempts:1\n");
    }
}
