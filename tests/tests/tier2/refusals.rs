//! What is refused: one clear line, the right exit code, and nothing changed.

use std::fs;

use crate::lab::Lab;
use netbpf_common::path::V4;

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let new = lab.name("new");
    let taken = c1.ip.to_string();
    let (name, other) = (c1.name.as_str(), "nobody");
    let long = "x".repeat(70);
    let create = |arguments: &[&str]| lab.refused(&[&["create", "--name", &new][..], arguments].concat());

    for (line, expected) in [
        (create(&["-p", "8080:80"]), name),
        (create(&["--ip", &taken]), &taken),
        (create(&["--ip", "10.1.2.3"]), "172.30.0.0/16"),
        (create(&["--ip", "172.30.0.1"]), "gateway"),
        (create(&["--ip", "172.30.0.0"]), "172.30.0.0"),
        (create(&["--ip", "172.30.255.255"]), "172.30.255.255"),
        (create(&["--mac-address", "01:00:5e:00:00:01"]), "01:00:5e:00:00:01"),
        (create(&["--mac-address", &c1.mac]), name),
        (create(&["-p", "10.9.9.9:8081:80"]), "10.9.9.9"),
        (create(&["-p", "127.0.0.2:8081:80"]), "127.0.0.1"),
        (create(&["-p", "20000:80"]), "nat_ports"),
        (create(&["-p", "3868:3869/sctp"]), "3869:3869/sctp"),
        (lab.refused(&["create", "--name", name]), name),
        (lab.refused(&["create", "--name", "a/b"]), "a/b"),
        (lab.refused(&["create", "--name", ".."]), ".."),
        (lab.refused(&["create", "--name", ""]), "name"),
        (lab.refused(&["create", "--name", &long]), "name"),
        (lab.refused(&["run", "--name", "a/b", "--", "true"]), "a/b"),
        (lab.refused(&["attach", "--name", &new, "--netns", "/no/such/namespace"]), "/no/such/namespace"),
        (lab.refused(&["attach", "--name", &new, "--netns", "/etc/passwd"]), "/etc/passwd"),
        (lab.refused(&["inspect", other]), other),
        (lab.refused(&["port", other]), other),
        (lab.refused(&["exec", other, "--", "true"]), other),
        (lab.refused(&["publish", other, "-p", "8081:80"]), other),
        (lab.refused(&["unpublish", other, "-p", "8081:80"]), other),
        (lab.refused(&["unpublish", name, "-p", "8081:80"]), "8081"),
        (lab.refused(&["flows", "--container", other]), other),
        (lab.refused(&["publish", name, "-p", "8080:80"]), "8080"),
    ] {
        assert!(line.contains(expected), "`{expected}` is not named: {line}");
    }
}

#[test]
fn a_bad_spec_is_refused_and_changes_nothing() {
    let lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &[]);
    for spec in [
        "",
        ":",
        "80:",
        "0:80",
        "80:0",
        "65536:80",
        "80:65536",
        "+1:80",
        "http:80",
        "80:80/icmp",
        "80:80/",
        "8080-8081:80",
        "8081-8080:80-81",
        "1.2.3:80:80",
        "1.2.3.4.5:80:80",
        "80:80:80",
        "::1:80:80",
        "80:80/tcp/udp",
        " 80:80",
    ] {
        let line = lab.refused(&["publish", &c1.name, "-p", spec]);
        assert!(spec.trim().is_empty() || line.contains(spec.trim()), "`{spec}` is not named: {line}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let lab = Lab::new::<V4>();
    for arguments in
        [&["no-such-verb"][..], &["create", "--no-such-flag"], &["inspect"], &["publish"], &["exec"], &["run"]]
    {
        let outcome = lab.netbpf(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.is_empty());
    }
}

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

#[test]
fn an_agent_with_settings_that_make_no_sense_refuses_to_start() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    for (settings, expected) in [
        ("no_such_setting = 1", "no_such_setting"),
        ("subnet = \"172.30.0.0/99\"", "172.30.0.0/99"),
        ("nat_ports = \"9-1\"", "9-1"),
        ("half_open = 1000", "half_open"),
        ("mtu = 10", "mtu"),
        ("xdp = \"native\"", "xdp"),
        ("gateway = \"10.0.0.1\"", "10.0.0.1"),
        ("this is not TOML", "TOML"),
    ] {
        let directory = lab.scratch();
        let file = directory.path().join("settings.toml");
        fs::write(&file, settings).expect("written");
        let outcome = lab.other_agent(directory.path(), &["--config", file.to_str().expect("UTF-8")]);
        assert_eq!(outcome.code, Some(1), "{settings}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{settings}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{settings}: {}", outcome.stderr);
    }
    lab.unchanged(&before, "agents that did not start");
}
