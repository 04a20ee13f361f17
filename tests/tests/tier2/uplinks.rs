//! Devices to the world, as they come and change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command};

use netbpf_tests::family::TestFamily;
use netbpf_tests::for_both;
use netbpf_tests::headers::Headers;
use netbpf_tests::packet::IcmpError;
use netbpf_tests::ping::Pinger;
use netbpf_tests::place::Place;
use netbpf_tests::server::{Conversation, Server, ask_tcp, ask_udp};
use netbpf_tests::version::Version;
use netbpf_tests::wait::{soon, until};
use netbpf_user::rig::Namespace;
use tempfile::TempDir;

use crate::lab::{Lab, OwnNamespace};

/// Addresses of the host and of another machine in a second network.
fn second(lab: &Lab) -> [IpAddr; 2] {
    [1, 2].map(|number| match lab.version {
        Version::V4 => Ipv4Addr::new(10, 77, 0, number).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, number.into()).into(),
    })
}

/// Whether an uplink is served under this address.
fn is_uplink(lab: &Lab, name: &str, address: IpAddr) -> bool {
    let status = lab.json(&["status", "--json"]);
    let uplinks = status["uplinks"].as_array().expect("a list");
    let key = if address.is_ipv4() { "address" } else { "address6" };
    uplinks.iter().any(|uplink| uplink["name"] == name && uplink[key] == address.to_string())
}

/// A machine on a second device of the host, which has no default route there.
fn second_network(lab: &Lab) -> (OwnNamespace, Place) {
    let [host, lan] = second(lab);
    let name = lab.name("lan");
    let namespace = OwnNamespace::make(&name);
    let place = Place::new(Namespace::named(&name), lab.version);
    let peer = ["peer", "name", "eth0", "netns", &name];
    lab.host.command("ip", &[&["link", "add", "lan0", "type", "veth"][..], &peer].concat());
    lab.add_address(&lab.host, &lab.on_wire(host), "lan0");
    lab.host.command("ip", &["link", "set", "lan0", "up"]);
    lab.add_address(&place, &lab.on_wire(lan), "eth0");
    place.command("ip", &["link", "set", "eth0", "up"]);
    (namespace, place)
}

fn a_device_that_appears_later_is_served<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let (_namespace, lan) = second_network(&lab);
    let _server = Server::tcp(&lan, "lan", 90);

    let [host, beside] = second(&lab);
    until("the device is an uplink", || is_uplink(&lab, "lan0", host));
    let seen = ask_tcp(&lan, SocketAddr::new(host, 8080)).expect("published on every device");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", beside));
    let seen = ask_tcp(&c1.place, SocketAddr::new(beside, 90)).expect("answered");
    assert_eq!(seen.client.ip(), host, "masqueraded with the address of the device it leaves by");
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("the first device is served as before");
}

fn a_device_that_goes_away_takes_nothing_else_along<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let (namespace, lan) = second_network(&lab);
    until("it is served", || ask_tcp(&lan, SocketAddr::new(second(&lab)[0], 8080)).is_ok());
    lab.host.command("ip", &["link", "delete", "lan0"]);
    drop((lan, namespace));
    until("status knows", || {
        let status = lab.json(&["status", "--json"]);
        status["uplinks"].as_array().expect("a list").iter().all(|uplink| uplink["name"] != "lan0")
    });
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
    assert!(lab.problems().is_empty(), "{:?}", lab.problems());
}

fn an_address_that_changes_is_used_for_what_begins_after_it<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _server = Server::udp(&lab.ext, "ext", 90);
    let client = c1.place.any_udp();
    assert_eq!(ask_udp(&client, lab.at_ext(90)).expect("answered").0.client.ip(), lab.host_ip);

    let uplink = lab.uplink();
    let new: IpAddr = match lab.version {
        Version::V4 => Ipv4Addr::new(198, 18, 0, 3).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 3).into(),
    };
    assert!(![lab.host_ip, lab.ext_ip].contains(&new));
    lab.ip(&lab.host, &format!("address delete {} dev {uplink}", lab.on_wire(lab.host_ip)));
    lab.add_address(&lab.host, &lab.on_wire(new), &uplink);
    until("the new address is used", || {
        let short = c1.place.any_udp();
        short.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("a timeout");
        ask_udp(&short, lab.at_ext(90)).is_ok_and(|(seen, _)| seen.client.ip() == new)
    });
    assert_eq!(
        ask_udp(&client, lab.at_ext(90)).expect("answered").0.client.ip(),
        new,
        "the old flow was decided again"
    );
}

/// The way to everything that the host has no other way to.
fn default_by(lab: &Lab, gateway: IpAddr) {
    lab.ip(&lab.host, &format!("route replace default via {gateway}"));
}

/// An address that whoever has the way to it has.
fn world(lab: &Lab) -> IpAddr {
    match lab.version {
        Version::V4 => Ipv4Addr::new(198, 18, 99, 1).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1).into(),
    }
}

