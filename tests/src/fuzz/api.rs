//! Any bytes as the body of a request: what is refused is refused in one line, and what is taken can be carried out.

use std::net::IpAddr;

use netbpf_user::agent::judge;
use netbpf_user::api::read;
use netbpf_user::api::types::{
    ConnectRequest, CreateRequest, DisconnectRequest, NetworkRequest, ProcessRequest, PublishRequest,
};
use netbpf_user::spec::PublishSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tape::Tape;

/// Longest line that refuses a request, in bytes: those of a spec repeat it.
const LONGEST_LINE: usize = 16 << 10;

/// Requests with a body, chosen by the first byte of an input.
#[derive(Clone, Copy)]
enum Route {
    Create,
    Network,
    Connect,
    Disconnect,
    Publish,
    Process,
}

const ROUTES: [Route; 6] =
    [Route::Create, Route::Network, Route::Connect, Route::Disconnect, Route::Publish, Route::Process];

/// The target.
///
/// # Panics
/// When a request is taken that cannot be carried out, or refused in more than a line.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let route = tape.choose(&ROUTES);
    let body = tape.bytes(bytes.len());
    let outcome = match route {
        Route::Create => understood::<CreateRequest>(body).and_then(|request| create(&request)),
        Route::Network => understood::<NetworkRequest>(body).and_then(|request| network(&request)),
        Route::Connect => {
            understood::<ConnectRequest>(body).and_then(|it| judge::end(&it).map_err(|error| error.to_string()))
        }
        Route::Publish => understood::<PublishRequest>(body).and_then(|request| publish(&request)),
        Route::Disconnect => understood::<DisconnectRequest>(body).map(drop),
        Route::Process => understood::<ProcessRequest>(body).map(drop),
    };
    if let Err(line) = outcome {
        assert!(!line.is_empty() && !line.contains('\n'), "not one line: {line:?}");
        assert!(line.len() < LONGEST_LINE, "{} bytes", line.len());
    }
}

/// What a body says, when it says the same written anew.
fn understood<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) -> Result<T, String> {
    let request: T = read(body)?;
    let again = serde_json::to_vec(&request).expect("requests have string keys");
    assert_eq!(read::<T>(&again).as_ref(), Ok(&request), "written anew");
    Ok(request)
}

fn create(request: &CreateRequest) -> Result<(), String> {
    let container = judge::container(request).map_err(|error| error.to_string())?;
    is_a_file_name(&container.name);
    assert!(container.hostname.len() <= 64, "{:?}", container.hostname);
    container.hosts.iter().chain([&container.hostname]).chain(&request.aliases).for_each(|name| is_a_name(name));
    for word in request.dns_search.iter().chain(&request.dns_options) {
        assert!(!word.contains(char::is_whitespace), "{word:?} would be two words of resolv.conf");
    }
    assert!(!request.dns.iter().any(IpAddr::is_unspecified), "{:?}", request.dns);
    assert_eq!(container.specs.len(), request.publish.len() + request.publish_exposed.len());
    container.specs.iter().for_each(is_a_publish);
    Ok(())
}

fn publish(request: &PublishRequest) -> Result<(), String> {
    let specs = judge::publishes(&request.publish).map_err(|error| error.to_string())?;
    specs.iter().for_each(is_a_publish);
    Ok(())
}

fn network(request: &NetworkRequest) -> Result<(), String> {
    let network = judge::network(request).map_err(|error| error.to_string())?;
    is_a_file_name(&network.name);
    assert!(!["default", "host", "none", "container"].contains(&&*network.name), "{}", network.name);
    assert!(network.is_kept, "what is kept of {request:?} reads back as something else");
    assert!((576..=65_535).contains(&network.mtu), "{}", network.mtu);
    assert!(!network.parts.is_empty(), "a network without addresses");
    for (subnet, gateway, range) in &network.parts {
        assert!(subnet.trunc() == *subnet && range.trunc() == *range, "{subnet} {range}");
        assert!(subnet.contains(gateway) && *gateway != subnet.network(), "{gateway} of {subnet}");
        assert!(subnet.contains(range), "{range} of {subnet}");
        assert!(!gateway.is_loopback() && !gateway.is_multicast() && !gateway.is_unspecified(), "{gateway}");
    }
    let families: Vec<bool> = network.parts.iter().map(|(subnet, ..)| subnet.addr().is_ipv4()).collect();
    assert!(families.len() == 1 || families == [true, false], "{families:?}");
    let mut addresses: Vec<&IpAddr> = network.reserved.values().collect();
    assert!(addresses.iter().all(|address| network.parts.iter().any(|(subnet, ..)| subnet.contains(*address))));
    addresses.extend(network.parts.iter().map(|(_, gateway, _)| gateway).filter(|_| !is_lan(request)));
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "an address is kept for two");
    Ok(())
}

