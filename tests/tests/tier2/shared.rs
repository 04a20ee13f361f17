//! Containers that share the namespace of another.

use netbpf_common::path::V4;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::until;

use crate::lab::{Container, Footprint, Lab};

/// A container in the namespace of another; its full name.
fn sharer(lab: &Lab, name: &str, owner: &Container) -> String {
    let name = lab.name(name);
    lab.done(&["create", "--name", &name, "--network", &format!("container:{}", owner.name)]);
    name
}

#[test]
fn containers_that_share_a_namespace_share_its_network_until_the_last_has_left() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let owner = lab.container("owner", &["-p", "8080:80"]);
    let [first, second] = ["first", "second"].map(|name| {
        let name = lab.name(name);
        lab.done(&["create", "--name", &name, "--network", &format!("container:{}", owner.name)]);
        name
    });
    assert_eq!(lab.json(&["inspect", &first])["netns"], lab.json(&["inspect", &owner.name])["netns"]);
    let web = Server::tcp(&owner.place, "shared", 80);
    let served = || ask_tcp(&lab.ext, lab.at_host(8080)).map(|seen| seen.server);
    lab.done(&["rm", &owner.name]);
    assert_eq!(served().expect("the others are still there"), "shared");
    assert_eq!(lab.json(&["inspect", &first])["ports"][0]["host_port"], 8080, "the eldest has it now");
    lab.done(&["rm", &first]);
    assert_eq!(served().expect("one is still there"), "shared");
    drop(web);
    lab.done(&["rm", &second]);
    lab.unchanged(&before, "the last that has left");
}

#[test]
fn who_shares_a_network_has_its_names_and_publishes_by_its_owner() {
    let lab = Lab::new::<V4>();
    let (owner, other) = (lab.container("owner", &[]), lab.container("other", &[]));
    let sharer = sharer(&lab, "sharer", &owner);
    let files = lab.done(&["exec", &sharer, "--", "cat", "/etc/hosts", "/etc/resolv.conf"]);
    assert!(files.contains(&format!("{}\t{sharer}\n", owner.ip)), "{files}");
    assert!(files.contains("nameserver 172.30.0.1\n"), "{files}");
    let found = lab.done(&["exec", &sharer, "--", "getent", "ahostsv4", &other.name]);
    assert!(found.starts_with(&other.ip.to_string()), "{found}");
    let refused = lab.refused(&["publish", &sharer, "-p", "8080:80"]);
    assert!(refused.contains(&owner.name), "{refused}");
    let refused = lab.refused(&["network", "connect", "default", &sharer]);
    assert!(refused.contains(&owner.name), "{refused}");
    lab.done(&["rm", &owner.name]);
    let refused = lab.refused(&["create", "--name", &owner.name]);
    assert!(refused.contains(&sharer), "its namespace is the other's now: {refused}");
}

#[test]
fn an_owner_that_ends_while_no_agent_runs_leaves_the_network_to_the_others() {
    let mut lab = Lab::new::<V4>();
    let name = lab.name("owner");
    lab.done(&["run", "-d", "--rm", "--name", &name, "-p", "8080:80", "--", "sleep", "1000"]);
    let owner = lab.find(&name);
    let sharer = sharer(&lab, "sharer", &owner);
    let _web = Server::tcp(&owner.place, "shared", 80);
    let pid = lab.json(&["inspect", &name])["pid"].to_string();
    lab.kill_agent();
    lab.host.command("kill", &["-9", &pid]);
    until("it has ended", || !std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists());
    lab.start_agent();
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("served still").server, "shared");
    assert_eq!(lab.json(&["inspect", &sharer])["ports"][0]["host_port"], 8080);
    assert!(lab.netbpf(&["inspect", &name]).code != Some(0));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn an_uninstall_takes_what_is_shared_too() {
    let mut lab = Lab::new::<V4>();
    let owner = lab.container("owner", &["-p", "8080:80"]);
    sharer(&lab, "sharer", &owner);
    drop(owner);
    lab.done(&["uninstall"]);
    lab.agent_ends();
    assert_eq!(&Footprint::of(&lab), lab.bare());
}
