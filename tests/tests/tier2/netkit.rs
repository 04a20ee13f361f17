//! Containers' devices as netkits, and what becomes of them on a kernel that has none: every test holds on both.

use std::process::Command;

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::link::Link;
use netbpf_tests::namespace::OwnNamespace;
use netbpf_tests::packet::{Datagram, Ethernet};
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp, unanswered_udp};
use netbpf_tests::wait::{silence, soon, until};
use serde_json::Value;

use crate::lab::{Container, Lab, dropped};

/// Whether the kernel makes such a device, asked in a namespace of its own without netbpf.
pub(crate) fn has_netkit(lab: &Lab) -> bool {
    let name = lab.name("probe");
    let _probe = OwnNamespace::make(&name);
    // Not nk0, which the kernel calls the other end.
    let made = Command::new("ip").args(["-n", &name, "link", "add", "asked", "type", "netkit"]).output();
    made.expect("ip runs").status.success()
}

/// What a device is, as the kernel tells it.
pub(crate) fn kind(place: &Place, device: &str) -> String {
    let told = place.command("ip", &["-details", "-json", "link", "show", "dev", device]);
    let told: Value = serde_json::from_str(&told).expect("JSON of ip");
    told[0]["linkinfo"]["info_kind"].as_str().expect("a kind").to_owned()
}

/// Packets that the host has received by a device.
fn received(lab: &Lab, container: &Container) -> u64 {
    let told = lab.host.command("ip", &["-statistics", "-json", "link", "show", "dev", &container.device]);
    let told: Value = serde_json::from_str(&told).expect("JSON of ip");
    told[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

/// A lab with a network whose containers are to have netkits.
struct Stage {
    lab: Lab,
    network: String,
    has_netkit: bool,
}

impl Stage {
    fn new<F: TestFamily>() -> Self {
        let lab = Lab::new::<F>();
        let (network, has_netkit) = (lab.name("net"), has_netkit(&lab));
        lab.done(&["network", "create", "--ipv6", "-o", "device=netkit", &network]);
        Self { lab, network, has_netkit }
    }

    fn container(&self, name: &str, flags: &[&str]) -> Container {
        self.lab.container(name, &[&["--network", &self.network][..], flags].concat())
    }

    /// The place of a container's program, as the status calls it, by which what it sends goes.
    fn place(&self) -> &'static str {
        if self.has_netkit { "netkit" } else { "egress" }
    }

    /// The link that has the program there.
    fn link(&self, container: &Container) -> Option<u32> {
        let at = format!("{} ", container.device);
        let status = self.lab.status();
        let there = status.programs.iter().find(|it| it.name == self.place() && it.attach_point.starts_with(&at));
        there.map(|it| it.link_id).filter(|link| *link != 0)
    }
}

fn the_device_is_what_the_kernel_has_and_the_answer_says_so<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let has_netkit = has_netkit(&lab);
    let before = lab.snapshot();
    let network = lab.name("net");
    let made = lab.netbpf(&["network", "create", "--ipv6", "-o", "device=netkit", &network]);
    assert_eq!((made.code, made.stdout.trim()), (Some(0), &*network));
    let lines: Vec<&str> = made.stderr.lines().collect();
    let is_told = |line: &str| line.contains("the kernel has no netkit") && line.contains(&network);
    assert!(if has_netkit { lines.is_empty() } else { lines.len() == 1 && is_told(lines[0]) }, "{lines:?}");
    assert_eq!(lab.log().lines().any(is_told), !has_netkit);
    let shown = lab.json(&["network", "inspect", &network]);
    assert_eq!(shown["options"]["device"], "netkit");
    assert_eq!(shown["warnings"].as_array().expect("a list").len(), usize::from(!has_netkit));
    let c = lab.container("c", &["--network", &network, "--mac-address", "02:42:00:00:00:77"]);
    let expected = if has_netkit { "netkit" } else { "veth" };
    assert_eq!([kind(&lab.host, &c.device), kind(&c.place, "eth0")], [expected; 2]);
    assert_eq!(lab.json(&["inspect", &c.name])["networks"][0]["device_kind"], expected);
    assert_eq!(c.mac, "02:42:00:00:00:77");
    let found: Vec<Value> = serde_json::from_str(&lab.netbpf(&["doctor", "--json"]).stdout).expect("JSON");
    let found = found.iter().find(|it| it["check"] == "netkit").expect("it is looked at");
    assert_eq!(found["ok"], has_netkit, "{found}");
    assert_eq!(lab.problems(), [""; 0]);
    lab.done(&["rm", &c.name]);
    lab.done(&["network", "rm", &network]);
    lab.unchanged(&before, "a network and a container that came and went");
}

