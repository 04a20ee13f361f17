//! Uninstalling leaves nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::machine::Machine;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::until;
use netbpf_user::rig::Namespace;

use crate::lab::{Footprint, Lab, OwnNamespace};

fn used(lab: &Lab) {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", &lab.on_loopback("9000-9010:9000-9010")]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    assert_ne!(Footprint::of(lab), *lab.bare(), "there is something to remove");
}

fn uninstall(lab: &mut Lab, with_agent: bool) {
    if with_agent {
        lab.done(&["uninstall"]);
        lab.agent_ends();
    } else {
        lab.kill_agent();
        lab.uninstall_without_agent();
    }
}

fn uninstall_with_the_agent_running_leaves_nothing<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    used(&lab);
    uninstall(&mut lab, true);
    assert_eq!(Footprint::of(&lab), *lab.bare());
}

fn uninstall_without_an_agent_leaves_nothing<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    used(&lab);
    uninstall(&mut lab, false);
    assert_eq!(Footprint::of(&lab), *lab.bare());
}

#[test]
fn an_uninstall_that_is_refused_leaves_the_agent_at_work() {
    let lab = Lab::new::<V4>();
    used(&lab);
    let marks = lab.run_dir().join("netns");
    let mode = |mode: u32| fs::set_permissions(&marks, Permissions::from_mode(mode)).expect("changed");
    mode(0o777);
    let line = lab.refused(&["uninstall"]);
    assert!(line.contains("can be written to"), "{line}");
    mode(0o700);
    lab.done(&["publish", &lab.name("c1"), "-p", "9100:80"]);
}

fn an_instance_can_be_installed_again<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    used(&lab);
    lab.done(&["uninstall"]);
    lab.agent_ends();
    lab.start_agent();
    assert_eq!(lab.json(&["ps", "--json"]).as_array().map(Vec::len), Some(0));
    used(&lab);
}

for_both!(
    uninstall_with_the_agent_running_leaves_nothing,
    uninstall_without_an_agent_leaves_nothing,
    uninstall_takes_everything_of_every_kind_away,
    an_instance_can_be_installed_again,
);

/// Every kind of thing that an instance makes.
struct Everything {
    taken: OwnNamespace,
    machine: Machine,
    guest: OwnNamespace,
}

fn everything(lab: &Lab) -> Everything {
    used(lab);
    let (back, lan) = (lab.name("back"), lab.name("lan"));
    lab.done(&["network", "create", &back]);
    let parent = ["network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "198.18.0.0/24"];
    lab.done(&[&parent[..], &["--ip-range", "198.18.0.128/25", &lan]].concat());
    lab.container("on-lan", &["--network", &lan]);
    let web = lab.container("web", &["-p", "8081:80,allow=198.18.0.0/24", "-p", "40000-40099:40000-40099/udp"]);
    lab.done(&["network", "connect", "--alias", "www", &back, &web.name]);
    lab.done(&["run", "-d", "--name", &lab.name("sleeper"), "--", "sleep", "1000"]);
    lab.done(&["exec", &web.name, "--", "getent", "hosts", &web.name]);
    let taken = OwnNamespace::make(&lab.name("taken"));
    let path = format!("/run/netns/{}", lab.name("taken"));
    lab.done(&["attach", "--name", &lab.name("visitor"), "--netns", &path]);
    let guest = OwnNamespace::make(&lab.name("guest"));
    let place = Place::new(Namespace::named(&lab.name("guest")), lab.version);
    let machine = Machine::start(&lab.host, "vm0", &place, "eth0");
    lab.done(&["attach", "--name", &lab.name("vm"), "--tap", "vm0"]);
    Everything { taken, machine, guest }
}

/// Numbers of what the instance has in the kernel: its programs, by its links, and what they run on.
fn programs(lab: &Lab) -> Vec<u64> {
    let status = lab.json(&["status", "--json"]);
    let programs = status["programs"].as_array().expect("a list");
    programs.iter().map(|program| program["program_id"].as_u64().expect("a number")).collect()
}

fn uninstall_takes_everything_of_every_kind_away<F: TestFamily>() {
    for with_agent in [true, false] {
        let mut lab = Lab::new::<F>();
        let Everything { taken, machine, guest } = everything(&lab);
        let (programs, sleeper) =
            (programs(&lab), lab.json(&["inspect", &lab.name("sleeper")])["pid"].as_u64().expect("it runs"));
        uninstall(&mut lab, with_agent);
        // What its owners made is theirs.
        lab.host.command("ip", &["link", "show", "dev", "vm0"]);
        drop((machine, taken, guest));
        until("the tap is gone", || !lab.host.command("ip", &["link", "show"]).contains("vm0"));
        assert_eq!(Footprint::of(&lab), *lab.bare(), "with its agent: {with_agent}");
        let shown = |program: &u64| lab.host.run(|| has_program(*program));
        until("no program is left", || !programs.iter().any(shown));
        let process = format!("/proc/{sleeper}/stat");
        until("no process is left", || fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z ")));
    }
}

fn has_program(id: u64) -> bool {
    let shown = Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]).output();
    shown.expect("it is installed").status.success()
}

#[test]
fn what_others_have_added_to_the_queue_of_an_uplink_stays() {
    for with_agent in [true, false] {
        let mut lab = Lab::new::<V4>();
        used(&lab);
        let uplink = lab.uplink();
        let host = lab.host.clone();
        let tc = |arguments: &[&str]| host.command("tc", arguments);
        lab.clsact(&uplink);
        lab.foreign_filter(&uplink, "egress");
        uninstall(&mut lab, with_agent);
        let shown = ["ingress", "egress"].map(|direction| tc(&["filter", "show", "dev", &uplink, direction]));
        assert!(shown[0].is_empty() && shown[1].contains("classifier"), "{shown:?}");
        tc(&["qdisc", "delete", "dev", &uplink, "clsact"]);
        assert_eq!(Footprint::of(&lab), *lab.bare(), "with its agent: {with_agent}");
    }
}

#[test]
fn uninstall_can_be_asked_for_again_and_after_its_directories_have_gone() {
    let mut lab = Lab::new::<V4>();
    used(&lab);
    lab.kill_agent();
    lab.uninstall_without_agent();
    lab.uninstall_without_agent();
    assert_eq!(Footprint::of(&lab), *lab.bare());
    for directory in [Lab::run_dir as fn(&Lab) -> PathBuf, Lab::state_dir] {
        lab.start_agent();
        used(&lab);
        lab.kill_agent();
        fs::remove_dir_all(directory(&lab)).expect("removed");
        lab.uninstall_without_agent();
        let left = Footprint::of(&lab);
        // The names of namespaces are known by the state and the marks together.
        lab.remove_own_namespaces();
        assert_eq!(left.without_namespaces(), lab.bare().clone().without_namespaces(), "{}", directory(&lab).display());
    }
}

#[test]
fn a_request_that_comes_while_everything_is_removed_leaves_nothing_behind() {
    let mut lab = Lab::new::<V4>();
    used(&lab);
    let names: Vec<String> = (0..8).map(|number| lab.name(&format!("late{number}"))).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let lab = &lab;
            scope.spawn(move || lab.netbpf(&["create", "--name", name, "-P", "80"]));
        }
        lab.done(&["uninstall"]);
    });
    lab.agent_ends();
    assert_eq!(Footprint::of(&lab), *lab.bare());
}
