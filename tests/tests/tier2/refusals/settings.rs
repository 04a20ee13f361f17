//! Settings that make no sense: an agent does not start with them.

use std::fs;

use netbpf_common::path::V4;

use super::table::{REFUSED, one_line};
use crate::lab::Lab;

/// A file, the line that is to blame, and words of what is told.
const FILES: &[(&str, u32, &str)] = &[
    ("no_such_setting = 1", 1, "unknown setting 'no_such_setting'"),
    ("mtu = 1400\nsbnet = \"10.6.0.0/24\"", 2, "'sbnet': did you mean 'subnet'?"),
    ("\nfixed-cidr = \"172.30.1.0/24\"", 2, "'fixed-cidr': did you mean 'fixed_cidr'?"),
    ("[timeouts]\nicmpp = 3", 2, "'icmpp': did you mean 'icmp'?"),
    ("subnet = \"172.30.0.0/99\"", 1, "172.30.0.0/99|subnet = \"172.30.0.0/16\""),
    ("subnet = \"172.30.0.1/16\"", 1, "host bits|172.30.0.0/16"),
    ("nat_ports = \"9-1\"", 1, "9-1|16384-32767"),
    ("half_open = 1000", 1, "half_open 1000|power of two"),
    ("mtu = 10", 1, "mtu 10|576"),
    ("mtu = \"1500\"", 1, "mtu cannot be \"1500\"|mtu = 65535"),
    ("xdp = \"fast\"", 1, "xdp cannot be \"fast\"|native"),
    ("\n\ndefault_gateway = \"10.0.0.1\"", 3, "default_gateway 10.0.0.1|172.30.0.0/16"),
    ("bip = \"10.6.0.1/24\"\nsubnet = \"10.6.0.0/24\"", 1, "bip 10.6.0.1/24|subnet 10.6.0.0/24|leave one"),
    ("bip = \"10.6.0.1/24\"\nfixed_cidr = \"10.7.0.0/25\"", 2, "fixed_cidr 10.7.0.0/25|10.6.0.0/24"),
    ("dns = [\"0.0.0.0\"]", 1, "0.0.0.0"),
    ("dns_search = [\"a..b\"]", 1, "a..b"),
    ("default_address_pools = [{ base = \"10.0.0.0/8\", size = 4 }]", 1, "10.0.0.0/8|/4|/8 to /29"),
    ("mode = \"nat\"", 1, "mode cannot be \"nat\"|masquerade"),
    ("this is not TOML", 1, "no TOML"),
    ("mtu = 1400\nmtu = 1500", 2, "duplicate key"),
];

#[test]
fn an_agent_with_settings_that_make_no_sense_refuses_to_start() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    for (settings, line, words) in FILES {
        let directory = lab.scratch();
        let file = directory.path().join("settings.toml");
        fs::write(&file, settings).expect("written");
        let outcome = lab.other_agent(directory.path(), &["--config", file.to_str().expect("UTF-8")]);
        assert_eq!(outcome.code, Some(REFUSED), "{settings}: {}", outcome.stderr);
        one_line(settings, &outcome.stderr, words);
        let place = format!("{}:{line}: ", file.display());
        assert!(outcome.stderr.contains(&place), "{settings}: {place} is not named: {}", outcome.stderr);
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 1, "{settings}: nothing but the file");
    }
    lab.unchanged(&before, "agents that did not start");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let lab = Lab::new::<V4>();
    let directory = lab.scratch();
    let outcome = lab.other_agent(directory.path(), &["--config", "/no/such/file"]);
    one_line("no file", &outcome.refusal("no file"), "/no/such/file");
}
