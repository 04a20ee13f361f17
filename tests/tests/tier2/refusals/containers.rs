//! Containers that cannot be.

use netbpf_common::path::V6;

use super::table::{REFUSED, Row, USAGE, refuses};
use crate::lab::{Lab, OwnNamespace};

/// What the tables speak of: a container with fixed addresses in a network with both families, and one of IPv4 alone.
fn lab() -> Lab {
    let lab = Lab::new::<V6>();
    lab.container("box", &["--ip", "172.30.0.7", "--ip6", "fd00:172:30::7", "--mac-address", "02:00:00:00:00:07"]);
    let subnet = ["--subnet", "10.5.0.0/24", "--aux-address", "router=10.5.0.9"];
    lab.done(&[&["network", "create"][..], &subnet, &[&lab.name("narrow")]].concat());
    lab
}

const NAMES: &[Row] = &[
    ("create --name @box", "@box|exists already|netbpf rm @box"),
    ("run --name @box -- true", "@box|exists already"),
    ("create --name a/b", "'a/b'|letters"),
    ("run --name a/b -- true", "'a/b'|letters"),
    ("create --name ..", "'..'|letters"),
    ("create --name .a", "'.a'|letters"),
    ("create --name ''", "container name ''|letters"),
    ("create --name é", "'é'|letters"),
    ("create --name a:b", "'a:b'|letters"),
    ("create --name xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "1 to 63"),
    ("create --name @foreign", "@foreign"),
    ("attach --name @new --netns /no/such/namespace", "/no/such/namespace"),
    ("attach --name @new --netns /etc/passwd", "/etc/passwd"),
    ("attach --name @new --netns relative", "'relative'|absolute"),
    ("attach --name @new --netns /run/netns/@box", "/run/netns/@box|container @box"),
    ("attach --name @new --pid 4194304", "4194304"),
    ("attach --name @new --netns /run/netns/@foreign --network host", "namespace|host"),
    ("inspect nobody", "'nobody'|netbpf ps"),
    ("inspect a/b", "'a/b'"),
    ("inspect ''", "no container ''|netbpf ps"),
    ("inspect @box nobody", "'nobody'"),
    ("rm nobody", "'nobody'|netbpf ps"),
    ("rm ''", "no container ''|netbpf ps"),
    ("exec nobody -- true", "'nobody'|netbpf ps"),
    ("exec '' -- true", "no container ''|netbpf ps"),
    ("flows --container nobody", "'nobody'|netbpf ps"),
];

const ADDRESSES: &[Row] = &[
    ("create --name @new --ip 10.1.2.3", "10.1.2.3|172.30.0.0/16"),
    ("create --name @new --ip 172.30.0.1", "172.30.0.1|gateway"),
    ("create --name @new --ip 172.30.0.0", "172.30.0.0|network or broadcast"),
    ("create --name @new --ip 172.30.255.255", "172.30.255.255|network or broadcast"),
    ("create --name @new --ip 172.30.0.7", "172.30.0.7|in use"),
    ("create --name @new --network @narrow --ip 10.5.0.9", "10.5.0.9|reserved as router"),
    ("create --name @new --network @narrow --ip6 fd00:172:30::9", "fd00:172:30::9|@narrow|no IPv6"),
    ("create --name @new --ip6 fd00:5::9", "fd00:5::9|fd00:172:30::/64"),
    ("create --name @new --ip6 fd00:172:30::1", "fd00:172:30::1|gateway"),
    ("create --name @new --ip6 fd00:172:30::", "fd00:172:30::|every router"),
    ("create --name @new --ip6 fd00:172:30::7", "fd00:172:30::7|in use"),
    ("create --name @new --mac-address 01:00:5e:00:00:01", "01:00:5e:00:00:01|even"),
    ("create --name @new --mac-address ff:ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:ff|even"),
    ("create --name @new --mac-address 00:00:00:00:00:00", "00:00:00:00:00:00"),
    ("create --name @new --mac-address 02:00:00:00:00:07", "02:00:00:00:00:07|container @box"),
    ("create --name @new --mac-address 02:42", "'02:42'|six bytes"),
    ("create --name @new --mac-address 02-00-00-00-00-08", "02-00-00-00-00-08|six bytes"),
    ("create --name @new --mac-address ''", "bad MAC address ''"),
];

const PLACES: &[Row] = &[
    ("create --name @new --network nobody", "'nobody'|network ls"),
    ("create --name @new --network ''", "''|network ls"),
    ("create --name @new --network container:nobody", "'nobody'|netbpf ps"),
    ("create --name @new --network container:", "''|netbpf ps"),
    ("create --name @new --network container:@new", "'@new'|netbpf ps"),
    ("create --name @new --network none --ip 10.5.0.7", "an address|none"),
    ("create --name @new --network host --ip6 fd00::7", "an address|host"),
    ("create --name @new --network container:@box --ip 172.30.0.8", "an address|container:@box"),
    ("create --name @new --network host --mac-address 02:00:00:00:00:08", "MAC address|host"),
    ("create --name @new --network host --network-alias www", "an alias|host"),
    ("create --name @new --network none --network-alias www", "an alias|none"),
    ("create --name @new --network container:@box --network-alias www", "an alias|container:@box"),
    ("create --name @new --network host -p 8081:80", "a publish|host"),
    ("create --name @new --network none -p 8081:80", "a publish|none"),
    ("create --name @new --network container:@box -p 8081:80", "a publish|container:@box"),
    ("create --name @new --network host -P 80", "a publish|host"),
    ("run --network host -p 8081:80 -- true", "a publish|host"),
];

const FILES: &[Row] = &[
    ("create --name @new --hostname ''", "hostname ''"),
    ("create --name @new --hostname a..b", "hostname 'a..b'"),
    ("create --name @new --hostname=-a", "hostname '-a'"),
    ("create --name @new --hostname a!b", "hostname 'a!b'"),
    ("create --name @new --hostname xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "1 to 63"),
    ("create --name @new --network-alias ''", "alias ''"),
    ("create --name @new --network-alias a..b", "alias 'a..b'"),
    ("create --name @new --network-alias a/b", "alias 'a/b'"),
    ("create --name @new --network-alias www --network-alias www", "www|twice"),
    ("create --name @new --network-alias www --network-alias WWW", "WWW|twice"),
    ("create --name @new --dns 0.0.0.0", "0.0.0.0|no address of a machine"),
    ("create --name @new --dns 224.0.0.1", "224.0.0.1|no address of a machine"),
    ("create --name @new --dns-search a..b", "search domain 'a..b'"),
    ("create --name @new --dns-search ''", "search domain ''"),
    ("create --name @new --dns-option ''", "option ''"),
    ("create --name @new --add-host db", "'db'|NAME:IP"),
    ("create --name @new --add-host db:", "'db:'|NAME:IP"),
    ("create --name @new --add-host db:nowhere", "'db:nowhere'|NAME:IP"),
    ("create --name @new --add-host db:[fd00::9", "db:[fd00::9|NAME:IP"),
    ("create --name @new --add-host :10.0.0.1", "host ''"),
    ("create --name @new --add-host a!b:10.0.0.1", "host 'a!b'"),
];

const MISUSED: &[Row] = &[
    ("no-such-verb", "'no-such-verb'"),
    ("create --no-such-flag", "'--no-such-flag'"),
    ("create @new", "@new"),
    ("create --name", "--name"),
    ("create --name @new --ip 1.2.3", "'1.2.3'|--ip"),
    ("create --name @new --ip 1.2.3.4/24", "'1.2.3.4/24'|--ip"),
    ("create --name @new --ip fd00::7", "'fd00::7'|--ip"),
    ("create --name @new --ip6 172.30.0.8", "'172.30.0.8'|--ip6"),
    ("create --name @new --ip 172.30.0.8 --ip 172.30.0.9", "--ip"),
    ("create --name @new --dns nowhere", "'nowhere'|--dns"),
    ("run", "<CMD>"),
    ("run --name @new", "<CMD>"),
    ("attach --netns /run/netns/@box", "--name"),
    ("attach --name @new", "--netns"),
    ("attach --name @new --netns /x --pid 1", "--netns|--pid"),
    ("attach --name @new --pid x", "'x'|--pid"),
    ("exec", "<NAME>"),
    ("exec @box", "<CMD>"),
    ("inspect", "<NAME>"),
    ("rm", "<NAME>"),
];

#[test]
fn a_container_whose_name_cannot_be_is_refused() {
    let lab = lab();
    // Somebody else's namespace.
    let _foreign = OwnNamespace::make(&lab.name("foreign"));
    refuses(&lab, REFUSED, NAMES);
}

#[test]
fn a_container_whose_address_cannot_be_is_refused() {
    refuses(&lab(), REFUSED, ADDRESSES);
}

#[test]
fn a_container_that_cannot_be_where_it_is_to_be_is_refused() {
    refuses(&lab(), REFUSED, PLACES);
}

#[test]
fn a_container_whose_files_make_no_sense_is_refused() {
    let lab = lab();
    refuses(&lab, REFUSED, FILES);
    // What the rows cannot say, since words end at blanks.
    for (flag, value, word) in [
        ("--add-host", "a b:10.0.0.1", "host 'a b'"),
        ("--dns-option", "a b", "option 'a b'"),
        ("--hostname", "a\nb", "hostname 'a\\nb'"),
        ("--name", "a b", "container name 'a b'"),
    ] {
        let line = lab.refused(&["create", flag, value]);
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn commands_about_containers_that_are_not_understood_are_wrong_usage() {
    refuses(&lab(), USAGE, MISUSED);
}
