//! Processes in containers.

use netbpf_common::path::V4;
use netbpf_tests::server::{Server, ask_tcp};
use netbpf_tests::wait::until;

use crate::lab::Lab;

#[test]
fn a_command_in_the_foreground_has_its_own_hostname_and_gives_its_exit_code() {
    let lab = Lab::new::<V4>();
    let name = lab.name("c1");
    let script = "hostname; cat /etc/hosts; cat /sys/class/net/none 2>/dev/null; exit 7";
    let outcome = lab.netbpf(&["run", "--rm", "--name", &name, "--hostname", "web", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, Some(7), "{}", outcome.stderr);
    assert_eq!(outcome.stdout.lines().next(), Some("web"));
    assert!(
        outcome.stdout.lines().any(|line| line.starts_with("172.30.") && line.contains("web")),
        "{}",
        outcome.stdout
    );
    assert_eq!(lab.json(&["ps", "--json"]).as_array().map(Vec::len), Some(0), "--rm forgets it");
}

#[test]
fn a_command_in_the_background_runs_on_and_can_be_joined() {
    let lab = Lab::new::<V4>();
    let name = lab.name("c1");
    let printed = lab.done(&["run", "-d", "--name", &name, "-p", "8080:80", "--", "sleep", "600"]);
    assert_eq!(printed.trim(), name);
    let c1 = lab.find(&name);
    let shown = lab.json(&["inspect", &name]);
    assert_eq!(shown["status"], "running");
    assert_ne!(shown["pid"], 0);
    let _server = Server::tcp(&c1.place, "c1", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered").server, "c1");
    let address = lab.done(&["exec", &name, "--", "ip", "-4", "-brief", "address", "show", "dev", "eth0"]);
    assert!(address.contains(&c1.ip.to_string()), "{address}");
    assert_eq!(lab.netbpf(&["exec", &name, "--", "sh", "-c", "exit 3"]).code, Some(3));

    let line = lab.refused(&["rm", &name]);
    assert!(line.contains("-f"), "it says what to do: {line}");
    lab.done(&["rm", "-f", &name]);
    until("the process has ended", || !std::path::Path::new(&format!("/proc/{}", shown["pid"])).exists());
}

#[test]
fn a_command_that_ends_is_shown_as_exited_or_forgotten() {
    let lab = Lab::new::<V4>();
    let (kept, forgotten) = (lab.name("kept"), lab.name("forgotten"));
    lab.done(&["run", "-d", "--name", &kept, "--", "true"]);
    lab.done(&["run", "-d", "--rm", "--name", &forgotten, "--", "true"]);
    until("one is exited and the other gone", || {
        let all = lab.json(&["ps", "--json"]);
        let all = all.as_array().expect("a list");
        all.len() == 1 && all[0]["name"] == kept.as_str() && all[0]["status"] == "exited"
    });
    lab.done(&["rm", &kept]);
}

#[test]
fn a_command_that_does_not_exist_leaves_no_container() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let outcome = lab.netbpf(&["run", "--name", &lab.name("c1"), "--", "/no/such/command"]);
    assert_eq!(outcome.code, Some(127), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    lab.unchanged(&before, "a run without command");
}
