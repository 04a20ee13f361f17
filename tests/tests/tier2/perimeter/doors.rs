//! The two sockets: whom they are for, and what can be asked there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use netbpf_common::path::V4;

use super::{GROUPS, MEMBERS, READERS, asked};
use crate::lab::{Footprint, Lab};

/// Owner, group and mode.
fn rights(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

#[test]
fn a_group_that_there_is_not_keeps_the_agent_from_starting() {
    let lab = Lab::without_agent::<V4>("");
    for setting in ["socket_group", "read_group"] {
        let line = lab.no_agent_with(&format!("{setting} = \"no-such-group\"\n"));
        assert!(line.contains(setting) && line.contains("'no-such-group'") && line.contains("groupadd"), "{line}");
    }
    let line = lab.no_agent_with("socket_group = true\n");
    assert!(line.contains("socket_group cannot be true") && line.contains("name or the number"), "{line}");
    assert_eq!(Footprint::of(&lab), *lab.bare());
}

#[test]
fn a_socket_for_looking_that_is_for_nobody_any_more_is_gone() {
    let mut lab = Lab::configured::<V4>(GROUPS);
    lab.kill_agent();
    assert!(lab.read_socket().exists(), "nobody has removed it");
    lab.configure("socket_group = 4711\nread_group = 0\n");
    lab.start_agent();
    assert_eq!(rights(&lab.read_socket()), (0, 0, 0o660));
    lab.stop_agent();
    assert!(!lab.read_socket().exists() && !lab.socket().exists(), "they go with the agent");
}

#[test]
fn a_member_of_the_sockets_group_may_ask_for_anything_and_a_stranger_for_nothing() {
    let lab = Lab::configured::<V4>(GROUPS);
    let before = lab.snapshot();
    for arguments in [&["ps"][..], &["status"], &["create"], &["uninstall"]] {
        let line = lab.netbpf_in(&[], arguments).refusal(&arguments.join(" "));
        assert!(line.contains("no permission") && line.contains("root"), "{line}");
    }
    lab.unchanged(&before, "a stranger");
    let name = lab.name("theirs");
    for arguments in [&["create", "--name", &name][..], &["publish", &name, "-p", "8080:80"], &["ps"], &["rm", &name]] {
        let outcome = lab.netbpf_in(&[MEMBERS], arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_member_of_the_read_group_looks_at_everything_and_changes_nothing() {
    let lab = Lab::configured::<V4>(GROUPS);
    let web = lab.container("web", &["-p", "8080:80"]);
    let before = lab.snapshot();
    for arguments in [
        &["ps"][..],
        &["inspect", &web.name],
        &["port", &web.name],
        &["network", "ls"],
        &["network", "inspect", "default"],
        &["exposure"],
        &["flows"],
        &["status"],
        &["doctor"],
    ] {
        let (theirs, roots) = (lab.netbpf_in(&[READERS], arguments), lab.netbpf(arguments));
        assert_eq!((theirs.code, theirs.stderr), (roots.code, roots.stderr), "{arguments:?}");
        assert!(!theirs.stdout.is_empty() || roots.stdout.is_empty(), "{arguments:?}");
    }
    for arguments in [
        &["create"][..],
        &["run", "--", "true"],
        &["rm", "-f", &web.name],
        &["publish", &web.name, "-p", "81:81"],
        &["unpublish", &web.name, "-p", "8080:80"],
        &["network", "create", "theirs"],
        &["network", "rm", "default"],
        &["network", "prune"],
        &["network", "disconnect", "default", &web.name],
        &["exec", &web.name, "--", "true"],
        &["uninstall"],
    ] {
        let line = lab.netbpf_in(&[READERS], arguments).stderr;
        assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    }
    for (method, path, body) in [
        ("POST", "/v1/containers", "{}"),
        ("DELETE", "/v1/networks/default", ""),
        ("POST", "/v1/uninstall", ""),
        ("PATCH", "/v1/status", ""),
        ("OPTIONS", "/v1/uninstall", ""),
    ] {
        let (code, answer) = asked(&lab, &[READERS], &lab.read_socket(), method, path, body);
        let line = answer["error"].as_str().unwrap_or_default();
        // OPTIONS changes nothing anywhere, and no route has it.
        assert_eq!(code, if method == "OPTIONS" { 405 } else { 403 }, "{method} {path}: {line}");
        assert!(method == "OPTIONS" || line.contains("for looking"), "{method} {path}: {line}");
    }
    lab.unchanged(&before, "a member of the read group");
}

#[test]
fn a_reader_is_told_of_no_command_and_no_environment() {
    let lab = Lab::configured::<V4>(GROUPS);
    let name = lab.name("safe");
    lab.done(&["run", "-d", "--name", &name, "--", "env", "TOKEN=hunter2", "sleep", "61.4711"]);
    let log = lab.socket().with_file_name("containers").join(&name).join("log");
    assert_eq!(rights(&log), (0, 0, 0o600), "what it prints");
    for path in ["containers", &format!("containers/{name}"), "networks", "flows", "exposure", "status", "doctor"] {
        let (code, answer) = asked(&lab, &[READERS], &lab.read_socket(), "GET", &format!("/v1/{path}"), "");
        assert_eq!(code, 200, "{path}: {answer}");
        let told = answer.to_string();
        assert!(!told.contains("hunter2") && !told.contains("61.4711"), "{path}: {told}");
    }
    lab.done(&["rm", "-f", &name]);
}

#[test]
fn each_socket_is_for_root_and_its_group_and_asks_who_comes_also_when_its_mode_was_changed() {
    let lab = Lab::configured::<V4>(GROUPS);
    assert_eq!(rights(&lab.socket()), (0, MEMBERS, 0o660));
    assert_eq!(rights(&lab.read_socket()), (0, READERS, 0o660));
    let sockets = [lab.socket(), lab.read_socket()];
    for socket in &sockets {
        fs::set_permissions(socket, Permissions::from_mode(0o666)).expect("root may");
        let (code, answer) = asked(&lab, &[], socket, "GET", "/v1/status", "");
        assert_eq!(code, 403, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|line| line.contains("user 65534 may not")), "{answer}");
    }
    let (code, answer) = asked(&lab, &[READERS], &sockets[0], "GET", "/v1/status", "");
    assert_eq!(code, 403, "the group of the other socket: {answer}");
}

#[test]
fn a_member_of_the_group_cannot_have_the_process_of_somebody_else_killed() {
    let lab = Lab::configured::<V4>(GROUPS);
    let box_ = lab.container("box", &[]);
    let path = format!("/v1/containers/{}/process", box_.name);
    let roots = format!("{{\"pid\":{}}}", std::process::id());
    let (code, answer) = asked(&lab, &[MEMBERS], &lab.socket(), "POST", &path, &roots);
    assert_eq!(code, 422, "{answer}");
    assert!(answer["error"].as_str().is_some_and(|line| line.contains("not one of user 65534")), "{answer}");
    assert_eq!(lab.json(&["inspect", &box_.name])["pid"], 0);
}
