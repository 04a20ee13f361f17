//! The API as a program without our client meets it.

use std::os::unix::fs::PermissionsExt;

use netbpf_common::path::V4;

use crate::lab::Lab;

#[test]
fn the_socket_is_for_root_and_its_group() {
    let lab = Lab::new::<V4>();
    let mode = lab.socket().metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn the_openapi_document_describes_every_route() {
    let lab = Lab::new::<V4>();
    let (code, document) = lab.request("GET", "/v1/openapi.json", b"");
    assert_eq!(code, 200);
    for path in ["/v1/status", "/v1/containers", "/v1/containers/{name}", "/v1/containers/{name}/publish", "/v1/flows"]
    {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
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
