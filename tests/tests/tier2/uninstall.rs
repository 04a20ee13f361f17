//! Uninstalling leaves nothing.

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Server, ask_tcp};

use crate::lab::{Footprint, Lab};

fn used(lab: &Lab) {
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", &lab.on_loopback("9000-9010:9000-9010")]);
    let _server = Server::tcp(&c1.place, "c1", 80);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    assert_ne!(Footprint::of(lab), *lab.bare(), "there is something to remove");
}

fn uninstall_with_the_agent_running_leaves_nothing<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    used(&lab);
    lab.done(&["uninstall"]);
    lab.agent_ends();
    assert_eq!(Footprint::of(&lab), *lab.bare());
}

fn uninstall_without_an_agent_leaves_nothing<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    used(&lab);
    lab.kill_agent();
    lab.uninstall_without_agent();
    assert_eq!(Footprint::of(&lab), *lab.bare());
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
    an_instance_can_be_installed_again,
);
