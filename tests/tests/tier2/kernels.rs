//! What only some kernels have: queueing disciplines and kinds of devices that are modules of a distribution's kernel. `cargo xtask vm` runs
//! these; a kernel without fails them, and the line of the program that could not have it says what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use std::{env, fs};

use netbpf_common::path::{V4, V6};
use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::until;
use netbpf_user::rig::Rig;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use crate::bulk::both_ways;
use crate::lab::{Container, Lab, mac_of};

/// How much goes each way of a transfer.
const BYTES: u64 = 1 << 20;

/// Puts a queueing discipline on what a place sends by the wire, in the place of the one before.
#[track_caller]
fn queue(place: &Place, device: &str, discipline: &str) {
    let words: Vec<&str> = discipline.split(' ').collect();
    place.command("tc", &[&["qdisc", "replace", "dev", device, "root"], &words[..]].concat());
}

/// What the discipline at the root of a device counts.
fn counted(place: &Place, device: &str) -> Value {
    let shown = place.command("tc", &["-statistics", "-json", "qdisc", "show", "dev", device, "root"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON of tc");
    shown[0].clone()
}

fn every_byte_arrives_over_a_wire_that_loses_delays_reorders_and_doubles<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let wire = [(&lab.host, lab.uplink()), (&lab.ext, Rig::WIRE.to_owned())];
    for damage in ["loss 2%", "delay 3ms 2ms", "delay 2ms reorder 75% 50%", "duplicate 10%", "corrupt 1%"] {
        for (place, device) in &wire {
            queue(place, device, &format!("netem {damage} limit 10000"));
        }
        both_ways(&lab.ext, lab.at_host(8080), &c1.place, 80, BYTES);
        both_ways(&c1.place, lab.at_ext(90), &lab.ext, 90, BYTES);
        for (place, device) in &wire {
            let sent = counted(place, device)["packets"].as_u64().expect("a number");
            assert!(sent > 200, "{damage}: only {sent} packets were in its way");
        }
    }
    // Each datagram that is doubled comes twice, in one flow.
    for (place, device) in &wire {
        queue(place, device, "netem duplicate 100%");
    }
    let _server = Server::udp(&lab.ext, "ext", 53);
    let client = c1.place.any_udp();
    let seen = ask_udp(&client, lab.at_ext(53)).expect("answered").0;
    assert_eq!(seen.client.ip(), lab.host_ip);
    let flows = lab.flows(&c1).into_iter().filter(|flow| flow.protocol == "udp").count();
    assert_eq!(flows, 1);
    assert_eq!(lab.problems(), Vec::<String>::new());
}

fn nothing_waits_in_fq_for_a_time_that_does_not_come<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    queue(&lab.host, &lab.uplink(), "fq");
    queue(&c1.place, "eth0", "fq");
    // One socket that asks for the times of what it receives has the kernel stamp everything that is received, also what passes by;
    // and with fq below it TCP gives each segment the time at which it is to leave (tcp_update_skb_after_send).
    let stamped = lab.host.any_udp();
    setsockopt(&stamped, sockopt::ReceiveTimestamp, &true).expect("an option");
    both_ways(&lab.ext, lab.at_host(8080), &c1.place, 80, BYTES);
    both_ways(&c1.place, lab.at_ext(90), &lab.ext, 90, BYTES);
    for (place, device) in [(&lab.host, lab.uplink()), (&c1.place, "eth0".to_owned())] {
        let counted = counted(place, &device);
        assert!(counted["packets"].as_u64().is_some_and(|packets| packets > 100), "{counted}");
        assert_eq!(
            (&counted["drops"], counted["horizon_drops"].as_u64().unwrap_or(0)),
            (&Value::from(0), 0),
            "{counted}"
        );
    }
}

/// Addresses of the host and of the machine outside in a network of a device that is made of another.
fn beyond(lab: &Lab) -> [IpAddr; 2] {
    [1, 2].map(|number| match lab.version {
        Version::V4 => Ipv4Addr::new(10, 78, 0, number).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x78, 0, 0, 0, 0, number.into()).into(),
    })
}

