//! Somebody takes away what is netbpf's, and gets it back; status tells what is there.

use std::path::Path;

use netbpf_common::abi::program;
use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Conversation, Server, ask_tcp};
use netbpf_tests::wait::until;

use crate::lab::{Container, Lab};

/// What somebody does on the host, and what is to be read in `status` until it is repaired. `%1` is the device of the first container,
/// `%c` its name, `%u` the uplink, `%b` the directory of the instance on its bpffs, `%m` that where it is mounted. `detach` takes a
/// program off a device. What stands together in a list can be done at the same time.
const DEEDS: [&[(&str, &str)]; 3] = [
    &[
        ("detach egress %1", "egress is not attached"),
        ("detach uplink %u", "uplink eth0: uplink is not attached"),
        ("detach host netbpf0", "netbpf0: host is not attached"),
        ("bpftool link detach pinned %b/links/connect4", "connect4 is not attached"),
        ("bpftool link detach pinned %b/links/connect6", "connect6 is not attached"),
        ("ip route delete 172.30.0.0/16 dev netbpf0", "netbpf0 has lost the route to 172.30.0.0/16"),
        ("ip route delete 169.254.30.0/24 dev netbpf0", "netbpf0 has lost the route to 169.254.30.0/24"),
        ("echo 0 > /proc/sys/net/ipv4/conf/netbpf1/forwarding", "netbpf1 does not forward"),
        ("rm %b/links/connect4 %b/maps/CONFIG", "2 of its pins are missing"),
    ],
    &[
        ("ip link set netbpf1 down", "netbpf1 is down"),
        ("ip link set netbpf0 down", "netbpf0 is down"),
        ("ip address flush dev netbpf0; ip -6 address flush dev netbpf0", "netbpf0 has lost its address 172.30.0.1"),
        ("ip link set %1 down", "is down"),
    ],
    &[
        ("ip route flush dev netbpf0", "netbpf0 has lost the route to 172.30.0.0/16"),
        ("ip link delete netbpf0", "netbpf0: its device"),
        ("nsenter --net=/run/netns/%c ip link delete eth0", "is gone"),
    ],
];

/// What changes nothing.
const HARMLESS: [&str; 2] = ["nft flush ruleset", "echo 1 > /proc/sys/net/ipv4/ip_forward"];

fn deed(lab: &Lab, container: &Container, line: &str) {
    let mut line = line.replace("%1", &container.device).replace("%c", &container.name).replace("%u", &lab.uplink());
    let bpffs = lab.bpffs();
    for (mark, path) in [("%b", Some(&*bpffs)), ("%m", bpffs.parent())] {
        line = line.replace(mark, path.and_then(Path::to_str).expect("UTF-8"));
    }
    if let ["detach", program, device] = line.split(' ').collect::<Vec<_>>()[..] {
        line = detach(lab, program, device);
    }
    let outcome = lab.shell(lab.scratch().path(), &line);
    assert_eq!(outcome.code, Some(0), "{line}: {}", outcome.stdout);
}

/// What takes a program off a device: of its link or, where the kernel has none for devices, of its filter.
fn detach(lab: &Lab, program: &str, device: &str) -> String {
    lab.linked();
    let shown = lab.host.command("ip", &["-o", "link", "show", "dev", device]);
    let number = shown.split(':').next().expect("a number");
    let pin = lab.bpffs().join(format!("links/{program}-{number}"));
    if pin.exists() {
        return format!("bpftool link detach pinned {}", pin.display());
    }
    let direction = if program == program::HOST { "egress" } else { "ingress" };
    format!("tc filter delete dev {device} {direction}")
}

/// What works between a container with a server on a published port, another one, and the world.
struct Traffic {
    c1: Container,
    c2: Container,
    _servers: [Server; 2],
}

impl Traffic {
    fn new(lab: &Lab) -> Self {
        let c1 = lab.container("c1", &["-p", "8080:80"]);
        let c2 = lab.container("c2", &[]);
        let servers = [Server::tcp(&c1.place, "c1", 80), Server::tcp(&lab.ext, "ext", 90)];
        Self { c1, c2, _servers: servers }
    }

    fn works(&self, lab: &Lab) -> bool {
        let asked = |place, to| ask_tcp(place, to).is_ok();
        asked(&lab.ext, lab.at_host(8080))
            && asked(&self.c1.place, lab.at_ext(90))
            && asked(&self.c2.place, self.c1.at(80))
            && asked(&lab.host, lab.loopback(8080))
            && asked(&lab.host, self.c1.at(80))
    }
}

fn what_is_taken_away_is_put_back<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let traffic = Traffic::new(&lab);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    let before = lab.snapshot();
    let deeds = DEEDS.iter().copied().flatten().map(|(line, _)| *line);
    for line in deeds.chain(["ip link delete %1"]) {
        deed(&lab, &traffic.c1, line);
        until(line, || lab.problems().is_empty() && traffic.works(&lab));
        kept.exchange(b"still there?").unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let after = lab.snapshot();
    for view in ["ps", "links", "addresses", "routes", "rules", "networks", "namespaces", "files"] {
        // Routes stand in the order in which they were made.
        let sorted = |view: &str| view.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&after[view]), sorted(&before[view]), "repair has left `{view}` otherwise");
    }
}

