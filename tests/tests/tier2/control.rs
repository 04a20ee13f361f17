//! Many requests at once, and requests for many things.

use std::collections::BTreeSet;
use std::thread;

use netbpf_common::path::V4;
use netbpf_user::api::types::{Container, CreateRequest};
use netbpf_user::api::{Client, ClientError};

use crate::lab::Lab;

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
    let made: Vec<Container> = thread::scope(|scope| {
        let create = |name: &String| {
            let (client, name) = (client(&lab), Some(name.clone()));
            scope.spawn(move || client.create(&CreateRequest { name, ..CreateRequest::default() }).expect("made"))
        };
        let threads: Vec<_> = names.iter().map(create).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let different = |of: &dyn Fn(&Container) -> String| made.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!(different(&|made| format!("{:?}", made.ip)), CROWD);
    assert_eq!(different(&|made| made.mac.clone()), CROWD);
    assert_eq!(different(&|made| made.device.clone()), CROWD);
    // Also those that have their links later.
    let first = lab.find(&names[0]);
    for container in names.iter().map(|name| lab.find(name)) {
        container.place.command("ping", &["-c1", "-W5", &lab.at_gateway(0).ip().to_string()]);
        first.place.command("ping", &["-c1", "-W5", &container.ip.to_string()]);
    }
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
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
    let second = lab.container("c2", &[]);
    lab.kill_agent();
    let reaches = |when: &str| {
        let answered = first.place.command("ping", &["-c1", "-W5", &second.ip.to_string()]);
        assert!(answered.contains("1 received"), "{when}: {answered}");
    };
    reaches("without an agent");
    lab.start_agent();
    reaches("with another");
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
    // Waits for links, and for nothing but links.
    lab.snapshot();
    let filters = lab.host.command("tc", &["filter", "show", "dev", &second.device, "ingress"]);
    assert_eq!(filters.trim(), "", "a filter stays beside the link");
    reaches("by links");
    for container in [&first, &second] {
        lab.done(&["rm", &container.name]);
    }
    lab.unchanged(&base, "two containers");
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
