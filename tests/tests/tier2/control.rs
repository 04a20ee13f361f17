//! Many requests at once, and requests for many things.

use std::collections::BTreeSet;
use std::{fs, thread};

use netbpf_common::abi::program;
use netbpf_common::path::{V4, V6};
use netbpf_tests::wait::{poll, until};
use netbpf_user::api::types::{self, CreateRequest};
use netbpf_user::api::{Client, ClientError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Container, Lab};

/// Containers that are made at the same time.
const CROWD: usize = 50;

/// Ports that are published one by one.
const PORTS: u16 = 10_000;

/// The first of them, above those that masquerading uses.
const FIRST: u16 = 33_000;

fn client(lab: &Lab) -> Client {
    Client::new(&lab.socket()).expect("a client")
}

#[test]
fn fifty_containers_that_are_made_at_once_are_whole_and_leave_nothing() {
    let lab = Lab::new::<V4>();
    let base = lab.snapshot();
    let names: Vec<String> = (0..CROWD).map(|number| lab.name(&format!("c{number}"))).collect();
    let made: Vec<types::Container> = thread::scope(|scope| {
        let create = |name: &String| {
            let (client, name) = (client(&lab), Some(name.clone()));
            scope.spawn(move || client.create(&CreateRequest { name, ..CreateRequest::default() }).expect("made"))
        };
        let threads: Vec<_> = names.iter().map(create).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let different = |of: &dyn Fn(&types::Container) -> String| made.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!(different(&|made| format!("{:?}", made.ip)), CROWD);
    assert_eq!(different(&|made| made.mac.clone()), CROWD);
    assert_eq!(different(&|made| made.device.clone()), CROWD);
    // Also those that have their links later.
    let first = lab.find(&names[0]);
    for container in names.iter().map(|name| lab.find(name)) {
        container.place.command("ping", &["-c1", "-W5", &lab.at_gateway(0).ip().to_string()]);
        first.place.command("ping", &["-c1", "-W5", &container.ip.to_string()]);
    }
    // While links take the place of filters nothing is missing.
    until("every program has a link", || {
        let problems = lab.problems();
        assert!(problems.is_empty(), "{problems:?}");
        lab.has_links()
    });
    thread::scope(|scope| {
        for name in &names {
            let client = client(&lab);
            scope.spawn(move || client.remove(name, false).expect("removed"));
        }
    });
    lab.unchanged(&base, "a crowd");
}

#[test]
fn a_container_is_whole_before_it_has_its_link_and_when_the_agent_dies_before() {
    let mut lab = Lab::new::<V4>();
    let base = lab.snapshot();
    let first = lab.container("c1", &[]);
    lab.linked();
    lab.dies_before("attach a program");
    let second = lab.container("c2", &[]);
    lab.agent_ends();
    assert_eq!(lab.died().as_deref(), Some("before: attach a program"));
    let pins = fs::read_dir(lab.bpffs().join("links")).expect("pins").flatten();
    let links = pins.filter(|pin| pin.file_name().to_string_lossy().starts_with(program::EGRESS));
    assert_eq!(links.count(), 1, "that of the first alone");
    assert!(lab.filters().contains("bpf"), "a filter in the place of the other");
    let reaches = |when: &str| {
        let answered = first.place.command("ping", &["-c1", "-W5", &second.ip.to_string()]);
        assert!(answered.contains("1 received"), "{when}: {answered}");
    };
    reaches("without an agent");
    lab.start_agent();
    reaches("with another");
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    lab.linked();
    assert_eq!(lab.filters(), "", "a filter stays beside the link");
    reaches("by links");
    for container in [&first, &second] {
        lab.done(&["rm", &container.name]);
    }
    lab.unchanged(&base, "two containers");
}

/// Whether the device of a container has its filter, and no link in its place yet.
fn has_filter_alone(lab: &Lab, container: &Container) -> bool {
    let device = &container.device;
    let shown = lab.host.command("ip", &["-json", "link", "show", "dev", device]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON of ip");
    let pin = lab.bpffs().join("links").join(format!("{}-{}", program::EGRESS, shown[0]["ifindex"]));
    let filters = lab.host.command("tc", &["filter", "show", "dev", device, "ingress"]);
    !pin.exists() && filters.contains("direct-action")
}

/// Takes the filter of a container's device away, which is all that it has.
fn remove_filter(lab: &Lab, container: &Container) {
    assert!(has_filter_alone(lab, container), "{}: {}", container.device, lab.filters());
    lab.host.command("tc", &["qdisc", "delete", "dev", &container.device, "clsact"]);
}

#[test]
fn who_takes_a_new_containers_filter_away_does_so_for_a_moment() {
    let lab = Lab::new::<V4>();
    let signal = |signal| kill(Pid::from_raw(lab.agent_pid() as i32), signal).expect("sent");
    // The agent makes no link while it is stopped, and has made one if it was not in time.
    let stopped = poll(|| {
        let c = lab.container("c", &[]);
        signal(Signal::SIGSTOP);
        if has_filter_alone(&lab, &c) {
            return Some(c);
        }
        signal(Signal::SIGCONT);
        lab.done(&["rm", &c.name]);
        None
    });
    let c = stopped.expect("a container without a link");
    remove_filter(&lab, &c);
    signal(Signal::SIGCONT);
    lab.linked();
    c.place.command("ping", &["-c1", "-W5", &lab.at_gateway(0).ip().to_string()]);
}

#[test]
fn what_keeps_links_from_being_made_is_told_and_the_filters_are_kept_meanwhile() {
    // Or the agent would make a place for them.
    let lab = Lab::configured::<V4>("repair = false\n");
    let before = lab.container("c1", &[]);
    lab.linked();
    let links = lab.bpffs().join("links");
    let links = links.to_str().expect("UTF-8");
    let done = |line: &str| {
        let outcome = lab.shell(lab.scratch().path(), line);
        assert_eq!(outcome.code, Some(0), "{line}: {}", outcome.stdout);
    };
    done(&format!("mount -t tmpfs tmpfs {links}"));
    let new = ["c2", "c3"].map(|name| lab.container(name, &[]));
    let is_told = |container: &Container| lab.problems().iter().any(|line| line.contains(&container.device));
    until("it is told of both", || new.iter().all(is_told));
    assert!(lab.problems().iter().any(|line| line.contains("no bpffs")), "{:?}", lab.problems());
    for container in &new {
        remove_filter(&lab, container);
    }
    until("the filters are back", || lab.filters().matches("direct-action").count() == new.len());
    done(&format!("umount {links}"));
    lab.linked();
    until("nothing is missed", || lab.problems().is_empty());
    assert_eq!(lab.filters(), "");
    for container in &new {
        before.place.command("ping", &["-c1", "-W5", &container.ip.to_string()]);
    }
}

#[test]
fn ten_thousand_ports_are_published_one_by_one_and_leave_no_entry() {
    let lab = Lab::new::<V4>();
    let c = lab.container("c", &[]);
    let base = lab.snapshot();
    let specs: Vec<String> = (FIRST..FIRST + PORTS).map(|port| format!("0.0.0.0:{port}:{port}")).collect();
    let published = client(&lab).publish(&c.name, &specs).expect("published");
    let ports: BTreeSet<u16> = published.iter().map(|port| port.host_port).collect();
    assert_eq!(ports, (FIRST..FIRST + PORTS).collect());
    assert_eq!(client(&lab).unpublish(&c.name, &specs).expect("unpublished"), []);
    lab.unchanged(&base, "publishing and unpublishing");
}

#[test]
fn one_port_that_is_refused_keeps_all_others_of_the_request_from_being_published() {
    let lab = Lab::new::<V4>();
    let (holder, c) = (lab.container("holder", &["-p", "42999:80"]), lab.container("c", &[]));
    let base = lab.snapshot();
    let specs: Vec<String> = (FIRST..FIRST + PORTS).map(|port| format!("{port}:{port}")).collect();
    let refused = client(&lab).publish(&c.name, &specs);
    let Err(ClientError::Refused { line, .. }) = refused else { panic!("{refused:?}") };
    assert!(line.contains("42999") && line.contains(&holder.name), "{line}");
    // The holder is named also when the same request asks twice.
    let twice = ["9000:80".to_owned(), "9000:81".to_owned()];
    let refused = client(&lab).publish(&c.name, &twice).expect_err("twice").to_string();
    assert!(refused.contains("9000") && refused.contains(&c.name), "{refused}");
    lab.unchanged(&base, "a refused request");
}

#[test]
fn a_request_that_fails_halfway_in_the_kernel_leaves_nothing() {
    let lab = Lab::new::<V6>();
    let c = lab.container("c", &[]);
    let base = lab.snapshot();
    let map = |name: &str| lab.bpffs().join("maps").join(name).to_str().expect("UTF-8").to_owned();
    let rules = || lab.host.command("bpftool", &["map", "dump", "pinned", &map("RULES")]);
    let before = rules();
    // Nothing more is written there, and it comes last.
    lab.host.command("bpftool", &["map", "freeze", "pinned", &map("PORTS_V6")]);
    let specs: Vec<String> = (FIRST..FIRST + PORTS).map(|port| format!("{port}:{port}")).collect();
    let refused = client(&lab).publish(&c.name, &specs).expect_err("half of it").to_string();
    assert!(refused.contains("PORTS_V6"), "{refused}");
    lab.unchanged(&base, "a request that failed");
    assert!(rules() == before, "rules are left");
    // What was taken for it is free again.
    let specs = specs.iter().map(|spec| format!("0.0.0.0:{spec}")).collect::<Vec<_>>();
    assert_eq!(client(&lab).publish(&c.name, &specs).expect("published").len(), usize::from(PORTS));
}
