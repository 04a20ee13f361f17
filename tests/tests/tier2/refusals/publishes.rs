//! Ports that cannot be published.

use netbpf_common::path::V4;
use netbpf_tests::server::Server;

use super::table::{REFUSED, Row, USAGE, refuses};
use crate::lab::Lab;

/// What the tables speak of: a container with publishes, another, and servers of the host.
fn lab() -> (Lab, [Server; 2]) {
    let lab = Lab::new::<V4>();
    lab.container("web", &["-p", "8080:80", "-p", "127.0.0.1:9090:90", "-p", "7000-7009:7000-7009/udp"]);
    lab.container("box", &[]);
    let servers = [Server::tcp(&lab.host, "host", 8085), Server::udp(&lab.host, "host", 5353)];
    (lab, servers)
}

const FORMS: &[Row] = &[
    ("publish @box -p ''", "nothing to publish|8080:80"),
    ("publish @box -p :", "container port is missing"),
    ("publish @box -p 80:", "container port is missing"),
    ("publish @box -p /udp", "container port is missing"),
    ("publish @box -p 0", "\"0\"|1 to 65535"),
    ("publish @box -p 0:80", "\"0\"|1 to 65535"),
    ("publish @box -p 80:0", "\"0\"|1 to 65535"),
    ("publish @box -p 65536:80", "\"65536\"|1 to 65535"),
    ("publish @box -p 80:65536", "\"65536\"|1 to 65535"),
    ("publish @box --publish=-1:80", "\"\"|1 to 65535"),
    ("publish @box -p +1:80", "\"+1\"|1 to 65535"),
    ("publish @box -p http:80", "\"http\"|1 to 65535"),
    ("publish @box -p 80:80/icmp", "\"icmp\"|tcp, udp or sctp"),
    ("publish @box -p 80:80/", "\"\"|tcp, udp or sctp"),
    ("publish @box -p 80:80/tcp/udp", "\"tcp/udp\"|tcp, udp or sctp"),
    ("publish @box -p 80,81:80", "no option \"81:80\"|allow=CIDR"),
    ("publish @box -p 81:80,deny=10.0.0.0/8", "allow=CIDR and interface=NAME"),
    ("publish @box -p 81:80,allow=10.0.0.1/8", "write allow=10.0.0.0/8"),
    ("publish @box -p 81:80,allow=everybody", "\"everybody\"|no prefix"),
    ("publish @box -p 81:80,allow=10.0.0.0/8,allow=10.0.0.0/8", "twice"),
    ("publish @box -p 81:80,interface=nowhere0", "nobody comes in by a device nowhere0"),
    ("publish @box -p 81:80,interface=netbpf0", "nobody comes in by a device netbpf0"),
    ("publish @box -p 127.0.0.1:81:80,allow=10.0.0.0/8", "the host's own processes"),
    ("publish @box -p 0.0.0.0:81:80,allow=fd00::/8", "the other family"),
    ("publish @box -p 8080-8081:80", "2 host ports for 1"),
    ("publish @box -p 8080:80-81", "1 host ports for 2"),
    ("publish @box -p 8081-8080:80-81", "8081-8080|backwards"),
    ("publish @box -p 8080-8081:81-80", "81-80|backwards"),
    ("publish @box -p 8080-8090-8100:80", "\"8090-8100\""),
    ("publish @box -p 1.2.3:81:80", "\"1.2.3\"|not an address"),
    ("publish @box -p 1.2.3.4.5:81:80", "\"1.2.3.4.5\"|not an address"),
    ("publish @box -p 198.18.0.1:80", "198.18.0.1::PORT"),
    ("publish @box -p 80:80:80", "\"80\"|not an address"),
    ("publish @box -p ::1:81:80", "brackets"),
    ("publish @box -p [::1]:80", "[::1]::PORT"),
    ("publish @box -p [::ffff:198.18.0.1]:81:80", "write 198.18.0.1"),
    ("create --name @new -p 0:80", "\"0\"|1 to 65535"),
    ("create --name @new -P 8081:80", "container ports alone"),
    ("create --name @new -P 65536", "\"65536\"|1 to 65535"),
    ("run --name @new -p 80: -- true", "container port is missing"),
];

