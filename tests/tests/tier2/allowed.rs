//! Publishes that are not for everybody: by where clients come from, and by the device they come in by.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::wait::{silence, until};

use crate::lab::Lab;

for_both!(
    an_allow_list_lets_in_who_is_on_it_and_tells_the_others,
    a_list_of_devices_lets_in_who_comes_by_them_also_when_one_comes_anew,
    lists_outlive_the_agent_and_go_with_their_publish,
);

/// Whether somebody is told that he may not (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
#[track_caller]
fn told(from: &Place, to: SocketAddr) -> bool {
    let error = from.connect(to).expect_err("he is left out");
    matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::PermissionDenied)
}

/// The prefix of an address alone.
fn only(address: IpAddr) -> String {
    format!("allow={address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn an_allow_list_lets_in_who_is_on_it_and_tells_the_others<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (ext, stranger) = (only(lab.ext_ip), only(F::FAR));
    let (open, closed, dns) =
        (format!("8080:80,{ext},{stranger}"), format!("8081:80,{stranger}"), format!("5353:53/udp,{stranger}"));
    let web = lab.container("web", &["-p", &open, "-p", &closed, "-p", &dns]);
    let other = lab.container("other", &[]);
    let (_tcp, udp) = (Server::tcp(&web.place, "web", 80), Server::udp(&web.place, "web", 53));
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("on the list").server, "web");
    assert!(told(&lab.ext, lab.at_host(8081)));
    assert!(unanswered_udp(&lab.ext.any_udp(), lab.at_host(5353), silence()));
    assert_eq!(udp.answered(), 0);
    for port in [8080, 8081] {
        assert!(told(&other.place, lab.at_host(port)), "a container is no exception");
        assert_eq!(ask_tcp(&lab.host, lab.at_host(port)).expect("the host is").server, "web");
        assert_eq!(ask_tcp(&lab.host, lab.loopback(port)).expect("also to itself").server, "web");
    }
    // At least: a SYN may be sent again before its sender is told.
    until("it is counted", || lab.drops("not-allowed") >= 4);
    lab.done(&["publish", &web.name, "-p", &format!("8082:80,{}", only(other.ip))]);
    assert_eq!(ask_tcp(&other.place, lab.at_host(8082)).expect("on the list").server, "web");
    // The port is held all the same.
    assert!(lab.host.listen(lab.at_host(8081)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse));
}

fn a_list_of_devices_lets_in_who_comes_by_them_also_when_one_comes_anew<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let uplink = lab.uplink();
    lab.ip(&lab.host, "link add vpn7 type veth peer name vpn8");
    lab.ip(&lab.host, "link set vpn7 up");
    until("the other device is served", || {
        lab.json(&["status", "--json"])["uplinks"]
            .as_array()
            .is_some_and(|all| all.iter().any(|it| it["name"] == "vpn7"))
    });
    let web = lab.container("web", &["-p", &format!("8080:80,interface={uplink}"), "-p", "8081:80,interface=vpn7"]);
    let _server = Server::tcp(&web.place, "web", 80);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("by that device").server, "web");
    assert!(told(&lab.ext, lab.at_host(8081)));
    // The name is what counts: the device that has it now is another.
    lab.ip(&lab.host, "link del vpn7");
    lab.host.namespace().sysctl("net/ipv6/conf/all/keep_addr_on_down", "1").unwrap_or_else(|error| panic!("{error}"));
    // Before 6.2 Linux renames no device that is up.
    let rename = format!("ip link set {uplink} name vpn7");
    let line = format!("{rename} || {{ ip link set {uplink} down && {rename} && ip link set vpn7 up; }}");
    let renamed = lab.shell(lab.scratch().path(), &line);
    assert_eq!(renamed.code, Some(0), "{}", renamed.stdout);
    until("the device is known by its new name", || ask_tcp(&lab.ext, lab.at_host(8081)).is_ok());
    assert!(told(&lab.ext, lab.at_host(8080)));
}

fn lists_outlive_the_agent_and_go_with_their_publish<F: TestFamily>() {
    let mut lab = Lab::new::<F>();
    let spec = format!("8080:80,{},interface={}", only(lab.ext_ip), lab.uplink());
    let closed = format!("5353:53/udp,{}", only(F::FAR));
    let web = lab.container("web", &["-p", &spec, "-p", &closed]);
    let (_tcp, _udp) = (Server::tcp(&web.place, "web", 80), Server::udp(&web.place, "web", 53));
    let ports = lab.done(&["port", &web.name]);
    assert!(ports.contains(&only(lab.ext_ip)) && ports.contains("interface="), "{ports}");
    let mut open = Conversation::on(lab.ext.connect(lab.at_host(8080)).expect("connected")).expect("greeted");
    lab.stop_agent();
    lab.start_agent();
    open.exchange(b"still there?").expect("nothing has changed");
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("as before").server, "web");
    assert!(unanswered_udp(&lab.ext.any_udp(), lab.at_host(5353), silence()));
    // Taken back by what it is, whomever it was for.
    lab.done(&["unpublish", &web.name, "-p", "8080:80", "-p", "5353:53/udp"]);
    lab.done(&["publish", &web.name, "-p", "8080:80", "-p", "5353:53/udp"]);
    ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("for everybody now");
    assert!(!lab.done(&["port", &web.name]).contains("allow="));
}
