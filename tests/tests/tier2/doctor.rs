//! What of the host can get in the way, as `doctor` tells it.

use serde_json::Value;

use crate::lab::Lab;
use netbpf_common::path::V4;

/// The exit code, and a finding by its name.
fn finding(lab: &Lab, check: &str) -> (Option<i32>, Value) {
    let outcome = lab.netbpf(&["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&outcome.stdout).expect("a list of findings");
    let found = findings.into_iter().find(|finding| finding["check"] == check);
    (outcome.code, found.unwrap_or_else(|| panic!("{check} is looked at")))
}

#[test]
fn nat_ports_that_the_host_gives_out_as_well_are_told_with_what_to_do() {
    let lab = Lab::new::<V4>();
    let range = |value: &str| {
        let set = lab.host.namespace().sysctl("net/ipv4/ip_local_port_range", value);
        set.unwrap_or_else(|error| panic!("{error}"));
    };
    range("32768 60999");
    let (code, apart) = finding(&lab, "nat-ports");
    assert_eq!((code, &apart["ok"], &apart["advice"]), (Some(0), &true.into(), &"".into()));
    range("20000 60999");
    let (code, touching) = finding(&lab, "nat-ports");
    assert_eq!((code, &touching["ok"]), (Some(1), &false.into()));
    assert!(touching["found"].as_str().is_some_and(|found| found.contains("20000-60999")), "{touching}");
    assert!(touching["advice"].as_str().is_some_and(|advice| advice.contains("nat_ports")), "{touching}");
    let told = lab.netbpf(&["doctor"]);
    assert!(told.stderr.contains("nat-ports"), "{}", told.stderr);
}

#[test]
fn services_of_the_host_among_the_nat_ports_are_named() {
    let lab = Lab::new::<V4>();
    let _service = lab.host.listen(lab.at_host(20_000)).expect("listening");
    let (code, finding) = finding(&lab, "nat-port-sockets");
    assert_eq!((code, &finding["ok"]), (Some(1), &false.into()));
    assert!(finding["found"].as_str().is_some_and(|found| found.contains("20000/tcp")), "{finding}");
}