fn everybody_is_reached_and_told_what_does_not_go<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let lab = &stage.lab;
    let (a, b) = (stage.container("a", &["-p", "8080:80", "-p", "5353:53/udp"]), stage.container("b", &[]));
    let _servers = [(&a.place, "a"), (&b.place, "b"), (&lab.ext, "ext"), (&lab.host, "host")]
        .map(|(place, name)| (Server::tcp(place, name, 80), Server::udp(place, name, 53)));
    let is_asked = |port: u16, by: &Place, to: std::net::SocketAddr, server: &str| {
        let seen = if port == 53 { ask_udp(&by.any_udp(), to).map(|(seen, _)| seen) } else { ask_tcp(by, to) };
        let seen = seen.unwrap_or_else(|error| panic!("{server} at {to}: {error}"));
        assert_eq!(seen.server, server);
        seen.client.ip()
    };
    for port in [80, 53] {
        assert_eq!(is_asked(port, &a.place, b.at(port), "b"), a.ip);
        assert_eq!(is_asked(port, &a.place, lab.at_ext(port), "ext"), lab.host_ip);
        assert_eq!(is_asked(port, &a.place, lab.at_host(port), "host"), a.ip);
        is_asked(port, &lab.host, a.at(port), "a");
        let published = lab.at_host(if port == 53 { 5353 } else { 8080 });
        for by in [&lab.ext, &lab.host, &b.place, &a.place] {
            is_asked(port, by, published, "a");
        }
    }
    for nobody in [b.at(99), lab.at_ext(99)] {
        let socket = a.place.any_udp();
        socket.connect(nobody).expect("an address");
        socket.send(b"anybody?").expect("sent");
        socket.set_read_timeout(Some(soon())).expect("a timeout");
        let error = socket.recv(&mut [0; 8]).expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{nobody}");
    }
    assert_eq!(lab.problems(), [""; 0]);
}

fn what_a_container_sends_meets_its_program_in_the_driver<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &[]));
    stage.lab.linked();
    assert!(stage.link(&a).is_some(), "{:?}", stage.lab.status().programs);
    let _server = Server::udp(&b.place, "b", 53);
    let socket = a.place.any_udp();
    let before = [&a, &b].map(|it| received(&stage.lab, it));
    for _ in 0..20 {
        ask_udp(&socket, b.at(53)).expect("answered");
    }
    let came = [&a, &b].map(|it| received(&stage.lab, it)).into_iter().zip(before).map(|(now, before)| now - before);
    // Behind a veth the host receives all of it, of a netkit at most what came before there was a link.
    assert!(came.clone().all(|came| (came < 20) == stage.has_netkit), "{:?}", came.collect::<Vec<_>>());
}

fn a_frame_under_the_name_of_another_protocol_is_taken_for_what_it_is_or_not_at_all<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &[]));
    stage.lab.linked();
    let (link, inside) = (Link::open(&a.place, "eth0"), Link::open(&b.place, "eth0"));
    let frame = |payload: &[u8]| Ethernet { from: link.mac, to: inside.mac }.udp(a.at(5000), b.at(90), payload);
    let arrives = |payload: &[u8]| {
        let is_it = |frame: &[u8]| Datagram::parse(frame).filter(|datagram| datagram.payload == payload);
        inside.find(silence(), is_it).is_some()
    };
    link.send(&frame(b"as it is"));
    assert!(arrives(b"as it is"));
    let (arp, vlan) = (0x0806, 0x8100);
    for name in [arp, vlan] {
        link.send_as(name, &frame(b"as something else"));
        assert_eq!(arrives(b"as something else"), !stage.has_netkit, "{name:#x}");
    }
    dropped(&stage.lab, "malformed", if stage.has_netkit { 2 } else { 0 });
}

/// What is dropped on the way is lost for its sender as it would be on a wire, and no error of its own device.
fn what_is_dropped_is_no_error_of_the_device<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &[]));
    stage.lab.linked();
    let link = Link::open(&a.place, "eth0");
    // A link that does not take a frame panics.
    link.send(&Ethernet { from: [2, 0, 0, 0, 0, 9], to: link.mac }.udp(a.at(5000), b.at(90), b"of somebody else"));
    dropped(&stage.lab, "spoofed-mac", 1);
}

fn a_container_sends_nothing_without_the_program<F: TestFamily>() {
    let mut stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &["-p", "8080:80"]));
    let _server = (Server::udp(&b.place, "b", 53), Server::tcp(&b.place, "b", 80));
    let open = a.place.connect(b.at(80)).expect("connected");
    let mut open = Conversation::on(open).expect("greeted");
    stage.lab.linked();
    // Somebody takes it away while nobody is there to put it back.
    let link = stage.link(&a).expect("it has a link");
    stage.lab.kill_agent();
    stage.lab.host.command("bpftool", &["link", "detach", "id", &link.to_string()]);
    if stage.has_netkit {
        // Behind the driver there is the same program.
        open.exchange(b"still there?").expect("still there");
    } else {
        // Into the host, which has no such network by that device and forwards nothing.
        assert!(unanswered_udp(&a.place.any_udp(), b.at(53), silence()));
    }
    stage.lab.start_agent();
    stage.lab.linked();
    assert!(stage.link(&a).is_some());
    open.exchange(b"still there?").expect("still there");
    assert_eq!(stage.lab.problems(), [""; 0]);
}

