//! What `network inspect` and `inspect` show is enough to make it all again.

use netbpf_common::path::V6;
use serde_json::Value;

use crate::lab::{Lab, OwnNamespace};

/// What two setups never have in common, although everything is the same.
const CHANCE: [&str; 4] = ["id", "created", "pid", "device"];

/// Name, flags.
type Made = (&'static str, &'static str);

const NETWORKS: &[Made] = &[
    (
        "front",
        "--subnet 10.5.0.0/24 --gateway 10.5.0.254 --ip-range 10.5.0.128/25 --aux-address router=10.5.0.9 --aux-address \
         printer=10.5.0.10 --subnet fd00:5::/64 --gateway fd00:5::fe --ip-range fd00:5::100/120 --aux-address six=fd00:5::9 \
         -o mtu=1400 -o isolation=off",
    ),
    ("pooled", "--ipv6 -o full_cone=off -o clamp_mss=off"),
    ("vault", "--internal"),
    ("plain", "-o masquerade=off"),
    ("prefix", "-o mode=routed --ipv6 -o mode_v6=prefix -o external_prefix_v6=2001:db8:77::/64"),
    ("closed", "-o mode=closed"),
    (
        "lan",
        "-d macvlan -o parent=%uplink -o macvlan_mode=private --subnet 10.99.0.0/24 --gateway 10.99.0.1 --ip-range 10.99.0.128/25",
    ),
    ("fixed", "--ipv6 -o snat=198.18.0.1 -o snat_v6=2001:db8:198::1"),
];

/// Verb and flags of containers, and what is done with them afterwards; a verb that takes no container names it as `@NAME`. `%uplink` is
/// the uplink.
const CONTAINERS: &[(&str, &str)] = &[
    (
        "web",
        "create --network @front --ip 10.5.0.7 --ip6 fd00:5::7 --mac-address 02:00:00:00:00:07 --network-alias www \
         --network-alias ftp --hostname web.example --dns 10.9.9.9 --dns fd00::9 --dns-search example.org --dns-option \
         ndots:2 --add-host db:10.0.0.9 --add-host six:fd00::8 --add-host host:host-gateway -p 8080:80 -p 127.0.0.1:9000:90 \
         -p [::1]:9001:91 -p 0.0.0.0:5353:53/udp -p 7000-7009:6000-6009/udp -p 3868:3868/sctp -p 198.18.0.1:9002:92 -p 81 \
         -p 9003:93,allow=10.0.0.0/8,allow=fd00::/8 -p 0.0.0.0:9004:94,allow=10.1.0.0/16,interface=%uplink \
         -P 54/udp",
    ),
    ("simple", "create"),
    ("locked", "create --network @vault"),
    ("late", "create --network @vault"),
    ("alone", "create --network none --add-host db:10.0.0.9"),
    ("housed", "create --network host --dns 10.9.9.9"),
    ("sharer", "create --network container:@web --hostname other"),
    ("second", "create --network container:@sharer"),
    ("passing", "run -d --rm"),
    ("taken", "attach --netns /run/netns/@foreign --network @fixed"),
];

const AFTERWARDS: &[&str] = &[
    "network connect --alias second --ip6 fd00:172:30::77 default @web",
    "network connect @vault @web",
    "network connect --mac-address 02:00:00:00:00:08 @prefix @web",
    "network connect @plain @late",
    "publish @late -p 8081:80",
    "network connect @pooled @alone",
    "network connect --ip 10.99.0.200 --mac-address 02:00:00:00:00:09 @lan @web",
];

#[test]
fn a_setup_is_made_again_from_what_is_shown_of_it_alone() {
    let lab = Lab::configured::<V6>("full_cone = true\nclamp_mss = true\n");
    let _foreign = OwnNamespace::make(&lab.name("foreign"));
    let bare = lab.snapshot();
    for (name, flags) in NETWORKS {
        run(&lab, &format!("network create {flags} @{name}"));
    }
    for (name, made) in CONTAINERS {
        let (verb, flags) = made.split_once(' ').unwrap_or((made, ""));
        run(&lab, &format!("{verb} --name @{name} {flags}{}", process(verb)));
    }
    AFTERWARDS.iter().for_each(|command| run(&lab, command));

    let before = Shown::of(&lab);
    assert_eq!(before.containers.len(), CONTAINERS.len());
    for container in before.containers.iter().rev() {
        lab.done(&["rm", "-f", text(container, "name")]);
    }
    lab.done(&["network", "prune"]);
    lab.unchanged(&bare, "what came and went");

    before.commands().iter().for_each(|command| run(&lab, command));
    let after = Shown::of(&lab);
    for (before, after) in before.networks.iter().zip(&after.networks) {
        assert_eq!(without_chance(after), without_chance(before));
    }
    for (before, after) in before.containers.iter().zip(&after.containers) {
        assert_eq!(without_chance(after), without_chance(before));
    }
    assert_eq!((before.networks.len(), before.containers.len()), (after.networks.len(), after.containers.len()));
    for container in &after.containers {
        lab.done(&["rm", "-f", text(container, "name")]);
    }
}

/// What a command of the verb needs besides: which process runs is nothing of the network.
fn process(verb: &str) -> &'static str {
    if verb.starts_with("run") { " -- sleep 1000" } else { "" }
}

