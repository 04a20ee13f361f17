//! The Debian package, on a machine of its own that systemd has booted.

mod machine;

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use netbpf_common::path::V4;
use netbpf_tests::wait::{poll_for, until};
use netbpf_user::agent::privileges;

use self::machine::Machine;
use crate::lab::Lab;

/// Most that `systemd-analyze security` may count, in tenths: what a mount namespace of its own would take off is not to be had,
/// and neither is what the agent's work takes.
const EXPOSURE: u32 = 50;

/// How long another agent may take to be ready, on a machine that is busy: the verifier looks at all programs.
const START: Duration = Duration::from_secs(30);

/// Two packages, the second of a higher version.
fn packages() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    BUILT.get_or_init(|| ["1", "2"].map(package))
}

fn package(revision: &str) -> PathBuf {
    let me = env::current_exe().expect("the path of this program");
    let directory = me.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/tier2").join("packages");
    let mut xtask = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    xtask.args(["run", "--quiet", "--package", "xtask", "--", "package", "--dev", "--revision", revision, "--output"]);
    let output = xtask.arg(&directory).output().expect("cargo is there");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "no package: {printed}{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(printed.lines().last().expect("cargo-deb prints where the package is"))
}

impl Machine<'_> {
    fn install(&self, package: &Path) {
        let there = self.bring(package);
        self.done(&format!("dpkg --install {there}"));
        assert_eq!(self.state(), "active", "{}", self.log());
    }

    fn state(&self) -> String {
        self.run("systemctl is-active netbpf").stdout.trim().to_owned()
    }

    fn agent(&self) -> String {
        self.done("systemctl show --property=MainPID --value netbpf").trim().to_owned()
    }

    /// Says something and hears it again.
    #[track_caller]
    fn echo(connection: &mut TcpStream, words: &[u8]) {
        connection.write_all(words).expect("sent");
        let mut heard = vec![0; words.len()];
        connection.read_exact(&mut heard).expect("answered");
        assert_eq!(heard, words);
    }
}

/// One container of each kind, and all of the agent's work on them.
fn use_it(lab: &Lab, machine: &Machine) -> TcpStream {
    machine.done("netbpf create --name box");
    machine.done("netbpf run -d --name web -p 8080:80 -- socat TCP-LISTEN:80,fork,reuseaddr EXEC:cat");
    machine.done("netbpf network create back");
    machine.done("netbpf network connect --alias www back web");
    machine.done("netbpf network connect back box");
    assert!(machine.done("netbpf exec box -- getent hosts www").contains("www"), "the resolver answers");
    machine.done("netbpf network disconnect back box");
    machine.done("netbpf publish web -p 9000-9010:9000-9010");
    machine.done("netbpf unpublish web -p 9000-9010:9000-9010");
    let lan = "netbpf network create -d macvlan -o parent=eth0 --subnet 198.18.5.0/24";
    machine.done(&format!("{lan} lan && netbpf run -d --name onlan --network lan -- sleep 1000"));
    machine.done("ip netns exec box ip route show default | grep -q 172.30.0.1");
    // A command of another user, which the agent is to end and whose namespace it is to find.
    machine.done("netbpf run -d --name other -- setpriv --reuid=65534 --clear-groups sleep 1000");
    machine.done("netbpf rm -f other");
    machine.done("netbpf ps && netbpf exposure && netbpf flows && netbpf doctor && netbpf status");
    let published = lab.at_host(8080);
    Machine::echo(&mut lab.host.connect(([127, 0, 0, 1], 8080).into()).expect("led there"), b"from the host");
    let mut connection = lab.ext.connect(published).expect("published");
    Machine::echo(&mut connection, b"before");
    connection
}

fn is_confined_as_the_unit_says(machine: &Machine) {
    let status = machine.status_of(&machine.agent());
    let mask = format!("{:016x}", privileges::mask());
    for line in [&format!("CapPrm:\t{mask}"), &format!("CapBnd:\t{mask}"), "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|shown| shown == line), "no {line} in\n{status}");
    }
    let namespace = |pid: &str| machine.done(&format!("readlink /proc/{pid}/ns/mnt"));
    assert_eq!(namespace(&machine.agent()), namespace("1"), "a mount namespace of its own");
    let complaints = machine.done("systemd-analyze verify netbpf.service");
    assert_eq!(complaints, "", "systemd-analyze verify");
    machine.done(&format!("systemd-analyze security --offline=true --threshold={EXPOSURE} netbpf.service"));
}

