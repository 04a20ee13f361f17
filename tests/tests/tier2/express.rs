//! Uplinks that are served ahead of the host's stack (XDP).

use netbpf_common::path::V4;
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::transfer::transfer;
use netbpf_tests::wait::until;

use crate::lab::{Container, Lab, Offloads};

// A veth is served so only where it is named.
const NATIVE: &str = "xdp = \"native\"\nuplinks = [\"eth0\"]\n";
const GENERIC: &str = "xdp = \"generic\"\nuplinks = [\"eth0\"]\n";

/// A lab whose outside machine hands frames over as a wire does, with their checksums computed.
fn on_a_wire<F: TestFamily>(settings: &str) -> Lab {
    let lab = Lab::configured::<F>(settings);
    lab.offloads(Offloads::ExtTxChecksumOff);
    lab
}

fn taken(lab: &Lab) -> u64 {
    lab.event("express")
}

/// Whether the uplink's driver runs an XDP program, as the kernel tells it.
fn is_native(lab: &Lab) -> bool {
    let shown = lab.host.command("ip", &["-o", "link", "show", "dev", &lab.uplink()]);
    shown.split_whitespace().any(|word| word == "xdp")
}

fn collects_segments(container: &Container) -> bool {
    let features = container.place.command("ethtool", &["-k", "eth0"]);
    features.lines().any(|line| line.trim() == "generic-receive-offload: on")
}

