//! The agent's API without our client.

use std::path::Path;

use netbpf_tests::http;
use serde_json::Value;

use super::Lab;

impl Lab {
    /// One request: status code and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        self.request_at(&self.socket(), method, path, body)
    }

    /// The same at one of its sockets.
    pub(crate) fn request_at(&self, socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (code, answer) = http::request(socket, method, path, body).unwrap_or_else(|error| panic!("{error}"));
        (code, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }
}
