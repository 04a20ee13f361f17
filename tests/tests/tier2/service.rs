//! The agent as a service: what it tells its manager (sd_notify(3)), and how it logs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use netbpf_common::path::V4;
use netbpf_tests::wait::{soon, uninterrupted, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::Lab;

/// What a manager hears, and the agent that it has started.
struct Service {
    socket: UnixDatagram,
    agent: Child,
    files: TempDir,
}

impl Service {
    fn start(lab: &Lab, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let files = lab.scratch();
        let path = files.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(soon() * 4)).expect("a timeout");
        let log = File::create(files.path().join("log")).expect("a file");
        let stream = log.metadata().map(|file| format!("{}:{}", file.dev(), file.ino())).expect("a file");
        let variables = variables.iter().map(|(name, value)| (*name, value.replace("LOG", &stream)));
        let variables: Vec<(&str, String)> = variables.collect();
        let mut all: Vec<(&str, &OsStr)> = vec![("NOTIFY_SOCKET", path.as_os_str())];
        all.extend(variables.iter().map(|(name, value)| (*name, OsStr::new(value))));
        let agent = lab.agent_with(&all, flags, Stdio::from(log));
        Self { socket, agent, files }
    }

    /// The next message.
    #[track_caller]
    fn hear(&self) -> String {
        let mut message = [0; 1024];
        let length = uninterrupted(|| self.socket.recv(&mut message)).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    /// Waits for a message with this line, which is among the next few.
    #[track_caller]
    fn hear_of(&self, line: &str) -> String {
        let told: Vec<String> = (0..50).map(|_| self.hear()).take_while(|told| !has(told, line)).collect();
        assert!(told.len() < 50, "{line} is not among {told:?}");
        line.to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent.id() as i32), signal).expect("it runs");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).expect("readable")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.agent.kill();
        _ = self.agent.wait();
    }
}

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|told| told == line)
}

#[test]
fn a_manager_hears_what_the_agent_serves_and_that_it_stops() {
    let lab = Lab::without_agent::<V4>("");
    let mut service = Service::start(&lab, &[], &[("WATCHDOG_USEC", "400000")]);
    let ready = service.hear();
    assert!(has(&ready, "READY=1") && has(&ready, "STATUS=0 containers, 1 network, 1 uplink"), "{ready}");
    lab.container("c", &[]);
    service.hear_of("STATUS=1 container, 1 network, 1 uplink");
    service.signal(Signal::SIGTERM);
    service.hear_of("STOPPING=1");
    assert!(service.agent.wait().expect("waited for").success());
}

#[test]
fn a_watchdog_is_pinged_while_the_agent_works_and_not_while_it_hangs() {
    let lab = Lab::without_agent::<V4>("");
    let service = Service::start(&lab, &[], &[("WATCHDOG_USEC", "400000")]);
    for _ in 0..3 {
        service.hear_of("WATCHDOG=1");
    }
    service.signal(Signal::SIGSTOP);
    let stat = format!("/proc/{}/stat", service.agent.id());
    until("it has stopped", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
    // What was sent before.
    service.socket.set_nonblocking(true).expect("set");
    while service.socket.recv(&mut [0; 1024]).is_ok() {}
    service.socket.set_nonblocking(false).expect("set");
    service.socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
    assert!(uninterrupted(|| service.socket.recv(&mut [0; 1024])).is_err(), "silence");
    service.socket.set_read_timeout(Some(soon())).expect("set");
    service.signal(Signal::SIGCONT);
    service.hear_of("WATCHDOG=1");
}

#[test]
fn a_watchdog_of_another_process_is_not_pinged() {
    let lab = Lab::without_agent::<V4>("");
    let service = Service::start(&lab, &[], &[("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")]);
    assert!(has(&service.hear(), "READY=1"));
    service.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    let mut message = [0; 1024];
    while let Ok(length) = uninterrupted(|| service.socket.recv(&mut message)) {
        let message = String::from_utf8_lossy(&message[..length]);
        assert!(!message.contains("WATCHDOG"), "{message}");
    }
}

#[test]
fn each_request_that_changes_something_is_logged_once_with_who_asked() {
    let lab = Lab::without_agent::<V4>("");
    let service = Service::start(&lab, &["--log-format", "json"], &[]);
    service.hear_of("READY=1");
    let container = lab.container("c", &["-p", "8080:80"]);
    lab.done(&["ps"]);
    lab.netbpf(&["publish", &container.name, "-p", "8080:81"]).refusal("the port is taken");
    lab.done(&["rm", &container.name]);
    let requests = || -> Vec<Value> {
        let lines = service.log().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>();
        lines.into_iter().filter(|line| line["request"].is_string()).collect()
    };
    until("all three are logged", || requests().len() >= 3);
    let [created, refused, removed] = &requests()[..] else { panic!("{:?}", requests()) };
    let path = format!("/v1/containers/{}", container.name);
    assert_eq!((&created["level"], &created["request"]), (&"INFO".into(), &"POST /v1/containers".into()));
    assert_eq!(
        (&created["container"], &created["status"], &created["uid"]),
        (&container.name.into(), &201.into(), &0.into())
    );
    assert!(created["pid"].is_u64() && created["ms"].is_u64(), "{created}");
    assert_eq!((&refused["message"], &refused["status"]), (&"refused".into(), &409.into()));
    assert!(refused["refusal"].as_str().is_some_and(|line| line.contains("8080")), "{refused}");
    assert_eq!(removed["request"], format!("DELETE {path}"));
}

#[test]
fn the_journal_gets_lines_with_priorities_and_without_times() {
    let lab = Lab::without_agent::<V4>("");
    let service = Service::start(&lab, &[], &[("JOURNAL_STREAM", "LOG")]);
    service.hear_of("READY=1");
    lab.container("c", &[]);
    until("the request is logged", || service.log().contains("POST /v1/containers"));
    let log = service.log();
    assert!(log.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{log}");
    assert!(Path::new(&lab.socket()).exists());
}
