//! What programs ask the socket for that makes no sense.

use netbpf_common::path::V4;

use super::table::one_line;
use crate::lab::Lab;

/// Method, path, body, and what is told: the status, and words of the line.
type Call = (&'static str, &'static str, &'static str, u16, &'static str);

const CONTAINERS: &str = "/v1/containers";
const NETWORKS: &str = "/v1/networks";
const CONNECT: &str = "/v1/networks/default/connect";
const PUBLISH: &str = "/v1/containers/@box/publish";

const BODIES: &[Call] = &[
    ("POST", CONTAINERS, "", 400, "no JSON object"),
    ("POST", CONTAINERS, "{", 400, "EOF"),
    ("POST", CONTAINERS, "[]", 400, "no JSON object"),
    ("POST", CONTAINERS, "null", 400, "no JSON object"),
    ("POST", CONTAINERS, "\"x\"", 400, "no JSON object"),
    ("POST", CONTAINERS, "{} {}", 400, "trailing"),
    ("POST", CONTAINERS, "{\"name\": 7}", 422, "name|string"),
    ("POST", CONTAINERS, "{\"name\": \"a\", \"name\": \"b\"}", 422, "duplicate|name"),
    ("POST", CONTAINERS, "{\"no_such_field\": 1}", 422, "no_such_field|expected"),
    ("POST", CONTAINERS, "{\"aliases\": \"www\"}", 422, "aliases|sequence"),
    ("POST", CONTAINERS, "{\"remove_on_exit\": 1}", 422, "remove_on_exit|boolean"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"options\": []}", 422, "options|map"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"options\": {\"mtu\": 1400}}", 422, "options|string"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"subnet\": \"10.6.0.0/24\"}", 422, "subnet|expected|subnets"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"internal\": \"yes\"}", 422, "internal|boolean"),
    ("POST", CONNECT, "{\"container\": \"@box\", \"alias\": \"www\"}", 422, "alias|aliases"),
    ("POST", "/v1/networks/default/disconnect", "{}", 422, "container"),
    ("POST", PUBLISH, "{}", 422, "publish"),
    ("POST", PUBLISH, "{\"publish\": \"80\"}", 422, "publish|sequence"),
    ("POST", "/v1/containers/@box/process", "{\"pid\": -1}", 422, "pid|-1"),
];

const VALUES: &[Call] = &[
    ("POST", CONTAINERS, "{\"name\": \"../../etc\"}", 422, "../../etc"),
    ("POST", CONTAINERS, "{\"name\": \"@box\"}", 409, "@box|exists already"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"ip\": \"1.2.3\"}", 422, "ip|IPv4"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"ip\": \"fd00::1\"}", 422, "ip|IPv4"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"ip6\": \"10.0.0.1\"}", 422, "ip6|IPv6"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"dns\": [\"nowhere\"]}", 422, "dns|IP address"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"mac_address\": \"02:42\"}", 422, "02:42"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"hostname\": \"a\\nb\"}", 422, "a\\nb"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"aliases\": [\"a b\"]}", 422, "a b"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"publish\": [\"0:80\"]}", 422, "\"0\""),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"publish\": [\"80:65536\"]}", 422, "65536"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"network\": \"nobody\"}", 404, "nobody"),
    ("POST", CONTAINERS, "{\"name\": \"@new\", \"netns\": \"x\"}", 422, "'x'|absolute"),
    ("POST", NETWORKS, "{}", 422, "network name ''"),
    ("POST", NETWORKS, "{\"name\": \"default\"}", 422, "reserved"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"driver\": \"overlay\"}", 422, "overlay"),
    ("POST", NETWORKS, "{\"name\": \"@new\", \"subnets\": [\"172.30.0.0/24\"]}", 409, "network default"),
    ("POST", CONNECT, "{\"container\": \"@box\"}", 409, "already"),
    ("POST", CONNECT, "{\"container\": \"nobody\"}", 404, "nobody"),
    ("POST", CONNECT, "{}", 404, "''"),
    ("POST", "/v1/networks/nobody/connect", "{\"container\": \"@box\"}", 404, "nobody"),
    ("POST", "/v1/containers/nobody/publish", "{\"publish\": [\"80\"]}", 404, "nobody"),
    ("POST", "/v1/containers/@box/process", "{\"pid\": 4194304}", 422, "4194304"),
];

const PATHS: &[Call] = &[
    ("GET", "/v1/containers/nobody", "", 404, "nobody"),
    ("DELETE", "/v1/containers/nobody", "", 404, "nobody"),
    ("DELETE", "/v1/containers/..%2f..%2fetc", "", 404, "../../etc"),
    ("DELETE", "/v1/containers/@box?force=maybe", "", 400, "force"),
    ("DELETE", "/v1/containers/@box?fast=true", "", 400, "fast"),
    ("GET", "/v1/containers/%ff", "", 400, "UTF-8"),
    ("GET", "/v1/networks/nobody", "", 404, "nobody"),
    ("DELETE", "/v1/networks/default", "", 422, "settings"),
    ("GET", "/v1/flows?container=nobody", "", 404, "nobody"),
    ("GET", "/no/such/route", "", 404, "/no/such/route"),
    ("GET", "/", "", 404, "/"),
    ("PATCH", CONTAINERS, "", 405, "PATCH"),
    ("PUT", "/v1/networks/default", "", 405, "PUT"),
];

fn refuses(calls: &[Call]) {
    let lab = Lab::new::<V4>();
    lab.container("box", &["-p", "8080:80"]);
    let before = lab.snapshot();
    for (method, path, body, status, words) in calls {
        let [path, body, words] = [path, body, words].map(|text| lab.named(text));
        let what = format!("{method} {path} {body}");
        let (code, answer) = lab.request(method, &path, body.as_bytes());
        let line = answer["error"].as_str().unwrap_or_else(|| panic!("{what}: no error in {answer}"));
        one_line(&what, line, &words);
        assert_eq!(code, *status, "{what}: {line}");
        for (view, now) in lab.snapshot() {
            assert_eq!(now, before[view], "{what} has changed `{view}`");
        }
    }
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    refuses(BODIES);
}

#[test]
fn requests_whose_values_cannot_be_are_refused() {
    refuses(VALUES);
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    refuses(PATHS);
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let (code, answer) = lab.request("POST", CONTAINERS, &vec![b' '; 32 << 20]);
    assert_eq!(code, 413, "{answer}");
    one_line("a long body", answer["error"].as_str().unwrap_or_default(), "limit");
    lab.unchanged(&before, "a long body");
}
