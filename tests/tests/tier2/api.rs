//! The API as a program without our client meets it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use netbpf_common::path::V4;
use netbpf_tests::wait::SOON;
use serde_json::Value;

use crate::lab::Lab;

/// One request: status code and body.
fn request(lab: &Lab, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(lab.socket()).expect("the agent listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: netbpf\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    // A refusal may come before the body is out.
    _ = stream.write_all(body);
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {answer}"));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    (code, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn the_socket_is_for_root_and_its_group() {
    let lab = Lab::new::<V4>();
    let mode = lab.socket().metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn the_openapi_document_describes_every_route() {
    let lab = Lab::new::<V4>();
    let (code, document) = request(&lab, "GET", "/v1/openapi.json", b"");
    assert_eq!(code, 200);
    for path in ["/v1/status", "/v1/containers", "/v1/containers/{name}", "/v1/containers/{name}/publish", "/v1/flows"]
    {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_in_one_line_and_change_nothing() {
    let lab = Lab::new::<V4>();
    let before = lab.snapshot();
    let huge = vec![b' '; 32 << 20];
    let containers = "/v1/containers";
    for (method, path, body) in [
        ("POST", containers, &b"{"[..]),
        ("POST", containers, b"[]"),
        ("POST", containers, b"{\"name\": 7}"),
        ("POST", containers, b"{\"ip\": \"1.2.3\"}"),
        ("POST", containers, b"{\"no_such_field\": 1}"),
        ("POST", containers, b"{\"name\": \"../../etc\"}"),
        ("POST", containers, b"{\"publish\": [\"0:80\"]}"),
        ("POST", containers, b"{\"publish\": [\"80:65536\"]}"),
        ("POST", containers, &huge),
        ("GET", "/v1/containers/nobody", b""),
        ("DELETE", "/v1/containers/..%2f..%2fetc", b""),
        ("POST", "/v1/containers/nobody/publish", b"{\"publish\": [\"80\"]}"),
        ("GET", "/no/such/route", b""),
        ("PATCH", containers, b""),
    ] {
        let (code, answer) = request(&lab, method, path, body);
        let sent = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert!((400..500).contains(&code), "{method} {path} {sent}: {code}");
        let line = answer["error"].as_str().unwrap_or_else(|| panic!("{method} {path} {sent}: no error in {answer}"));
        assert!(!line.is_empty() && !line.contains('\n'), "{method} {path} {sent}: {line}");
    }
    lab.unchanged(&before, "requests that make no sense");
}

#[test]
fn many_ask_at_once_while_devices_come_and_go_and_all_are_answered() {
    let lab = Lab::new::<V4>();
    lab.container("c1", &[]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    // A device that has just gone is a problem, and status says so; it always has an answer.
                    let outcome = lab.netbpf(&["status", "--json"]);
                    let answer = serde_json::from_str::<serde_json::Value>(&outcome.stdout);
                    assert!(answer.is_ok_and(|status| status["uplinks"].is_array()), "{}", outcome.stderr);
                }
            });
        }
        for _ in 0..10 {
            lab.host.command("ip", &["link", "add", "passing0", "type", "veth", "peer", "name", "passing1"]);
            lab.host.command("ip", &["link", "delete", "passing0"]);
        }
    });
}