fn a_vlan_of_the_host_is_an_uplink<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "8081:81"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let [host, ext] = beyond(&lab);
    for (place, device, own) in [(&lab.host, lab.uplink(), host), (&lab.ext, Rig::WIRE.to_owned(), ext)] {
        place.command("ip", &["link", "add", "link", &device, "name", "tagged", "type", "vlan", "id", "30"]);
        place.command("ip", &["link", "set", "tagged", "up"]);
        lab.add_address(place, &lab.on_wire(own), "tagged");
    }
    until("the host's is an uplink", || ask_tcp(&lab.ext, SocketAddr::new(host, 8080)).is_ok());
    let seen = ask_tcp(&lab.ext, SocketAddr::new(host, 8080)).expect("published there too");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", ext));
    let _ext = Server::tcp(&lab.ext, "ext", 90);
    assert_eq!(ask_tcp(&c1.place, SocketAddr::new(ext, 90)).expect("answered").client.ip(), host);
    both_ways(&c1.place, SocketAddr::new(ext, 91), &lab.ext, 91, BYTES);
    both_ways(&lab.ext, SocketAddr::new(host, 8081), &c1.place, 81, BYTES);
    assert_eq!(ask_tcp(&c1.place, lab.at_ext(90)).expect("the device below serves as before").client.ip(), lab.host_ip);
    lab.host.command("ip", &["link", "delete", "tagged"]);
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    assert_eq!(lab.problems(), Vec::<String>::new());
}

fn a_dummy_is_an_uplink_by_whose_address_the_host_and_containers_are_reached<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let c2 = lab.container("c2", &[]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let [host, _] = beyond(&lab);
    lab.host.command("ip", &["link", "add", "service", "type", "dummy"]);
    lab.host.command("ip", &["link", "set", "service", "up"]);
    lab.add_address(&lab.host, &lab.on_wire(host), "service");
    let shown =
        |status: Value| status["uplinks"].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "service"));
    until("it is an uplink", || shown(lab.json(&["status", "--json"])));
    // Its address is the host's, whichever device a packet for it comes by.
    lab.ip(&lab.ext, &format!("route add {host} via {}", lab.host_ip));
    let to = SocketAddr::new(host, 8080);
    for (place, name) in [(&lab.ext, "outside"), (&lab.host, "the host"), (&c2.place, "another container")] {
        assert_eq!(ask_tcp(place, to).unwrap_or_else(|error| panic!("{name}: {error}")).server, "c1");
    }
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// A network of ipvlans on the wire to the outside machine, and a container in it.
fn on_ipvlan(lab: &Lab, mode: &str) -> (String, Container) {
    let (name, parent, mode) = (lab.name(mode), format!("parent={}", lab.uplink()), format!("ipvlan_mode={mode}"));
    let create = ["network", "create", "-d", "ipvlan", "-o", &parent, "-o", &mode];
    let subnets: &[&str] = match lab.version {
        Version::V4 => &["--subnet", "10.79.0.0/24"],
        Version::V6 => &["--subnet", "10.79.0.0/24", "--subnet", "fd79::/64"],
    };
    lab.done(&[&create[..], subnets, &[&name]].concat());
    let container = lab.container("beside", &["--network", &name]);
    (name, container)
}

fn a_container_on_ipvlan_is_on_the_wire_with_its_own_address_and_the_hosts_mac<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let bridged = lab.container("bridged", &["-p", "8080:80"]);
    let _bridged = Server::tcp(&bridged.place, "bridged", 80);
    let _ext = Server::tcp(&lab.ext, "ext", 90);
    let there = match lab.version {
        Version::V4 => Ipv4Addr::new(10, 79, 0, 250).into(),
        Version::V6 => Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 0x250).into(),
    };
    for mode in ["l2", "l3"] {
        let (network, own) = on_ipvlan(&lab, mode);
        // The published port of the host is none of its.
        let _own = Server::tcp(&own.place, "own", 8080);
        // On its link the outside machine has an address; by the host's routes it needs the way back.
        match mode {
            "l2" => {
                lab.add_address(&lab.ext, &lab.on_wire(there), Rig::WIRE);
                let seen = ask_tcp(&own.place, SocketAddr::new(there, 90)).expect("on its link");
                assert_eq!(seen.client.ip(), own.ip, "nobody translates");
                assert_eq!(mac_of(&own.place, "eth0"), mac_of(&lab.host, &lab.uplink()));
            }
            _ => {
                lab.ip(&lab.ext, &format!("route add {} via {}", own.ip, lab.host_ip));
                assert_eq!(ask_tcp(&own.place, lab.at_ext(90)).expect("by the host's routes").client.ip(), own.ip);
            }
        }
        assert_eq!(ask_tcp(&lab.ext, own.at(8080)).expect(mode).server, "own");
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect(mode).server, "bridged");
        assert_eq!(ask_tcp(&bridged.place, lab.at_ext(90)).expect(mode).client.ip(), lab.host_ip);
        assert_eq!(lab.problems(), Vec::<String>::new());
        lab.done(&["rm", &own.name]);
        lab.done(&["network", "rm", &network]);
        if mode == "l2" {
            lab.ip(&lab.ext, &format!("address delete {} dev {}", lab.on_wire(there), Rig::WIRE));
        }
    }
}