/// Its gateway is another machine, and an address can be kept for that by name.
fn is_lan(request: &NetworkRequest) -> bool {
    ["macvlan", "ipvlan"].contains(&&*request.driver)
}

/// It is joined to paths, and stands in lines of the shell.
fn is_a_file_name(name: &str) {
    assert!((1..=63).contains(&name.len()) && !name.starts_with(['.', '-']), "{name:?}");
    assert!(!name.contains(['/', '\0', '\n', ' ', '%']), "{name:?}");
}

/// It stands in /etc/hosts and in answers of DNS.
fn is_a_name(name: &str) {
    assert!((1..=253).contains(&name.len()), "{name:?}");
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len())), "{name:?}");
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !b"#/\\\"".contains(&byte)), "{name:?}");
}

fn is_a_publish(spec: &PublishSpec) {
    let is_range = |(first, last): (u16, u16)| first != 0 && first <= last;
    assert!(is_range(spec.container_port) && spec.host_port.is_none_or(is_range), "{spec:?}");
    let length = |(first, last): (u16, u16)| last - first;
    assert!(spec.host_port.is_none_or(|host| length(host) == length(spec.container_port)), "{spec:?}");
    let written = spec.to_string();
    assert_eq!(written.parse::<PublishSpec>().as_ref(), Ok(spec), "{written}");
}

/// Requests of every kind, with every field.
pub fn seeds() -> Vec<Vec<u8>> {
    SEEDS.iter().map(|(route, body)| [&[*route], body.as_bytes()].concat()).collect()
}

/// What stands in requests, one each.
pub(super) const WORDS: [&str; 24] = [
    "\"name\":",
    "\"hostname\":",
    "\"network\":",
    "\"aliases\":[",
    "\"ip\":",
    "\"ip6\":",
    "\"mac_address\":",
    "\"publish\":[",
    "\"publish_exposed\":[",
    "\"dns\":[",
    "\"dns_search\":[",
    "\"dns_options\":[",
    "\"extra_hosts\":[",
    "\"netns\":",
    "\"tap\":",
    "\"driver\":",
    "\"subnets\":[",
    "\"gateways\":[",
    "\"ip_ranges\":[",
    "\"aux_addresses\":{",
    "\"options\":{",
    "\"internal\":true",
    "host-gateway",
    "../",
];

const SEEDS: [(u8, &str); 16] = [
    (0, "{}"),
    (0, r#"{"name":"web","hostname":"web.example","network":"back","aliases":["www","ftp"]}"#),
    (0, r#"{"name":"web","ip":"172.30.0.7","ip6":"fd00::7","mac_address":"02:42:ac:1e:00:05"}"#),
    (0, r#"{"publish":["8080:80","[::1]:53:53/udp","1-9:1-9/sctp,allow=10.0.0.0/8,interface=eth0"]}"#),
    (
        0,
        r#"{"publish_exposed":["80","8000-8010/udp"],"dns":["10.0.0.53"],"dns_search":["."],"dns_options":["ndots:2"]}"#,
    ),
    (0, r#"{"extra_hosts":["db:10.0.0.9","v6=[fd00::9]","host:host-gateway"],"remove_on_exit":true}"#),
    (0, r#"{"network":"container:web","netns":"/run/netns/x"}"#),
    (0, r#"{"network":"none","netns":"/run/netns/x","tap":null}"#),
    (
        1,
        r#"{"name":"back","subnets":["10.5.0.0/24","fd00:5::/64"],"gateways":["10.5.0.1"],"ip_ranges":["10.5.0.128/25"]}"#,
    ),
    (1, r#"{"name":"back","driver":"bridge","ipv6":true,"aux_addresses":{"a":"172.31.0.9"},"options":{"mtu":"1400"}}"#),
    (1, r#"{"name":"in","internal":true,"subnets":["10.5.0.0/24"],"aux_addresses":{"router":"10.5.0.2"}}"#),
    (
        1,
        r#"{"name":"lan","driver":"macvlan","subnets":["10.5.0.0/24"],"options":{"parent":"eth0","macvlan_mode":"bridge"}}"#,
    ),
    (2, r#"{"container":"web","ip":"10.5.0.9","ip6":"fd00:5::9","mac_address":"02:42:0a:05:00:09","aliases":["db"]}"#),
    (3, r#"{"container":"web"}"#),
    (4, r#"{"publish":["127.0.0.1:9000:80","10000-19999:10000-19999/udp","10.0.0.5::80"]}"#),
    (5, r#"{"pid":4711}"#),
];