fn what_is_published_and_what_is_answered_comes_in_ahead_of_the_stack<F: TestFamily>() {
    let lab = on_a_wire::<F>(NATIVE);
    let c = lab.container("c", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let _servers = (Server::tcp(&c.place, "c", 80), Server::udp(&c.place, "c", 53));
    let _ext = (Server::tcp(&lab.ext, "ext", 90), Server::udp(&lab.ext, "ext", 91));
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("published").client.ip(), lab.ext_ip);
    let after_tcp = taken(&lab);
    assert!(after_tcp > 0, "the data of a connection");
    for _ in 0..3 {
        assert_eq!(ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("published").0.server, "c");
    }
    let socket = c.place.any_udp();
    for _ in 0..3 {
        assert_eq!(ask_udp(&socket, lab.at_ext(91)).expect("masqueraded").0.client.ip(), lab.host_ip);
    }
    assert!(taken(&lab) > after_tcp, "an answer once the flow is confirmed");
    assert_eq!(ask_tcp(&c.place, lab.at_ext(90)).expect("masqueraded").client.ip(), lab.host_ip);
    assert!(is_native(&lab));
    assert!(lab.status().programs.iter().any(|it| it.name == "express" && it.attach_point == "eth0 xdp"));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

fn every_byte_arrives_both_ways<F: TestFamily>() {
    const BYTES: u64 = 64 << 20;
    let lab = on_a_wire::<F>(NATIVE);
    let c = lab.container("c", &["-p", "8080:80"]);
    let listener = c.place.listen(lab.everywhere(80)).expect("listening");
    let client = lab.ext.connect(lab.at_host(8080)).expect("published");
    let (server, _) = listener.accept().expect("a connection waits");
    let before = taken(&lab);
    transfer(&client, &server, BYTES).expect("in");
    transfer(&server, &client, BYTES).expect("out");
    assert!(taken(&lab) - before > BYTES / 65_536, "segments of it came by XDP");
}

fn a_frame_larger_than_a_container_takes_goes_through_the_stack<F: TestFamily>() {
    let lab = on_a_wire::<F>(NATIVE);
    let network = lab.name("small");
    lab.done(&["network", "create", "--ipv6", "-o", "mtu=1400", &network]);
    let c = lab.container("c", &["--network", &network, "-p", "5353:53/udp"]);
    let server = c.place.udp(lab.everywhere(53)).expect("free");
    let client = lab.ext.any_udp();
    let send = |bytes: usize| {
        client.send_to(&vec![7; bytes], lab.at_host(5353)).expect("sent");
        let mut room = [0; 2048];
        server.recv(&mut room).expect("it has come")
    };
    assert_eq!(send(100), 100, "opens the flow");
    let before = taken(&lab);
    assert_eq!((send(100), taken(&lab)), (100, before + 1));
    assert_eq!((send(1430), taken(&lab)), (1430, before + 1));
}

fn it_is_switched_while_a_connection_goes_on<F: TestFamily>() {
    let mut lab = on_a_wire::<F>("");
    let c = lab.container("c", &["-p", "8080:80"]);
    let _web = Server::tcp(&c.place, "c", 80);
    let open = lab.ext.connect(lab.at_host(8080)).expect("published");
    let mut open = Conversation::on(open).expect("somebody answers");
    for (settings, expected) in [("", false), (NATIVE, true), (GENERIC, true), ("", false)] {
        lab.stop_agent();
        lab.configure(settings);
        lab.start_agent();
        assert_eq!((is_native(&lab), collects_segments(&c)), (expected, expected), "{settings}");
        let before = taken(&lab);
        for _ in 0..3 {
            open.exchange(b"still there?").expect("still there");
        }
        assert_eq!(taken(&lab) > before, expected, "{settings}: the connection that was open");
        let new = ask_tcp(&lab.ext, lab.at_host(8080)).unwrap_or_else(|error| panic!("{settings}: a new one: {error}"));
        assert_eq!(new.server, "c");
        let late = lab.container("late", &[]);
        assert_eq!(collects_segments(&late), expected, "{settings}: who comes later");
        lab.done(&["rm", &late.name]);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

fn a_restart_and_a_repair_keep_it<F: TestFamily>() {
    let mut lab = on_a_wire::<F>(NATIVE);
    let c = lab.container("c", &["-p", "8080:80"]);
    let _web = Server::tcp(&c.place, "c", 80);
    let (before, at_first) = (lab.snapshot(), taken(&lab));
    lab.kill_agent();
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("without an agent").server, "c");
    lab.start_agent();
    lab.unchanged(&before, "a restart");
    assert!(taken(&lab) > at_first, "without an agent");
    let link = lab.status().programs.iter().find(|it| it.name == "express").expect("it is there").link_id;
    lab.host.command("bpftool", &["link", "detach", "id", &link.to_string()]);
    until("it is attached again", || is_native(&lab));
    let repaired = taken(&lab);
    assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("repaired").server, "c");
    assert!(taken(&lab) > repaired);
}

for_both!(
    what_is_published_and_what_is_answered_comes_in_ahead_of_the_stack,
    every_byte_arrives_both_ways,
    a_frame_larger_than_a_container_takes_goes_through_the_stack,
    it_is_switched_while_a_connection_goes_on,
    a_restart_and_a_repair_keep_it,
);

#[test]
fn an_uplink_that_cannot_be_served_so_is_refused_by_name_or_served_without() {
    let mut lab = Lab::without_agent::<V4>("");
    lab.host.command("ip", &["link", "add", "br7", "type", "bridge"]);
    lab.host.command("ip", &["link", "set", "br7", "up"]);
    lab.configure("xdp = \"native\"\nuplinks = [\"eth0\", \"br7\"]\n");
    let refused = lab.refuses_to_start();
    assert!(refused.contains("br7") && refused.contains("native XDP") && refused.contains("--xdp"), "{refused}");
    lab.configure("xdp = \"generic\"\nuplinks = [\"eth0\", \"br7\"]\n");
    lab.start_agent();
    assert!(is_native(&lab));
    assert_eq!(lab.problems(), Vec::<String>::new());
    let told = lab.netbpf(&["doctor", "--json"]).stdout;
    assert!(told.contains("br7 is served without XDP") && told.contains("eth0 is a veth"), "{told}");
    // Where every device is an uplink, those that can are served so; veths can belong to anybody.
    lab.stop_agent();
    lab.configure("xdp = \"native\"\n");
    lab.start_agent();
    assert!(!is_native(&lab));
    assert_eq!(lab.problems(), Vec::<String>::new());
    let told = lab.netbpf(&["doctor", "--json"]).stdout;
    assert!(told.contains("br7 is served without XDP") && told.contains("eth0 is a veth or a tap"), "{told}");
}

#[test]
fn the_program_of_another_stays_and_is_named() {
    let mut lab = Lab::without_agent::<V4>(NATIVE);
    let names = "another XDP program is on eth0";
    // XDP_PASS
    let object = lab.foreign_object("xdp", 2);
    let object = object.to_str().expect("UTF-8");
    lab.host.command("ip", &["link", "set", "dev", "eth0", "xdpdrv", "object", object, "section", "xdp"]);
    let refused = lab.refuses_to_start();
    assert!(refused.contains(names) && refused.contains("--xdp generic"), "{refused}");
    lab.configure(GENERIC);
    lab.start_agent();
    let before = lab.host.command("ip", &["-o", "link", "show", "dev", "eth0"]);
    assert!(before.contains("prog/xdp"), "{before}");
    assert!(!lab.status().programs.iter().any(|it| it.name == "express"));
    let log = lab.log();
    assert!(log.contains(names), "{log}");
}