fn a_device_that_was_down_serves_again_and_flows_go_on<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let conversation = |stream: std::io::Result<_>| Conversation::on(stream.expect("connected")).expect("greeted");
    let mut inward = conversation(lab.ext.connect(lab.at_host(8080)));
    let mut outward = conversation(c1.place.connect(lab.at_ext(90)));
    let uplink = lab.uplink();
    lab.host.command("ip", &["link", "set", &uplink, "down"]);
    assert!(!lab.host.command("ip", &["-brief", "link", "show", &uplink]).contains("LOWER_UP"));
    lab.host.command("ip", &["link", "set", &uplink, "up"]);
    // The kernel takes it from a device that goes down, and gives it back for IPv4 alone.
    if lab.version == Version::V6 {
        let own = lab.on_wire(lab.host_ip);
        lab.ip(&lab.host, &format!("address replace {own} dev {uplink} nodad"));
    }
    default_by(&lab, lab.ext_ip);
    until("published", || ask_tcp(&lab.ext, lab.at_host(8080)).is_ok());
    until("masqueraded", || ask_tcp(&c1.place, lab.at_ext(90)).is_ok());
    inward.exchange(b"still there?").expect("the address is the same");
    outward.exchange(b"still there?").expect("the address is the same");
    assert_eq!(lab.problems(), [""; 0]);
}

fn what_begins_after_the_default_route_has_moved_leaves_by_the_other_device<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let (_namespace, lan) = second_network(&lab);
    let [host, gateway] = second(&lab);
    let world = world(&lab);
    for (place, asker) in [(&lab.ext, lab.host_ip), (&lan, host)] {
        place.command("ip", &["link", "set", "lo", "up"]);
        lab.add_address(place, &world.to_string(), "lo");
        // It answers with the address that it was asked by.
        lab.ip(place, &format!("route add {asker} dev eth0 src {world}"));
    }
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _servers = [Server::tcp(&lab.ext, "ext", 90), Server::tcp(&lan, "lan", 90)];
    let _dns = [Server::udp(&lab.ext, "ext", 53), Server::udp(&lan, "lan", 53)];
    until("the device is an uplink", || is_uplink(&lab, "lan0", host));
    let to = SocketAddr::new(world, 90);
    let seen = ask_tcp(&c1.place, to).expect("by the first device");
    assert_eq!((&*seen.server, seen.client.ip()), ("ext", lab.host_ip));
    let client = c1.place.any_udp();
    assert_eq!(ask_udp(&client, SocketAddr::new(world, 53)).expect("answered").0.server, "ext");
    let mut kept = Conversation::on(c1.place.connect(to).expect("connected")).expect("greeted");

    default_by(&lab, gateway);
    until("new connections leave by the second", || ask_tcp(&c1.place, to).is_ok_and(|seen| seen.server == "lan"));
    assert_eq!(ask_tcp(&c1.place, to).expect("answered").client.ip(), host);
    // A socket that goes on sending is led there too: its old flow is decided again, once the agent has heard of the route.
    until("a socket that goes on is led there too", || {
        let seen = ask_udp(&client, SocketAddr::new(world, 53)).expect("answered").0;
        (&*seen.server, seen.client.ip()) == ("lan", host)
    });
    // Nobody there knows the connection: it ends at once, and its client need not wait.
    let ended = kept.exchange(b"still there?").expect_err("the server is another");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    ask_tcp(&lan, SocketAddr::new(host, 8080)).expect("published on both");
}

fn a_connection_ends_with_the_address_that_it_had_and_goes_on_when_that_comes_back<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &[]);
    let _world = Server::tcp(&lab.ext, "ext", 90);
    let uplink = lab.uplink();
    let mut kept = Conversation::on(c1.place.connect(lab.at_ext(90)).expect("connected")).expect("greeted");
    let own = lab.on_wire(lab.host_ip);
    lab.ip(&lab.host, &format!("address delete {own} dev {uplink}"));
    until("it is known to be gone", || !is_uplink(&lab, &uplink, lab.host_ip));
    std::thread::scope(|scope| {
        // What it sends meanwhile is lost, and sent again by the container's kernel.
        let talking = scope.spawn(|| kept.exchange(b"still there?"));
        lab.add_address(&lab.host, &own, &uplink);
        talking.join().expect("no panic").expect("the address has come back");
    });

    let other: IpAddr = match lab.version {
        Version::V4 => Ipv4Addr::new(198, 18, 0, 3).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 3).into(),
    };
    lab.ip(&lab.host, &format!("address delete {own} dev {uplink}"));
    lab.add_address(&lab.host, &lab.on_wire(other), &uplink);
    until("the other address is used", || is_uplink(&lab, &uplink, other));
    let ended = kept.exchange(b"still there?").expect_err("its address is gone");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ask_tcp(&c1.place, lab.at_ext(90)).expect("answered").client.ip(), other);
}

/// A point-to-point tunnel of two tun devices, whose packets have no Ethernet header.
struct Tunnel {
    ends: [Child; 2],
    _directory: TempDir,
}