fn what_is_detached_by_hand_is_put_back<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &[]));
    let _server = Server::tcp(&b.place, "b", 80);
    stage.lab.linked();
    let link = stage.link(&a).expect("it has a link");
    stage.lab.host.command("bpftool", &["link", "detach", "id", &link.to_string()]);
    until("it has another", || stage.link(&a).is_some_and(|now| now != link));
    ask_tcp(&a.place, b.at(80)).expect("as before");
    assert_eq!(stage.lab.problems(), [""; 0]);
}

fn a_restart_changes_nothing_and_loses_nothing<F: TestFamily>() {
    let mut stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &["-p", "8080:80"]), stage.container("b", &[]));
    let _server = Server::tcp(&a.place, "a", 80);
    let open =
        |lab: &Lab, by: &Place| Conversation::on(by.connect(lab.at_host(8080)).expect("published")).expect("greeted");
    let mut conversations = [open(&stage.lab, &stage.lab.ext), open(&stage.lab, &b.place)];
    let before = stage.lab.snapshot();
    stage.lab.kill_agent();
    conversations.iter_mut().for_each(|it| it.exchange(b"without an agent").expect("still there"));
    stage.lab.start_agent();
    conversations.iter_mut().for_each(|it| it.exchange(b"with another").expect("still there"));
    stage.lab.unchanged(&before, "a restart");
    let link = stage.link(&a);
    assert!(link.is_some() && stage.lab.status().programs.iter().any(|it| Some(it.link_id) == link));
    // The network of the settings is another matter: who is there stays what it is.
    stage.lab.stop_agent();
    stage.lab.configure("device = \"veth\"\n");
    stage.lab.start_agent();
    let kinds = [&a, &b].map(|it| kind(&stage.lab.host, &it.device));
    assert_eq!(kinds, [if stage.has_netkit { "netkit" } else { "veth" }; 2]);
    assert_eq!(stage.lab.problems(), [""; 0]);
}

fn a_device_that_somebody_deletes_is_made_again_as_it_was<F: TestFamily>() {
    let stage = Stage::new::<F>();
    let (a, b) = (stage.container("a", &[]), stage.container("b", &[]));
    let _server = Server::tcp(&b.place, "b", 80);
    stage.lab.host.command("ip", &["link", "delete", "dev", &a.device]);
    until("it is back", || stage.lab.problems().is_empty() && ask_tcp(&a.place, b.at(80)).is_ok());
    assert_eq!(kind(&stage.lab.host, &a.device), if stage.has_netkit { "netkit" } else { "veth" });
    stage.lab.linked();
    assert!(stage.link(&a).is_some());
}

fn the_settings_say_it_for_networks_that_do_not<F: TestFamily>() {
    let lab = Lab::configured::<F>("device = \"netkit\"\n");
    let expected = if has_netkit(&lab) { "netkit" } else { "veth" };
    let (front, back) = (lab.name("front"), lab.name("back"));
    lab.done(&["network", "create", "--ipv6", &front]);
    lab.done(&["network", "create", "--ipv6", "-o", "device=veth", &back]);
    let own = lab.container("own", &[]);
    let other = lab.container("other", &["--network", &front]);
    let veth = lab.container("veth", &["--network", &back]);
    let kinds = [&own, &other, &veth].map(|it| kind(&lab.host, &it.device));
    assert_eq!(kinds, [expected, expected, "veth"]);
    // One container with an end of each.
    lab.done(&["network", "connect", &back, &own.name]);
    let _server = (Server::tcp(&own.place, "own", 80), Server::tcp(&veth.place, "veth", 80));
    assert_eq!(ask_tcp(&own.place, veth.at(80)).expect("a neighbour by its other end").server, "veth");
    lab.done(&["network", "disconnect", &back, &own.name]);
    let told = lab.refused(&["network", "create", "-o", "device=tun", &lab.name("none")]);
    assert!(told.contains("tun") && told.contains("veth and netkit"), "{told}");
    assert_eq!(lab.problems(), [""; 0]);
}

for_both!(
    the_device_is_what_the_kernel_has_and_the_answer_says_so,
    everybody_is_reached_and_told_what_does_not_go,
    what_a_container_sends_meets_its_program_in_the_driver,
    a_frame_under_the_name_of_another_protocol_is_taken_for_what_it_is_or_not_at_all,
    what_is_dropped_is_no_error_of_the_device,
    a_container_sends_nothing_without_the_program,
    what_is_detached_by_hand_is_put_back,
    a_restart_changes_nothing_and_loses_nothing,
    a_device_that_somebody_deletes_is_made_again_as_it_was,
    the_settings_say_it_for_networks_that_do_not,
);