#[test]
fn a_package_is_installed_used_upgraded_and_purged_without_a_trace() {
    let [first, second] = packages();
    let lab = Lab::without_agent::<V4>("");
    let machine = Machine::boot(&lab);
    let network = || lab.host.command("ip", &["-brief", "link", "show"]);
    let (files, devices) = (machine.changes(), network());

    machine.install(first);
    is_confined_as_the_unit_says(&machine);
    let depends = machine.done("dpkg-query --show --showformat '${Depends}' netbpf");
    assert!(depends.contains("libc6 (>= 2."), "{depends}");
    for page in ["man1/netbpf.1", "man1/netbpf-network-create.1", "man5/netbpf.toml.5"] {
        machine.done(&format!("ls /usr/share/man/{page}*"));
    }
    machine.done("bash -c '. /usr/share/bash-completion/completions/netbpf && complete -p netbpf'");
    machine.done("getent group netbpf && getent group netbpf-read");
    let mut connection = use_it(&lab, &machine);

    machine.done("echo '# mine' >> /etc/netbpf/netbpf.toml");
    let (agent, containers) = (machine.agent(), machine.done("netbpf ps --json | jq -c '.[] | [.name, .pid, .ip]'"));
    machine.install(second);
    assert_ne!(machine.agent(), agent, "the new one runs");
    Machine::echo(&mut connection, b"after the upgrade");
    Machine::echo(&mut lab.ext.connect(lab.at_host(8080)).expect("published"), b"anew");
    assert_eq!(machine.done("netbpf ps --json | jq -c '.[] | [.name, .pid, .ip]'"), containers);
    machine.done("netbpf status && tail -n1 /etc/netbpf/netbpf.toml | grep -q mine");

    let process = machine.done("netbpf inspect web | jq .pid");
    machine.done("dpkg --remove netbpf");
    assert_eq!(network(), devices);
    let left = "find /sys/fs/bpf/netbpf /run/netbpf /var/lib/netbpf /run/netns -mindepth 1 2>/dev/null";
    assert_eq!(machine.run(left).stdout, "", "a removed package has left something");
    machine.refused(&format!("kill -0 {process}"));
    machine.done("test -e /etc/netbpf/netbpf.toml");

    machine.done("dpkg --purge netbpf");
    for (path, content) in machine.changes() {
        assert_eq!(files.get(&path), Some(&content), "{} is not as before", path.display());
    }
}

#[test]
fn a_kernel_that_cannot_run_netbpf_is_refused_before_anything_is_unpacked() {
    let [package, _] = packages();
    let lab = Lab::without_agent::<V4>("");
    let machine = Machine::boot(&lab);
    let package = machine.bring(package);
    let old = format!("setarch --uname-2.6 dpkg --install {package}");
    let bare = format!("unshare --mount sh -c 'mount -t tmpfs none /sys/kernel/btf && dpkg --install {package}'");
    for (install, why) in [(&old, "Linux 2.6"), (&bare, "no BTF")] {
        let told = machine.refused(install);
        let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("netbpf: ")).collect();
        assert!(matches!(lines[..], [line] if line.contains(why) && line.contains("NETBPF_ANY_KERNEL=1")), "{told}");
        machine.refused("ls /usr/bin/netbpf /etc/netbpf");
    }
    machine.done(&format!("NETBPF_ANY_KERNEL=1 {old}"));
    machine.done("netbpf --version");
}

#[test]
fn a_killed_agent_is_started_again_and_an_uninstalled_one_is_not() {
    let [package, _] = packages();
    let lab = Lab::without_agent::<V4>("");
    let machine = Machine::boot(&lab);
    machine.install(package);
    let agent = machine.agent();
    machine.done(&format!("netbpf create --name box && kill -KILL {agent}"));
    let another = poll_for(START, || (machine.agent() != agent && machine.state() == "active").then_some(()));
    assert!(another.is_some(), "no other agent is ready: {}{}", machine.state(), machine.log());
    machine.done("netbpf inspect box && netbpf status");

    machine.done("netbpf uninstall");
    until("the agent has ended", || machine.agent() == "0");
    assert_eq!(machine.state(), "inactive", "it is about to be started again");
    machine.refused("ls /sys/fs/bpf/netbpf /run/netns/box");
    machine.done("dpkg --purge netbpf");
}