const TAKEN: &[Row] = &[
    ("publish @box -p 8080:80", "0.0.0.0:8080/tcp|container @web"),
    ("publish @web -p 8080:80", "0.0.0.0:8080/tcp|container @web"),
    ("publish @box -p 127.0.0.1:8080:80", "8080/tcp|container @web"),
    ("publish @box -p 9090:90", "127.0.0.1:9090/tcp|container @web"),
    ("publish @box -p 8070-8089:8070-8089", "8080/tcp|container @web"),
    ("publish @box -p 7005:7005/udp", "7005/udp|container @web"),
    ("publish @box -p 8081:80 -p 8081:81", "8081/tcp|container @box"),
    ("create --name @new -p 8081:80 -p 8080:80", "8080/tcp|container @web"),
    ("run --name @new -p 8080:80 -- true", "8080/tcp|container @web"),
    ("publish @box -p 8085:80", "8085/tcp|held by process|(tier2"),
    ("publish @box -p 198.18.0.1:8085:80", "8085/tcp|held by process|(tier2"),
    ("publish @box -p 8086-8090:86-90 -p 8081-8089:81-89", "container @box"),
    ("publish @box -p 8082-8089:82-89", "8085/tcp|held by process"),
    ("publish @box -p 5353:53/udp", "5353/udp|held by process|(tier2"),
    ("create --name @new -p 8085:80", "8085/tcp|held by process|(tier2"),
    ("publish @box -p 20000:80", "20000|16384-32767|nat_ports"),
    ("publish @box -p 16000-17000:16000-17000", "16384|nat_ports"),
];

const ELSEWHERE: &[Row] = &[
    ("publish @box -p 10.9.9.9:8081:80", "10.9.9.9|none of this host's"),
    ("publish @box -p 172.30.0.2:8081:80", "172.30.0.2|none of this host's"),
    ("publish @box -p 127.0.0.2:8081:80", "127.0.0.2|127.0.0.1"),
    ("publish @box -p [fe80::1]:8081:80", "fe80::1|one link alone"),
    ("publish @box -p [fd00::9]:8081:80", "fd00::9|none of this host's"),
    ("publish @box -p 3868:3869/sctp", "SCTP|3869:3869/sctp"),
    ("publish @box -p 3869/sctp", "SCTP|3869:3869/sctp"),
    ("publish nobody -p 8081:80", "'nobody'|netbpf ps"),
    ("publish '' -p 8081:80", "no container ''|netbpf ps"),
    ("unpublish nobody -p 8081:80", "'nobody'|netbpf ps"),
    ("unpublish @web -p 8081:80", "'8081:80'|netbpf port @web"),
    ("unpublish @web -p 8080:80/udp", "'8080:80/udp'"),
    ("unpublish @web -p 8080:80 -p 8081:80", "'8081:80'"),
    ("unpublish @web -p 7000-7005:7000-7005/udp", "'7000-7005:7000-7005/udp'"),
    ("unpublish @box -p 8080:80", "'8080:80'|netbpf port @box"),
    ("port nobody", "'nobody'|netbpf ps"),
    ("port @web 81", "81|not published|netbpf port @web"),
    ("port @web 80/udp", "80/udp|not published"),
    ("port @web 0", "\"0\"|1 to 65535"),
    ("port @web 8080:80", "container ports alone"),
];

const MISUSED: &[Row] = &[
    ("publish", "<NAME>"),
    ("publish @box", "--publish"),
    ("publish @box -p", "--publish"),
    ("unpublish @box", "--publish"),
    ("port", "<NAME>"),
];

#[test]
fn a_publish_that_is_none_is_refused() {
    refuses(&lab().0, REFUSED, FORMS);
}

#[test]
fn a_port_that_somebody_has_is_refused_with_its_holder() {
    let (lab, _servers) = lab();
    refuses(&lab, REFUSED, TAKEN);
}

#[test]
fn a_publish_where_nothing_is_is_refused() {
    let (lab, _servers) = lab();
    refuses(&lab, REFUSED, ELSEWHERE);
}

#[test]
fn commands_about_publishes_that_are_not_understood_are_wrong_usage() {
    refuses(&lab().0, USAGE, MISUSED);
}