impl Tunnel {
    /// Between the host and the machine outside.
    fn new(lab: &Lab) -> Self {
        let directory = lab.scratch();
        let socket = directory.path().join("tunnel");
        let end = |place: &Place, address: IpAddr, kind: &str| {
            // Of IPv4 addresses alone it knows how to give one.
            let own = if address.is_ipv4() { format!(":{address}/24") } else { String::new() };
            let device = format!("TUN{own},tun-name=tun0,iff-up,iff-no-pi");
            // Packets keep their bounds: SOCK_SEQPACKET.
            let other = format!("{kind}:{},type=5", socket.display());
            place.run(|| Command::new("socat").args([device, other]).spawn()).expect("socat is installed")
        };
        let [host, outside] = second(lab);
        let listening = end(&lab.ext, outside, "UNIX-LISTEN");
        until("the far end waits", || socket.exists());
        let ends = [listening, end(&lab.host, host, "UNIX-CONNECT")];
        if lab.version == Version::V6 {
            for (place, address) in [(&lab.ext, outside), (&lab.host, host)] {
                let has_device = || place.command("ip", &["-brief", "link"]).contains("tun0");
                until("the device is there", has_device);
                lab.add_address(place, &lab.on_wire(address), "tun0");
            }
        }
        Self { ends, _directory: directory }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for end in &mut self.ends {
            // Gone already: the aim is reached.
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

fn a_tunnel_without_ethernet_headers_is_served_like_any_other_device<F: TestFamily>() {
    let lab = Lab::new::<F>();
    let c1 = lab.container("c1", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let _names = Server::udp(&c1.place, "c1", 53);
    let _tunnel = Tunnel::new(&lab);
    let _server = Server::tcp(&lab.ext, "ext", 90);

    let [host, outside] = second(&lab);
    until("the tunnel is an uplink", || is_uplink(&lab, "tun0", host));
    let seen = ask_tcp(&lab.ext, SocketAddr::new(host, 8080)).expect("published by the tunnel");
    assert_eq!((seen.server.as_str(), seen.client.ip()), ("c1", outside), "c1 sees the client's own address");
    let (seen, from) = ask_udp(&lab.ext.any_udp(), SocketAddr::new(host, 5353)).expect("published by the tunnel");
    assert_eq!((seen.client.ip(), from), (outside, SocketAddr::new(host, 5353)));
    let seen = ask_tcp(&c1.place, SocketAddr::new(outside, 90)).expect("masqueraded into the tunnel");
    assert_eq!(seen.client.ip(), host);
    let (seen, _) = ask_udp(&lab.ext.any_udp(), lab.at_host(5353)).expect("the other uplink is served as before");
    assert_eq!(seen.client.ip(), lab.ext_ip);
}

fn who_is_refused_in_a_tunnel_without_ethernet_headers_is_told<F: TestFamily>() {
    const NARROW: u16 = 1300;
    let lab = Lab::new::<F>();
    let [host, outside] = second(&lab);
    let allowed = format!("8080:80,allow={}/{}", lab.ext_ip, if host.is_ipv4() { 32 } else { 128 });
    let c1 = lab.container("c1", &["-p", &allowed]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    lab.ip(&lab.host, "tuntap add dev vm0 mode tap");
    lab.ip(&lab.host, &format!("link set dev vm0 mtu {NARROW}"));
    lab.done(&["attach", "--name", &lab.name("vm"), "--tap", "vm0", "-p", "5353:53/udp"]);
    let _tunnel = Tunnel::new(&lab);
    until("the tunnel is an uplink", || is_uplink(&lab, "tun0", host));
    let listener = Pinger::new(&lab.ext, 7);
    let told = |error: IcmpError| {
        let found =
            listener.find(soon(), |message| message.is(error).then_some((message.from, message.word, message.payload)));
        let (from, word, inner) = found.expect("told");
        let inner = Headers::read(&[&[0; 14][..], &inner].concat()).expect("an IP packet");
        assert_eq!((from, inner.source, inner.destination), (host, outside, host));
        word
    };
    ask_tcp(&lab.ext, SocketAddr::new(host, 8080)).expect_err("it is for others");
    told(IcmpError::PROHIBITED);
    let socket = lab.ext.any_udp();
    socket.send_to(&[7; 1400], SocketAddr::new(host, 5353)).expect("the tunnel takes it");
    assert_eq!(told(IcmpError::fragmentation_needed(NARROW)), u32::from(NARROW));
    assert_eq!((lab.drops("not-allowed") > 0, lab.drops("too-big")), (true, 1));
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("it is for this address");
}

for_both!(
    a_device_that_appears_later_is_served,
    a_device_that_goes_away_takes_nothing_else_along,
    an_address_that_changes_is_used_for_what_begins_after_it,
    a_device_that_was_down_serves_again_and_flows_go_on,
    what_begins_after_the_default_route_has_moved_leaves_by_the_other_device,
    a_connection_ends_with_the_address_that_it_had_and_goes_on_when_that_comes_back,
    a_tunnel_without_ethernet_headers_is_served_like_any_other_device,
    who_is_refused_in_a_tunnel_without_ethernet_headers_is_told,
);
