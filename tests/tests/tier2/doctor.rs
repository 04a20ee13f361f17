//! What of the host can get in the way, as `doctor` tells it.

use std::time::Duration;

use aya::programs::LinkOrder;
use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::ask_udp;
use netbpf_tests::wait::until;
use netbpf_user::agent::CHECKS;
use serde_json::Value;

use crate::lab::Lab;

/// The exit code, and all that was looked at.
fn findings(lab: &Lab) -> (Option<i32>, Vec<Value>) {
    let outcome = lab.netbpf(&["doctor", "--json"]);
    (outcome.code, serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}")))
}

/// A finding by its name.
fn finding(lab: &Lab, check: &str) -> Value {
    let found = findings(lab).1.into_iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("{check} is looked at"))
}

fn amiss(findings: Vec<Value>) -> Vec<Value> {
    findings.into_iter().filter(|finding| finding["ok"] == false).collect()
}

/// The one thing that is in the way is this, and it is told with these words and with what to do.
#[track_caller]
fn only(lab: &Lab, check: &str, words: &[&str]) {
    let (code, all) = findings(lab);
    let amiss = amiss(all);
    let names: Vec<&Value> = amiss.iter().map(|finding| &finding["check"]).collect();
    assert_eq!((code, names), (Some(1), vec![&Value::from(check)]), "{amiss:?}");
    let found = amiss[0]["found"].as_str().expect("a text");
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
    assert_ne!(amiss[0]["advice"], "");
}

/// Nothing is in the way.
#[track_caller]
fn nothing(lab: &Lab) {
    let (code, all) = findings(lab);
    assert_eq!((code, amiss(all)), (Some(0), Vec::new()));
}

fn a_healthy_host_has_nothing_in_the_way_and_everything_is_looked_at<F: TestFamily>() {
    let lab = Lab::new::<F>();
    nothing(&lab);
    let container = lab.container("c", &[]);
    nothing(&lab);
    let names: Vec<Value> = findings(&lab).1.into_iter().map(|finding| finding["check"].clone()).collect();
    let left_out: Vec<&str> = CHECKS.into_iter().filter(|check| !names.contains(&Value::from(*check))).collect();
    assert!(left_out.iter().all(|check| check.starts_with("ipv6-")), "{left_out:?}");
    assert!(names.iter().all(|name| CHECKS.iter().any(|check| name == check)), "{names:?}");
    let asked = finding(&lab, "names");
    assert!(asked["found"].as_str().is_some_and(|found| found.contains(&container.name)), "{asked}");
}

for_both!(a_healthy_host_has_nothing_in_the_way_and_everything_is_looked_at);

#[test]
fn without_an_agent_it_is_said_and_the_rest_is_looked_at() {
    let mut lab = Lab::new::<V4>();
    lab.kill_agent();
    let told = lab.doctor_without_agent();
    assert_eq!(told.code, Some(1), "{told:?}");
    let all: Vec<Value> = serde_json::from_str(&told.stdout).expect("a list");
    let amiss = amiss(all.clone());
    assert_eq!(amiss.len(), 1, "{amiss:?}");
    assert!(amiss[0]["check"] == "agent" && amiss[0]["found"].as_str().is_some_and(|it| it.contains("serves on")));
    for check in ["kernel", "kernel-bpf", "jit", "bpffs", "cgroup", "tc-programs", "routes", "firewall", "nat-ports"] {
        assert!(all.iter().any(|finding| finding["check"] == check), "{check}");
    }
    lab.host.command("ip", &["route", "add", "172.30.9.0/24", "dev", "eth0"]);
    assert!(lab.doctor_without_agent().stdout.contains("172.30.9.0/24"));
}

#[test]
fn nat_ports_that_the_host_gives_out_as_well_are_told() {
    let lab = Lab::new::<V4>();
    let range = |value: &str| {
        let set = lab.host.namespace().sysctl("net/ipv4/ip_local_port_range", value);
        set.unwrap_or_else(|error| panic!("{error}"));
    };
    range("20000 60999");
    only(&lab, "nat-ports", &["20000-60999"]);
    let told = lab.netbpf(&["doctor"]);
    assert!(told.stderr.contains("nat-ports: ") && told.stderr.contains("nat_ports"), "{}", told.stderr);
    range("32768 60999");
    nothing(&lab);
}

#[test]
fn services_of_the_host_among_the_nat_ports_are_named() {
    let lab = Lab::new::<V4>();
    let _service = lab.host.listen(lab.at_host(20_000)).expect("listening");
    only(&lab, "nat-port-sockets", &["20000/tcp"]);
}

