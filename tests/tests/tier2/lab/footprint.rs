//! What netbpf has left on a host.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Lab;
use super::snapshot::{device_names, routes};

/// Everything that an instance makes, as somebody who knows nothing of it sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footprint {
    links: Vec<String>,
    addresses: String,
    routes: String,
    rules: String,
    neighbours: String,
    attached: String,
    namespaces: Vec<String>,
    mounts: Vec<String>,
    files: Vec<String>,
    own_files: Vec<String>,
    sysctls: BTreeMap<String, String>,
    firewall: String,
    qdiscs: String,
    filters: String,
    aliases: String,
}

impl Footprint {
    pub(crate) fn of(lab: &Lab) -> Self {
        let ip = |arguments: &[&str]| lab.host.command("ip", arguments);
        Self {
            links: device_names(&ip(&["-json", "link", "show"])),
            addresses: ip(&["-oneline", "address", "show"]),
            routes: routes(&lab.host),
            rules: ip(&["-4", "rule", "show"]) + &ip(&["-6", "rule", "show"]),
            neighbours: ip(&["neigh", "show", "nud", "permanent"]),
            attached: lab.attached_to_cgroup(),
            namespaces: lab.own_namespaces(),
            mounts: lab.own_mounts(),
            files: files(lab),
            own_files: of_namespaces(lab),
            sysctls: lab.host.run(sysctls),
            firewall: lab.host.command("nft", &["list", "ruleset"]),
            qdiscs: lab.host.command("tc", &["qdisc", "show"]),
            filters: lab.host.command("bpftool", &["net", "show"]),
            aliases: ip(&["-oneline", "-details", "link", "show", "type", "tun"]),
        }
    }
}

impl Footprint {
    /// All but the named namespaces, and what is there for them.
    pub(crate) fn without_namespaces(self) -> Self {
        Self { namespaces: Vec::new(), mounts: Vec::new(), own_files: Vec::new(), ..self }
    }
}

/// Everything in the directories of an instance.
pub(super) fn files(lab: &Lab) -> Vec<String> {
    let mut files = Vec::new();
    for directory in [lab.rig.state_dir(), lab.rig.run_dir(), lab.rig.bpffs()] {
        collect(&directory, &mut files);
    }
    files
}

/// What is left for `ip netns exec` of containers of this lab.
fn of_namespaces(lab: &Lab) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/etc/netns") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&lab.name(""))).collect()
}

/// Settings of all devices, of their neighbours, and of forwarding. A device brings its own and takes them with it.
fn sysctls() -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let families =
        ["ipv4", "ipv6"].into_iter().flat_map(|family| ["conf", "neigh"].map(|kind| format!("{family}/{kind}")));
    for directory in families {
        let mut files = Vec::new();
        collect(&Path::new("/proc/sys/net").join(directory), &mut files);
        // Some can be written alone, or are unset.
        settings.extend(files.into_iter().filter_map(|file| fs::read_to_string(&file).ok().map(|value| (file, value))));
    }
    settings
}

/// Every path below a directory, and the directory.
fn collect(directory: &Path, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    files.push(directory.display().to_string());
    for entry in entries {
        let entry = entry.expect("readable");
        if entry.file_type().expect("readable").is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
    files.sort();
}