/// Suspends the machine to memory, until its clock wakes it.
fn sleep_and_wake() {
    const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";
    let may_sleep = env::var_os("NETBPF_MAY_SLEEP").is_some_and(|value| value == "1");
    assert!(may_sleep, "no machine is suspended but one of `cargo xtask vm` that has its files in memory");
    // What loads modules is a file of the machine outside.
    fs::write("/proc/sys/kernel/modprobe", "\n").expect("no module is loaded any more");
    let (up, awake) = (up(), Instant::now());
    for alarm in ["0", "+3"] {
        fs::write(ALARM, alarm).expect("the machine has a clock that can wake it");
    }
    fs::write("/sys/power/state", "mem").expect("it sleeps");
    // The one clock stands still meanwhile and the other does not.
    let slept = self::up().saturating_sub(up).saturating_sub(awake.elapsed());
    assert!(slept > Duration::from_secs(1), "it was asleep for {slept:?}");
}

/// How long the machine has been up, asleep or not.
fn up() -> Duration {
    let uptime = fs::read_to_string("/proc/uptime").expect("there is /proc");
    Duration::from_secs_f64(uptime.split(' ').next().and_then(|up| up.parse().ok()).expect("seconds"))
}

/// What goes on over a sleep.
struct Underway {
    lab: Lab,
    c1: Container,
    client: UdpSocket,
    seen_as: SocketAddr,
    conversations: [Conversation; 2],
    flows: usize,
    _servers: [Server; 3],
}

impl Underway {
    fn begin<F: TestFamily>() -> Self {
        let lab = Lab::new::<F>();
        let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
        let servers =
            [Server::tcp(&c1.place, "c1", 80), Server::udp(&c1.place, "c1", 53), Server::tcp(&lab.ext, "ext", 90)];
        let connections = [lab.ext.connect(lab.at_host(8080)), c1.place.connect(lab.at_ext(90))];
        let conversations = connections.map(|it| Conversation::on(it.expect("connected")).expect("greeted"));
        let client = lab.ext.any_udp();
        let seen_as = ask_udp(&client, lab.at_host(5353)).expect("answered").0.client;
        let flows = lab.flows(&c1).len();
        Self { lab, c1, client, seen_as, conversations, flows, _servers: servers }
    }

    fn goes_on(&mut self) {
        let Self { lab, c1, .. } = self;
        for conversation in &mut self.conversations {
            conversation.exchange(b"still there?").expect("a connection goes on");
        }
        assert_eq!(ask_udp(&self.client, lab.at_host(5353)).expect("answered").0.client, self.seen_as);
        assert_eq!(lab.flows(c1).len(), self.flows, "none has ended and none was made anew");
        assert_eq!(ask_tcp(&lab.ext, lab.at_host(8080)).expect("a new one").server, "c1");
        lab.container("c2", &["-p", "8081:80"]);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// One sleep for both families: who needs a file of the machine outside afterwards waits for ever.
#[test]
fn a_machine_that_has_slept_goes_on_where_it_was() {
    let mut underway = [Underway::begin::<V4>(), Underway::begin::<V6>()];
    sleep_and_wake();
    underway.iter_mut().for_each(Underway::goes_on);
}

for_both!(
    every_byte_arrives_over_a_wire_that_loses_delays_reorders_and_doubles,
    nothing_waits_in_fq_for_a_time_that_does_not_come,
    a_vlan_of_the_host_is_an_uplink,
    a_dummy_is_an_uplink_by_whose_address_the_host_and_containers_are_reached,
    a_container_on_ipvlan_is_on_the_wire_with_its_own_address_and_the_hosts_mac,
);