#[test]
fn rules_that_drop_what_containers_tell_the_host_are_told_and_so_is_what_they_break() {
    let lab = Lab::new::<V4>();
    let _container = lab.container("c", &[]);
    // As Docker writes them for containers of its own.
    let raw = "table ip raw { chain PREROUTING { type filter hook prerouting priority raw; policy accept;\n\
               ip daddr 172.30.0.1 iifname != \"docker0\" counter drop\n}\n}";
    let nft = |line: &str| lab.host.command("nft", &[line]);
    nft(raw);
    let told = finding(&lab, "firewall");
    assert!(told["found"].as_str().is_some_and(|it| it.contains("ip raw PREROUTING drops questions")), "{told}");
    assert_eq!(finding(&lab, "names")["ok"], false, "it is so");
    nft("delete table ip raw");
    nothing(&lab);
    // As a firewall that lets nothing in which it does not know.
    nft("table inet f { chain in { type filter hook input priority 0; policy drop;\n\
         iifname \"lo\" accept\n ct state established,related accept\n}\n}");
    let told = finding(&lab, "firewall");
    assert!(told["found"].as_str().is_some_and(|it| it.contains("inet f in (policy drop) drops questions")), "{told}");
    assert_eq!(finding(&lab, "names")["ok"], false, "it is so");
    // What the advice says.
    nft("insert rule inet f in iifname netbpf0 accept");
    nothing(&lab);
}

#[test]
fn a_route_into_a_network_is_told() {
    let lab = Lab::new::<V4>();
    lab.host.command("ip", &["route", "add", "172.30.7.0/24", "dev", "eth0"]);
    only(&lab, "routes", &["172.30.7.0/24 by eth0", "network default"]);
    lab.host.command("ip", &["route", "del", "172.30.7.0/24"]);
    lab.host.command("ip", &["rule", "add", "to", "169.254.30.0/24", "lookup", "4242", "pref", "100"]);
    lab.host.command("ip", &["route", "add", "default", "dev", "eth0", "table", "4242"]);
    only(&lab, "routes", &["the virtual addresses", "leads to eth0"]);
}

#[test]
fn a_way_to_the_world_that_is_no_uplink_is_told() {
    let lab = Lab::configured::<V4>("uplinks = [\"eth1\"]\n");
    let told = finding(&lab, "uplinks");
    assert!(told["found"].as_str().is_some_and(|it| it.contains("eth0, which is no uplink")), "{told}");
    assert_eq!(finding(&lab, "status")["ok"], false, "there is no eth1");
}

#[test]
fn containers_that_send_more_than_the_way_to_the_world_carries_are_named() {
    let lab = Lab::new::<V4>();
    let container = lab.container("c", &[]);
    lab.host.command("ip", &["link", "set", "dev", "eth0", "mtu", "1400"]);
    until("the agent has seen it", || finding(&lab, "mtu")["ok"] == false);
    only(&lab, "mtu", &["eth0", "1400", &container.name]);
    // Who is made now knows.
    lab.done(&["rm", &container.name]);
    let _late = lab.container("late", &[]);
    nothing(&lab);
}

#[test]
fn an_xdp_program_on_an_uplink_is_told() {
    let lab = Lab::new::<V4>();
    // XDP_PASS
    let object = lab.foreign_object("xdp", 2);
    let object = object.to_str().expect("UTF-8");
    lab.host.command("ip", &["link", "set", "dev", "eth0", "xdpgeneric", "object", object, "section", "xdp"]);
    only(&lab, "xdp-programs", &["foreign", "on eth0"]);
    lab.host.command("ip", &["link", "set", "dev", "eth0", "xdpgeneric", "off"]);
    nothing(&lab);
}

#[test]
fn programs_of_others_on_our_devices_are_told_with_their_place() {
    let lab = Lab::new::<V4>();
    let container = lab.container("c", &[]);
    let before = lab.foreign_tcx("eth0", LinkOrder::first());
    only(&lab, "tc-programs", &["before ours: foreign", "on eth0"]);
    drop(before);
    let _after = lab.foreign_tcx(&container.device, LinkOrder::last());
    only(&lab, "tc-programs", &["after ours: foreign", &container.device]);
}

#[test]
fn filters_of_others_on_what_an_uplink_receives_are_told() {
    let lab = Lab::new::<V4>();
    lab.clsact("eth0");
    nothing(&lab);
    lab.foreign_filter("eth0", "ingress");
    only(&lab, "tc-filters", &["eth0"]);
}

#[test]
fn drops_of_the_last_minutes_that_point_at_a_setting_are_told_with_it() {
    let lab = Lab::configured::<V4>("mode = \"closed\"\n");
    let container = lab.container("c", &[]);
    let socket = container.place.any_udp();
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    until("the agent has a count to compare with and packets are dropped", || {
        for _ in 0..10 {
            _ = socket.send_to(b"x", lab.at_ext(9));
        }
        finding(&lab, "drops")["ok"] == false
    });
    only(&lab, "drops", &["no-masquerade"]);
    assert!(ask_udp(&socket, lab.at_ext(9)).is_err());
}
