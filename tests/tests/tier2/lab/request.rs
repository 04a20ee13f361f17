//! The agent's API without our client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use netbpf_tests::wait::SOON;
use serde_json::Value;

use super::Lab;

impl Lab {
    /// One request: status code and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        self.request_at(&self.socket(), method, path, body)
    }

    /// The same at one of its sockets.
    pub(crate) fn request_at(&self, socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = UnixStream::connect(socket).expect("the agent listens");
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
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {answer}"));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}
