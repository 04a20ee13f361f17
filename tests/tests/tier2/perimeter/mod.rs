//! Who may ask the agent for what, how much, and what it does not touch.

mod doors;
mod foreign;
mod hostile;
mod limits;

use serde_json::Value;

use crate::lab::Lab;

/// Groups of the tests: numbers, since the machine's own groups stay as they are.
const MEMBERS: u32 = 4711;
const READERS: u32 = 4712;

/// Settings with both groups, one by its number as a word.
const GROUPS: &str = "socket_group = 4711\nread_group = \"4712\"\n";

/// A request of a user in these groups: status code and body.
#[track_caller]
fn asked(lab: &Lab, groups: &[u32], socket: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let url = format!("http://netbpf{path}");
    let socket = socket.to_str().expect("UTF-8");
    let code = ["--silent", "--show-error", "--write-out", "\n%{http_code}", "--unix-socket", socket];
    let arguments = [&code[..], &["--request", method, "--data", body, &url]].concat();
    let outcome = lab.as_member(groups, "curl", &arguments);
    let (answer, code) = outcome.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{method} {path}: {outcome:?}"));
    (code.parse().expect("a number"), serde_json::from_str(answer).unwrap_or(Value::Null))
}
