//! What the agent may do, and what containers may.

use std::fs;

use netbpf_common::path::V4;
use netbpf_user::agent::privileges;

use crate::lab::Lab;

/// The sets of capabilities in a `/proc/PID/status`, and whether new privileges are ruled out.
fn shown(status: &str) -> Vec<&str> {
    status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("NoNewPrivs")).collect()
}

#[test]
fn an_agent_keeps_the_capabilities_that_it_needs_and_no_thread_has_others() {
    let lab = Lab::new::<V4>();
    // Names are asked for, so that there are threads of every kind.
    lab.container("c1", &[]);
    let mask = privileges::mask();
    assert!(mask.count_ones() < 8, "{mask:x}");
    let tasks = format!("/proc/{}/task", lab.rig().agent_pid().expect("it runs"));
    let expected = [("Inh", 0), ("Prm", mask), ("Eff", mask), ("Bnd", mask), ("Amb", 0)];
    let mut expected: Vec<String> = expected.map(|(set, mask)| format!("Cap{set}:\t{mask:016x}")).into();
    expected.push("NoNewPrivs:\t1".into());
    let mut threads = 0;
    for task in fs::read_dir(tasks).expect("it runs") {
        // One that has ended meanwhile tells nothing.
        let Ok(status) = fs::read_to_string(task.expect("readable").path().join("status")) else { continue };
        assert_eq!(shown(&status), expected);
        threads += 1;
    }
    assert!(threads > 1, "the runtime has threads");
}

#[test]
fn an_agent_without_a_capability_that_it_needs_says_which_and_what_for() {
    let lab = Lab::without_agent::<V4>("");
    let flags: Vec<String> =
        lab.rig().instance_flags().into_iter().map(|flag| flag.into_string().expect("UTF-8")).collect();
    let directory = lab.scratch();
    let line = format!("setpriv --bounding-set=-net_admin,-kill netbpf agent {}", flags.join(" "));
    let outcome = lab.shell(directory.path(), &line);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert_eq!(outcome.stdout.lines().count(), 1, "{}", outcome.stdout);
    for word in ["CAP_NET_ADMIN (to make devices", "CAP_KILL (to end", "CapabilityBoundingSet=", "--cap-add"] {
        assert!(outcome.stdout.contains(word), "no {word} in {}", outcome.stdout);
    }
    assert!(!lab.rig().state_dir().exists(), "nothing was made");
}

#[test]
fn a_command_in_a_container_keeps_the_privileges_of_who_has_started_it() {
    let lab = Lab::new::<V4>();
    let line = ["grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"];
    let own = fs::read_to_string("/proc/self/status").expect("readable");
    let name = lab.name("c1");
    let run = lab.done(&[&["run", "--rm", "--name", &name, "--"][..], &line].concat());
    assert_eq!(shown(&run), shown(&own), "run");
    let c2 = lab.container("c2", &[]);
    let exec = lab.done(&[&["exec", &c2.name, "--"][..], &line].concat());
    assert_eq!(shown(&exec), shown(&own), "exec");
}