#[test]
fn what_others_do_with_the_hosts_firewall_changes_nothing() {
    let lab = Lab::new::<V4>();
    let traffic = Traffic::new(&lab);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    for line in HARMLESS {
        deed(&lab, &traffic.c1, line);
        kept.exchange(b"still there?").unwrap_or_else(|error| panic!("{line}: {error}"));
        until(line, || traffic.works(&lab));
    }
}

fn status_tells_what_is_there_and_a_start_puts_it_right<F: TestFamily>() {
    let mut lab = Lab::configured::<F>("repair = false\n");
    let traffic = Traffic::new(&lab);
    for deeds in DEEDS {
        for (line, told) in deeds {
            deed(&lab, &traffic.c1, line);
            let problems = lab.problems();
            assert!(problems.iter().any(|problem| problem.contains(told)), "{line}: {problems:?}");
        }
        assert_eq!(lab.netbpf(&["status"]).code, Some(1));
        lab.stop_agent();
        lab.start_agent();
        assert_eq!(lab.problems(), [""; 0]);
        assert!(traffic.works(&lab));
    }
}

/// Nobody but the administrator may be able to mount one for the agent, which is in a mount namespace of its own or not.
fn without_its_bpffs_traffic_goes_on_and_what_is_mounted_gets_the_pins<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let traffic = Traffic::new(&lab);
    let mut kept = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    for line in ["umount -l %m", "mount -t bpf bpf %m", "mount -t bpf bpf %m"] {
        deed(&lab, &traffic.c1, line);
        kept.exchange(b"still there?").unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(traffic.works(&lab), "{line}");
    }
    until("all is pinned again", || lab.problems().is_empty());
    lab.kill_agent();
    kept.exchange(b"still there?").expect("the pins hold it");
    assert!(traffic.works(&lab));
    lab.start_agent();
    kept.exchange(b"still there?").expect("the same links");
}

fn what_a_container_does_inside_is_told_and_left<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let family = if lab.version == netbpf_tests::version::Version::V4 { "-4" } else { "-6" };
    assert_eq!(lab.problems(), [""; 0]);
    c1.place.command("ip", &[family, "route", "delete", "default"]);
    let told = |words: &str| {
        let problems = lab.problems();
        problems.len() == 1 && problems[0].contains(&c1.name) && problems[0].contains(words)
    };
    until("the default route is missed", || told("default route"));
    c1.place.command("ip", &["link", "set", "eth0", "down"]);
    until("the device is missed", || told("eth0 is down"));
    // It is given all again by who asks for it.
    lab.done(&["network", "disconnect", "default", &c1.name]);
    lab.done(&["network", "connect", "default", &c1.name]);
    assert_eq!(lab.problems(), [""; 0]);
}

fn a_namespace_that_somebody_deletes_is_told_of_until_its_container_is_removed<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let other = lab.container("c2", &["-p", "8082:80"]);
    let empty = lab.snapshot();
    let c1 = lab.container("c1", &["-p", "8081:80"]);
    lab.host.command("ip", &["netns", "delete", &c1.name]);
    let line = format!("container {}: its namespace", c1.name);
    let log_has_it = || lab.log().lines().filter(|logged| logged.contains(&line)).count();
    until("status tells", || lab.problems().iter().any(|problem| problem.contains(&line)));
    until("the log tells", || log_has_it() > 0);
    // Each of these takes a look.
    for _ in 0..2 {
        deed(&lab, &other, "rm %b/maps/CONFIG");
        until("it is pinned again", || lab.bpffs().join("maps/CONFIG").exists());
    }
    assert_eq!(log_has_it(), 1, "{}", lab.log());
    lab.done(&["rm", &c1.name]);
    lab.unchanged(&empty, "a container without namespace");
}

#[test]
fn what_cannot_be_put_back_is_told_once_and_put_back_when_it_can_be() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &[]);
    // Its name is taken while the agent cannot have it again.
    let pid = lab.json(&["status", "--json"])["pid"].to_string();
    deed(&lab, &c1, &format!("kill -STOP {pid}"));
    deed(&lab, &c1, &format!("ip link delete {0} && ip link add {0} type bridge", c1.device));
    deed(&lab, &c1, &format!("kill -CONT {pid}"));
    until("status tells why", || lab.problems().iter().any(|problem| problem.contains("could not be repaired")));
    lab.host.command("ip", &["link", "delete", &c1.device]);
    until("it is put back", || lab.problems().is_empty());
}

for_both!(
    what_is_taken_away_is_put_back,
    status_tells_what_is_there_and_a_start_puts_it_right,
    without_its_bpffs_traffic_goes_on_and_what_is_mounted_gets_the_pins,
    what_a_container_does_inside_is_told_and_left,
    a_namespace_that_somebody_deletes_is_told_of_until_its_container_is_removed,
);
