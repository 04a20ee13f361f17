//! Who takes more than a share is refused, and the others are answered meanwhile.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use netbpf_common::path::V4;
use netbpf_tests::wait::{poll_for, scaled, soon};
use serde_json::json;

use super::{GROUPS, READERS};
use crate::lab::Lab;

/// How long the agent waits for a client, and then some.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program of another user: opens so many connections, asks on the last of them, prints the status that it is told, and keeps them all
/// until its input ends.
const HOARDER: &str = "\
import os, socket, sys
path, count, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([group])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
kept = []
for _ in range(count):
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].connect(path)
kept[-1].sendall(b'GET /v1/status HTTP/1.1\\r\\nhost: netbpf\\r\\n\\r\\n')
print(kept[-1].recv(64).split(b' ')[1].decode(), flush=True)
sys.stdin.read()
";

/// A user who keeps connections, until dropped.
struct Hoarder(Child);

impl Hoarder {
    /// What the last of so many connections is told.
    fn new(socket: &Path, count: usize) -> (Self, String) {
        // Not started as that user, who may have no right to a Python of root's own.
        let mut command = Command::new("python3");
        command.args(["-c", HOARDER]).arg(socket).args([count.to_string(), READERS.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut told = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut told).expect("a line");
        (Self(child), told.trim().to_owned())
    }
}

impl Drop for Hoarder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it ends with its input");
    }
}

/// Whether the agent closes a connection in time; what it says before that does not matter.
fn is_closed(mut stream: UnixStream) -> bool {
    stream.set_read_timeout(Some(scaled(PATIENCE))).expect("a timeout");
    let read = stream.read_to_end(&mut Vec::new());
    !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn connected(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).expect("the agent listens")
}

#[test]
fn a_user_with_too_many_connections_is_refused_another_and_locks_nobody_out() {
    let lab = Lab::configured::<V4>(GROUPS);
    let socket = lab.read_socket();
    let (some, told) = Hoarder::new(&socket, 8);
    assert_eq!(told, "200", "as many as there may be");
    drop(some);
    let answered = || lab.request_at(&socket, "GET", "/v1/status", b"").0;
    let (many, told) = Hoarder::new(&socket, 24);
    assert_eq!(told, "503");
    assert_eq!(answered(), 200, "root, at the same socket");
    lab.done(&["ps"]);
    drop(many);
    let again = poll_for(soon(), || Some(Hoarder::new(&socket, 1).1).filter(|told| told == "200"));
    assert!(again.is_some(), "what was given back can be had again");
}

#[test]
fn clients_that_stop_in_the_middle_are_left_and_the_others_are_answered_meanwhile() {
    let lab = Lab::new::<V4>();
    let socket = lab.socket();
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET /v1/sta",
        b"GET /v1/status HTTP/1.1\r\nhost: netbpf\r\n",
        b"POST /v1/containers HTTP/1.1\r\nhost: netbpf\r\ncontent-length: 100\r\n\r\n{\"name\":",
    ];
    let stopped: Vec<UnixStream> = (0..40)
        .map(|number| {
            let mut stream = connected(&socket);
            stream.write_all(beginnings[number % beginnings.len()]).expect("sent");
            stream
        })
        .collect();
    lab.container("c1", &[]);
    lab.done(&["ps"]);
    for stream in stopped {
        assert!(is_closed(stream), "it is left");
    }
    assert_eq!(lab.json(&["ps", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn a_head_that_is_too_long_is_refused_and_a_client_that_takes_no_answers_is_left() {
    let lab = Lab::new::<V4>();
    let heads = [
        format!("GET /v1/status HTTP/1.1\r\nhost: netbpf\r\nx: {}\r\n\r\n", "x".repeat(32 << 10)),
        format!("GET /v1/status HTTP/1.1\r\nhost: netbpf\r\n{}\r\n", "x: y\r\n".repeat(100)),
        format!("GET /v1/containers/{} HTTP/1.1\r\nhost: netbpf\r\n\r\n", "x".repeat(32 << 10)),
    ];
    for head in heads {
        let mut stream = connected(&lab.socket());
        // The answer may come before the head is out.
        _ = stream.write_all(head.as_bytes());
        stream.set_read_timeout(Some(soon())).expect("a timeout");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut stream = connected(&lab.socket());
    // More answers than the kernel keeps for somebody who does not read.
    let requests = b"GET /v1/openapi.json HTTP/1.1\r\nhost: netbpf\r\n\r\n".repeat(200);
    stream.set_nonblocking(true).expect("a socket");
    _ = stream.write(&requests);
    lab.done(&["ps"]);
    let is_left = poll_for(scaled(PATIENCE), || {
        let sent = stream.write(b"GET");
        sent.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock).then_some(())
    });
    assert!(is_left.is_some(), "the connection is closed");
    lab.done(&["ps"]);
}

#[test]
fn more_of_a_thing_than_is_of_use_is_refused_in_one_short_line() {
    let lab = Lab::new::<V4>();
    let container = lab.container("box", &[]);
    let before = lab.snapshot();
    let many = |text: &str, count: usize| vec![text.to_owned(); count];
    let numbered = |count: usize| (0..count).map(|number| format!("www{number}")).collect::<Vec<_>>();
    let uses: serde_json::Map<String, serde_json::Value> =
        numbered(300).into_iter().map(|name| (name, json!("10.5.0.2"))).collect();
    let allowed: String = (0..300).map(|number| format!(",allow=10.0.{}.{}", number / 256, number % 256)).collect();
    let containers = "/v1/containers".to_owned();
    let publish = format!("/v1/containers/{}/publish", container.name);
    let long = "x".repeat(1 << 20);
    for (path, body, words) in [
        (&containers, json!({ "aliases": numbered(300) }), "300 aliases"),
        (&containers, json!({ "dns": many("10.0.0.1", 100) }), "100 resolvers"),
        (&containers, json!({ "dns_search": many("example", 100) }), "100 search domains"),
        (&containers, json!({ "dns_options": many("rotate", 100) }), "100 options"),
        (&containers, json!({ "extra_hosts": many("db:10.0.0.9", 5000) }), "5000 hosts"),
        (
            &containers,
            json!({ "publish": many("80", 10_000), "publish_exposed": many("80", 10_000) }),
            "20000 publishes",
        ),
        (&publish, json!({ "publish": many("80", 20_000) }), "20000 publishes"),
        (&publish, json!({ "publish": [format!("80:80{allowed}")] }), "too many"),
        (
            &"/v1/networks".to_owned(),
            json!({ "name": "n", "subnets": ["10.5.0.0/24"], "aux_addresses": uses }),
            "300 auxiliary",
        ),
        (&containers, json!({ "name": long }), "bad container name"),
        (&containers, json!({ "network": long }), "network"),
        (&containers, json!({ "netns": format!("/{long}") }), "network namespace"),
        (&publish, json!({ "publish": [long] }), "is not a port"),
    ] {
        let (code, answer) = lab.request("POST", path, body.to_string().as_bytes());
        let line = answer["error"].as_str().unwrap_or_default();
        assert!((400..500).contains(&code), "{words}: {code} {line}");
        assert!(line.contains(words) && line.lines().count() == 1 && line.len() < 1100, "{words}: {line}");
    }
    lab.unchanged(&before, "requests that are too large");
}
