//! What netbpf has left on a host.

use std::fs;
use std::path::Path;

use super::Lab;

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
}

impl Footprint {
    pub(crate) fn of(lab: &Lab) -> Self {
        let ip = |arguments: &[&str]| lab.host.command("ip", arguments);
        Self {
            links: super::device_names(&ip(&["-json", "link", "show"])),
            addresses: ip(&["-oneline", "address", "show"]),
            routes: super::routes(&lab.host),
            rules: ip(&["-4", "rule", "show"]) + &ip(&["-6", "rule", "show"]),
            neighbours: ip(&["neigh", "show", "nud", "permanent"]),
            attached: lab.attached_to_cgroup(),
            namespaces: lab.own_namespaces(),
            mounts: lab.own_mounts(),
            files: files(lab),
        }
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
