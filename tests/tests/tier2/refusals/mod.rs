//! What is refused: one clear line, the right exit code, and nothing changed.

mod api;
mod containers;
mod networks;
mod publishes;
mod settings;
mod table;

use netbpf_common::path::V4;

use crate::lab::Lab;

#[test]
fn without_an_agent_every_verb_says_so_in_one_line() {
    let mut lab = Lab::new::<V4>();
    lab.kill_agent();
    for arguments in [
        &["ps"][..],
        &["status"],
        &["flows"],
        &["create", "--name", "x"],
        &["rm", "x"],
        &["inspect", "x"],
        &["port", "x"],
        &["publish", "x", "-p", "80"],
        &["exec", "x", "--", "true"],
        &["run", "--", "true"],
    ] {
        let outcome = lab.netbpf(arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("agent is not running"), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn somebody_else_than_root_is_refused() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let directory = lab.scratch();
    let directory = directory.path().to_str().expect("UTF-8");
    let agent = ["agent", "--state-dir", directory, "--run-dir", directory];
    for arguments in [&agent[..], &["ps"]] {
        let outcome = lab.netbpf_as(65_534, arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("root"), "{arguments:?}: {}", outcome.stderr);
    }
    lab.unchanged(&before, "what was not allowed");
}
