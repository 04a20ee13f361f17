//! Networks that cannot be, and who cannot be in them.

use netbpf_common::path::{V4, V6};

use super::table::{REFUSED, Row, USAGE, refuses};
use crate::lab::Lab;

/// What the tables speak of: a network of both families, an internal one, and a container in the first.
fn lab() -> Lab {
    let lab = Lab::new::<V6>();
    furnish(&lab);
    lab
}

fn furnish(lab: &Lab) {
    let network = lab.name("net");
    let subnets = ["--subnet", "10.5.0.0/24", "--subnet", "fd00:5::/64", "--ip-range", "10.5.0.128/25"];
    let rest = ["--gateway", "10.5.0.254", "--aux-address", "router=10.5.0.9", &network];
    lab.done(&[&["network", "create"][..], &subnets, &rest].concat());
    lab.done(&["network", "create", "--internal", &lab.name("vault")]);
    lab.container("box", &["--network", &network, "--ip", "10.5.0.7", "--ip6", "fd00:5::7"]);
}

const NAMES: &[Row] = &[
    ("network create @net", "@net|exists already|network rm"),
    ("network create default", "default|reserved"),
    ("network create host", "host|reserved"),
    ("network create none", "none|reserved"),
    ("network create container", "container|reserved"),
    ("network create a/b", "'a/b'|letters"),
    ("network create ..", "'..'|letters"),
    ("network create .a", "'.a'|letters"),
    ("network create _a", "'_a'|letters"),
    ("network create a:b", "'a:b'|letters"),
    ("network create é", "'é'|letters"),
    ("network create ''", "network name ''|letters"),
    ("network create xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "1 to 63"),
];

const ADDRESSES: &[Row] = &[
    // Subnets by themselves.
    ("network create --subnet 10.6.0.0 @new", "10.6.0.0|as 10.5.0.0/24"),
    ("network create --subnet 10.6.0.0/33 @new", "10.6.0.0/33|as 10.5.0.0/24"),
    ("network create --subnet 10.6.0/24 @new", "10.6.0/24|as 10.5.0.0/24"),
    ("network create --subnet '' @new", "bad subnet"),
    ("network create --subnet 10.6.0.1/24 @new", "host bits|write 10.6.0.0/24"),
    ("network create --subnet fd00:6::1/64 @new", "host bits|write fd00:6::/64"),
    ("network create --subnet 10.6.0.0/30 @new", "10.6.0.0/30|/8 to /29"),
    ("network create --subnet 10.0.0.0/7 @new", "10.0.0.0/7|/8 to /29"),
    ("network create --subnet fd00::/32 @new", "fd00::/32|/48 to /120"),
    ("network create --subnet fd00:6::/121 @new", "fd00:6::/121|/48 to /120"),
    ("network create --subnet 0.0.0.0/8 @new", "0.0.0.0/8|unicast"),
    ("network create --subnet 127.5.0.0/24 @new", "127.5.0.0/24|unicast"),
    ("network create --subnet 224.0.0.0/24 @new", "224.0.0.0/24|unicast"),
    ("network create --subnet ff02::/64 @new", "ff02::/64|multicast"),
    ("network create --subnet fe80::/64 @new", "fe80::/64|link-local"),
    ("network create --subnet ::/64 @new", "::/64|reserved"),
    ("network create --subnet 10.6.0.0/24 --subnet 10.7.0.0/24 @new", "10.6.0.0/24|10.7.0.0/24|same family"),
    ("network create --subnet fd00:6::/64 --subnet fd00:7::/64 @new", "fd00:6::/64|fd00:7::/64|same family"),
    // Gateways.
    ("network create --gateway 10.6.0.1 @new", "10.6.0.1|add --subnet"),
    ("network create --subnet 10.6.0.0/24 --gateway x @new", "bad gateway 'x'"),
    ("network create --subnet 10.6.0.0/24 --gateway 10.7.0.1 @new", "gateway 10.7.0.1|10.6.0.0/24"),
    ("network create --subnet 10.6.0.0/24 --gateway fd00::1 @new", "gateway fd00::1|add --subnet"),
    ("network create --subnet 10.6.0.0/24 --gateway 10.6.0.0 @new", "gateway 10.6.0.0 is no host address"),
    ("network create --subnet 10.6.0.0/24 --gateway 10.6.0.255 @new", "gateway 10.6.0.255 is no host address"),
    ("network create --subnet fd00:6::/64 --gateway fd00:6:: @new", "gateway fd00:6:: is no host address"),
    ("network create --subnet 10.6.0.0/24 --gateway 10.6.0.1 --gateway 10.6.0.2 @new", "10.6.0.0/24|two gateways"),
    // Ranges.
    ("network create --ip-range 10.6.0.0/25 @new", "10.6.0.0/25|add --subnet"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.6.0 @new", "bad IP range '10.6.0'"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.7.0.0/25 @new", "10.7.0.0/25|10.6.0.0/24"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.6.0.0/16 @new", "10.6.0.0/16"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.6.0.1/25 @new", "host bits|write 10.6.0.0/25"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.6.0.0/31 @new", "10.6.0.0/31|up to /30"),
    ("network create --subnet 10.6.0.0/24 --ip-range 10.6.0.0/25 --ip-range 10.6.0.128/25 @new", "two IP ranges"),
    // Reserved addresses.
    ("network create --aux-address a=10.6.0.9 @new", "a=10.6.0.9|in no subnet"),
    ("network create --subnet 10.6.0.0/24 --aux-address a=x @new", "bad auxiliary address 'x'"),
    ("network create --subnet 10.6.0.0/24 --aux-address a=10.7.0.9 @new", "a=10.7.0.9|in no subnet"),
    ("network create --subnet 10.6.0.0/24 --aux-address a=10.6.0.1 @new", "a=10.6.0.1|gateway's"),
    ("network create --subnet 10.6.0.0/24 --gateway 10.6.0.5 --aux-address a=10.6.0.5 @new", "a=10.6.0.5|gateway's"),
    ("network create --subnet 10.6.0.0/24 --aux-address a=10.6.0.9 --aux-address b=10.6.0.9 @new", "a and b|10.6.0.9"),
    ("network create --subnet 10.6.0.0/24 --aux-address a=10.6.0.9 --aux-address a=10.6.0.8 @new", "a is given twice"),
    // Whose they are already.
    ("network create --subnet 10.5.0.0/24 @new", "network @net"),
    ("network create --subnet 10.5.0.128/25 @new", "network @net"),
    ("network create --subnet 10.0.0.0/8 @new", "network @net"),
    ("network create --subnet fd00:5::/80 @new", "network @net"),
    ("network create --subnet 172.30.4.0/24 @new", "network default"),
    ("network create --subnet fd00:172:30::/64 @new", "network default"),
    ("network create --subnet 169.254.30.0/25 @new", "virtual"),
    ("network create --subnet fd00:169:254:30::/64 @new", "virtual"),
    ("network create --subnet 198.18.0.0/24 @new", "198.18.0.0/24|eth0"),
    ("network create --subnet 2001:db8:198::/64 @new", "2001:db8:198::/64|eth0"),
    ("network create --subnet 198.51.100.0/24 @new", "198.51.100.7|address of the host"),
    ("network create --subnet 10.77.0.0/24 @new", "10.77.0.0/24|route"),
    ("network create --subnet 10.76.0.0/15 @new", "10.77.0.0/24|route"),
    ("network create --subnet fd00:77::/48 @new", "fd00:77::/64|route"),
];

const OPTIONS: &[Row] = &[
    ("network create -d overlay @new", "'overlay'|bridge, macvlan and ipvlan"),
    ("network create -d Bridge @new", "'Bridge'|bridge, macvlan and ipvlan"),
    ("network create -o speed=high @new", "'speed'|mtu, masquerade"),
    ("network create -o com.docker.network.bridge.name=br0 @new", "com.docker.network.bridge.name"),
    ("network create -o mtu=many @new", "mtu|many"),
    ("network create -o mtu=-1 @new", "mtu|-1"),
    ("network create -o mtu=575 @new", "575|576"),
    ("network create -o mtu=65536 @new", "65536|65535"),
    ("network create --ipv6 -o mtu=1279 @new", "1279|1280"),
    ("network create -o mtu=1400 -o mtu=1500 @new", "mtu is given twice"),
    ("network create -o mtu=1400 -o com.docker.network.driver.mtu=1400 @new", "mtu is given twice"),
    ("network create -o isolation=maybe @new", "'maybe'|isolation|on or off"),
    ("network create -o masquerade= @new", "''|masquerade|on or off"),
    ("network create -o mode=bridged @new", "'bridged'|masquerade, routed"),
    ("network create -o mode=prefix @new", "IPv6 alone"),
    ("network create -o mode=routed -o masquerade=on @new", "masquerade|mode=routed|leave one out"),
    ("network create -o mode_v6=routed @new", "mode_v6|--ipv6"),
    ("network create -o snat_v6=2001:db8:198::1 @new", "snat_v6|--ipv6"),
    ("network create --ipv6 -o mode_v6=prefix @new", "external_prefix_v6"),
    ("network create --ipv6 -o external_prefix_v6=2001:db8:9::/64 @new", "mode_v6=prefix"),
    ("network create --ipv6 -o mode_v6=prefix -o external_prefix_v6=2001:db8:9::/56 @new", "2001:db8:9::/56|/64"),
    ("network create --ipv6 -o mode_v6=prefix -o external_prefix_v6=fd00:172:30::/64 @new", "network default"),
    ("network create -o snat=x @new", "bad snat 'x'"),
    ("network create -o snat=fd00::1 @new", "snat fd00::1|other family"),
    ("network create -o snat=10.9.9.9 @new", "10.9.9.9|no address by which the world knows"),
    ("network create -o snat=127.0.0.1 @new", "127.0.0.1|no address by which the world knows"),
    ("network create -o snat=172.30.0.1 @new", "172.30.0.1|no address by which the world knows"),
    ("network create -o mode=routed -o snat=198.18.0.1 @new", "198.18.0.1|routed"),
    ("network create --internal -o isolation=off @new", "isolation|internal"),
    ("network create --internal -o masquerade=off @new", "masquerade|internal"),
    ("network create --internal -o snat=198.18.0.1 @new", "snat|internal"),
];

const MEMBERS: &[Row] = &[
    ("network rm nobody", "'nobody'|network ls"),
    ("network rm host", "'host'|network ls"),
    ("network rm default", "default|settings"),
    ("network rm @net", "@net|@box"),
    ("network inspect nobody", "'nobody'|network ls"),
    ("network inspect a/b", "'a/b'"),
    ("network inspect ''", "no network ''|network ls"),
    ("network rm ''", "no network ''|network ls"),
    ("network connect '' @box", "no network ''|network ls"),
    ("network connect default ''", "no container ''|netbpf ps"),
    ("network connect nobody @box", "'nobody'|network ls"),
    ("network connect default nobody", "'nobody'|ps"),
    ("network connect @net @box", "@box|@net|already"),
    ("network connect host @box", "'host'"),
    ("network connect none @box", "'none'"),
    ("network connect container:@box @box", "container:@box"),
    ("network connect --ip 10.9.9.9 default @box", "10.9.9.9|172.30.0.0/16"),
    ("network connect --ip 172.30.0.1 default @box", "172.30.0.1|gateway"),
    ("network connect --ip6 fd00:172:30::1 default @box", "fd00:172:30::1|gateway"),
    ("network connect --ip6 fd00::9 @vault @box", "fd00::9|@vault|no IPv6"),
    ("network connect --mac-address 01:00:5e:00:00:01 default @box", "01:00:5e:00:00:01|even"),
    ("network connect --mac-address 02:42 default @box", "'02:42'|six bytes"),
    ("network connect --alias a..b default @box", "alias 'a..b'"),
    ("network connect --alias www --alias WWW default @box", "WWW|twice"),
    ("network disconnect nobody @box", "'nobody'|network ls"),
    ("network disconnect default nobody", "'nobody'|ps"),
    ("network disconnect default @box", "@box|not in network default"),
    ("publish @locked -p 9000:80", "@locked|internal"),
    ("network connect default @sharer", "@sharer|@box|connect that one"),
    ("network disconnect @net @sharer", "@sharer|@box"),
    ("network connect default @hosted", "@hosted|host"),
];

const MISUSED: &[Row] = &[
    ("network make @new", "'make'"),
    ("network create", "<NAME>"),
    ("network create @new @other", "@other"),
    ("network create --subnet", "--subnet"),
    ("network create --speed high @new", "'--speed'"),
    ("network create --aux-address 10.6.0.9 @new", "--aux-address|NAME=VALUE"),
    ("network create --aux-address =10.6.0.9 @new", "--aux-address|NAME=VALUE"),
    ("network create -o mtu @new", "--opt|NAME=VALUE"),
    ("network rm", "<NAME>"),
    ("network inspect", "<NAME>"),
    ("network connect default", "<NAME>"),
    ("network connect --ip 1.2.3 default @box", "'1.2.3'|--ip"),
    ("network connect --ip fd00::9 default @box", "'fd00::9'|--ip"),
    ("network connect --ip6 10.9.9.9 default @box", "'10.9.9.9'|--ip6"),
    ("network disconnect default", "<NAME>"),
];

#[test]
fn a_network_whose_name_cannot_be_is_refused() {
    refuses(&lab(), REFUSED, NAMES);
}

#[test]
fn a_network_whose_addresses_cannot_be_is_refused() {
    let mut lab = Lab::without_agent::<V6>("");
    for command in [
        "address add 198.51.100.7/32 dev lo",
        "route add 10.77.0.0/24 via 198.18.0.2",
        "-6 route add fd00:77::/64 via 2001:db8:198::2",
    ] {
        lab.host.command("ip", &command.split(' ').collect::<Vec<_>>());
    }
    lab.start_agent();
    furnish(&lab);
    refuses(&lab, REFUSED, ADDRESSES);
}

#[test]
fn a_network_whose_options_cannot_be_is_refused() {
    refuses(&lab(), REFUSED, OPTIONS);
}

#[test]
fn who_cannot_come_or_go_is_refused() {
    let lab = lab();
    lab.container("locked", &["--network", &lab.name("vault")]);
    let shared = format!("container:{}", lab.name("box"));
    lab.done(&["create", "--name", &lab.name("sharer"), "--network", &shared]);
    lab.done(&["create", "--name", &lab.name("hosted"), "--network", "host"]);
    refuses(&lab, REFUSED, MEMBERS);
}

#[test]
fn commands_about_networks_that_are_not_understood_are_wrong_usage() {
    refuses(&lab(), USAGE, MISUSED);
}

#[test]
fn long_names_are_no_device_names_and_work() {
    let lab = Lab::new::<V4>();
    let network = format!("{:x<63}", lab.name("N.et_w-"));
    let container = format!("{:x<63}", lab.name("B-ox"));
    lab.done(&["network", "create", &network]);
    lab.done(&["create", "--name", &container, "--network", &network]);
    lab.done(&["network", "connect", "default", &container]);
    let shown = lab.json(&["inspect", &container]);
    assert_eq!(shown["networks"].as_array().map(Vec::len), Some(2));
    lab.done(&["rm", &container]);
    lab.done(&["network", "rm", &network]);
}