#[track_caller]
fn run(lab: &Lab, command: &str) {
    let command = lab.named(command).replace("%uplink", &lab.uplink());
    lab.done(&command.split_whitespace().collect::<Vec<_>>());
}

/// What an instance shows.
struct Shown {
    networks: Vec<Value>,
    containers: Vec<Value>,
}

impl Shown {
    fn of(lab: &Lab) -> Self {
        let each = |all: &[&str], one: &[&str]| -> Vec<Value> {
            let listed = lab.json(all);
            let listed = listed.as_array().expect("a list");
            listed.iter().map(|listed| lab.json(&[one, &[text(listed, "name")]].concat())).collect()
        };
        Self {
            networks: each(&["network", "ls", "--json"], &["network", "inspect"]),
            containers: each(&["ps", "--json"], &["inspect"]),
        }
    }

    /// The commands that make it.
    fn commands(&self) -> Vec<String> {
        let networks = self.networks.iter().filter(|network| network["name"] != "default").map(network);
        // Whose namespace others have comes first.
        let shares = |container: &&Value| text(container, "network").starts_with("container:");
        let (sharers, owners): (Vec<_>, Vec<_>) = self.containers.iter().partition(shares);
        networks.chain(owners.into_iter().chain(sharers).flat_map(container)).collect()
    }
}

fn network(shown: &Value) -> String {
    let mut command = format!("network create -d {}", text(shown, "driver"));
    for (key, flag) in [("subnets", "--subnet"), ("gateways", "--gateway"), ("ip_ranges", "--ip-range")] {
        command.extend(texts(shown, key).map(|value| format!(" {flag} {value}")));
    }
    for (key, flag) in [("aux_addresses", "--aux-address"), ("options", "-o")] {
        let pairs = shown[key].as_object().expect("pairs").iter();
        command.extend(pairs.map(|(name, value)| format!(" {flag} {name}={}", value.as_str().expect("text"))));
    }
    for (key, flag) in [("ipv6", " --ipv6"), ("internal", " --internal")] {
        command.push_str(if shown[key] == true { flag } else { "" });
    }
    format!("{command} {}", text(shown, "name"))
}

fn container(shown: &Value) -> Vec<String> {
    let name = text(shown, "name");
    let ends = shown["networks"].as_array().expect("a list");
    let verb = if shown["attached"] == true {
        format!("attach --netns {}", text(shown, "netns"))
    } else {
        let verb = if shown["remove_on_exit"] == true { "run -d --rm" } else { "create" };
        format!("{verb} --hostname {}", text(shown, "hostname"))
    };
    let place = match ends.first() {
        Some(first) => format!("--network {}{}", text(first, "network"), end(first, "--network-alias")),
        None => format!("--network {}", text(shown, "network")),
    };
    let mut made = format!("{verb} --name {name} {place}");
    let of_files = [
        ("dns", "--dns"),
        ("dns_search", "--dns-search"),
        ("dns_options", "--dns-option"),
        ("extra_hosts", "--add-host"),
    ];
    for (key, flag) in of_files {
        made.extend(texts(shown, key).map(|value| format!(" {flag} {value}")));
    }
    let connects = ends
        .iter()
        .skip(1)
        .map(|further| format!("network connect{} {} {name}", end(further, "--alias"), text(further, "network")));
    let ports =
        shown["ports"].as_array().expect("a list").iter().map(|port| format!("publish {name} -p {}", spec(port)));
    let made = made + process(&verb);
    std::iter::once(made).chain(connects).chain(ports).collect()
}

fn end(shown: &Value, alias: &str) -> String {
    let fixed = [("ip", "--ip"), ("ip6", "--ip6"), ("mac", "--mac-address")];
    let fixed = fixed.into_iter().filter_map(|(key, flag)| Some(format!(" {flag} {}", shown[key].as_str()?)));
    fixed.chain(texts(shown, "aliases").map(|value| format!(" {alias} {value}"))).collect()
}

fn spec(port: &Value) -> String {
    let number = |key: &str| port[key].as_u64().expect("a number");
    let range = |first: u64| format!("{first}-{}", first + number("count") - 1);
    let address = text(port, "host_ip");
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let (host, container) = (range(number("host_port")), range(number("container_port")));
    let lists = [("allow", "allow"), ("interfaces", "interface")]
        .map(|(key, option)| texts(port, key).map(|item| format!(",{option}={item}")).collect::<String>());
    format!("{address}:{host}:{container}/{}{}", text(port, "protocol"), lists.concat())
}

fn text<'a>(shown: &'a Value, key: &str) -> &'a str {
    shown[key].as_str().unwrap_or_else(|| panic!("`{key}` is no text: {shown}"))
}

fn texts<'a>(shown: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let all = shown[key].as_array().unwrap_or_else(|| panic!("`{key}` is no list: {shown}"));
    all.iter().map(|value| value.as_str().expect("text"))
}

fn without_chance(shown: &Value) -> Value {
    match shown {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !CHANCE.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), without_chance(value))).collect()
        }
        Value::Array(all) => all.iter().map(without_chance).collect(),
        other => other.clone(),
    }
}
