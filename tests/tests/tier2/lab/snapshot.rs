//! What is there, as a user and the host see it: to be equal before and after what changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use netbpf_common::abi::program;
use netbpf_tests::place::Place;
use netbpf_tests::wait::poll;
use netbpf_user::api::types::{ProgramStatus, Status};
use serde_json::Value;

use super::{Lab, footprint};

/// What a user sees of an instance, by where it is seen.
pub(crate) type Snapshot = BTreeMap<&'static str, String>;

impl Lab {
    /// What must be equal before and after something that changes nothing.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.linked();
        let mut status = self.status();
        // Traffic goes on.
        status.drops.clear();
        status.events.clear();
        const TRAFFIC: [&str; 6] = ["FLOWS_V4", "FLOWS_V6", "RING_V4", "RING_V6", "RING_HEAD", "COUNTERS"];
        status.maps.retain(|map| !TRAFFIC.contains(&map.name.as_str()));
        // A restarted agent is another process, with programs of its own on the same links.
        (status.pid, status.since) = (0, 0);
        for program in &mut status.programs {
            program.program_id = 0;
        }
        BTreeMap::from([
            ("ps", self.done(&["ps", "--json"])),
            ("status", serde_json::to_string_pretty(&status).expect("JSON")),
            ("links", self.host_devices().join("\n")),
            ("filters", self.filters()),
            ("addresses", self.host.command("ip", &["-oneline", "address", "show"])),
            ("routes", routes(&self.host)),
            (
                "rules",
                self.host.command("ip", &["-4", "rule", "show"]) + &self.host.command("ip", &["-6", "rule", "show"]),
            ),
            ("networks", self.done(&["network", "ls", "--json"])),
            ("namespaces", self.own_namespaces().join("\n")),
            ("files", self.own_files().join("\n")),
        ])
    }

    /// Whether every program hangs on a link, as far as the kernel has links for programs of devices: that of netbpf0 has one at once
    /// then.
    pub(crate) fn has_links(&self) -> bool {
        let told = self.netbpf(&["status", "--json"]);
        let Ok(status) = serde_json::from_str::<Status>(&told.stdout) else { return false };
        let is_filter = |program: &&ProgramStatus| program.link_id == 0;
        let filters: Vec<&ProgramStatus> = status.programs.iter().filter(is_filter).collect();
        filters.is_empty() || filters.iter().any(|program| program.name == program::HOST)
    }

    /// The filters on what the host's devices receive: without numbers of programs, which another agent may have loaded.
    pub(crate) fn filters(&self) -> String {
        // One may go meanwhile.
        const SHOW: &str = "for device; do tc filter show dev $device ingress 2>/dev/null; done; true";
        let devices = self.host_devices();
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let shown = self.host.command("sh", &[&["-c", SHOW, "sh"], &devices[..]].concat());
        shown.lines().map(|line| line.split(" id ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    /// Waits until every program hangs on a link: those of new devices do a moment later.
    pub(crate) fn linked(&self) {
        poll(|| self.has_links().then_some(())).expect("every program has a link in the end");
    }

    /// As [`Lab::unchanged`], whatever has become of these views.
    #[track_caller]
    pub(crate) fn unchanged_but(&self, before: &Snapshot, views: &[&str], by: &str) {
        let mut now = self.snapshot();
        let expected = before.iter().map(|(view, text)| {
            let text = if views.contains(view) { now.remove(view).unwrap_or_default() } else { text.clone() };
            (*view, text)
        });
        let expected: Snapshot = expected.collect();
        self.unchanged(&expected, by);
    }

    /// Waits until all is as it was: devices of a removed namespace go a little later than the namespace.
    #[track_caller]
    pub(crate) fn unchanged(&self, before: &Snapshot, by: &str) {
        let after = poll(|| Some(self.snapshot()).filter(|after| after == before));
        if after.is_none() {
            for (view, now) in self.snapshot() {
                assert_eq!(now, before[view], "{by} has changed `{view}`");
            }
        }
    }

    /// Names of the host's devices.
    pub(crate) fn host_devices(&self) -> Vec<String> {
        device_names(&self.host.command("ip", &["-json", "link", "show"]))
    }

    /// Named namespaces of containers.
    pub(crate) fn own_namespaces(&self) -> Vec<String> {
        let entries = fs::read_dir("/run/netns").expect("the rig itself is there");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        let mut own: Vec<String> = names.filter(|name| name.starts_with(&format!("{}-", self.prefix))).collect();
        own.sort();
        own
    }

    /// Without directories, which may stay when they are empty.
    fn own_files(&self) -> Vec<String> {
        footprint::files(self).into_iter().filter(|path| !Path::new(path).is_dir()).collect()
    }

    pub(super) fn own_mounts(&self) -> Vec<String> {
        let state = self.rig.state_dir();
        let directory = state.parent().and_then(Path::to_str).expect("of the rig");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter(|point| point.starts_with(directory) || point.contains(&self.prefix)).map(str::to_owned).collect()
    }

    pub(super) fn attached_to_cgroup(&self) -> String {
        let cgroup = self.rig.cgroup();
        self.host.command("bpftool", &["cgroup", "show", cgroup.to_str().expect("UTF-8")])
    }
}

/// The routes of both families, in all tables.
pub(super) fn routes(place: &Place) -> String {
    ["-4", "-6"].map(|version| place.command("ip", &[version, "route", "show", "table", "all"])).concat()
}

pub(super) fn device_names(links: &str) -> Vec<String> {
    let links: Value = serde_json::from_str(links).expect("JSON of ip");
    let names =
        links.as_array().expect("a list").iter().map(|link| link["ifname"].as_str().expect("a name").to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
