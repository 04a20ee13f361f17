//! The rig as the tests see it: places, containers, and what the command line answers.

mod addresses;
mod agent;
mod attacker;
mod far;
mod footprint;
mod foreign;
mod program;
mod request;
mod seclusion;
mod snapshot;
mod words;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use netbpf_tests::family::TestFamily;
use netbpf_tests::link::{Link, parse_mac};
use netbpf_tests::packet::Mac;
use netbpf_tests::place::Place;
use netbpf_tests::version::Version;
use netbpf_user::api::types::{Flow, PortMapping, Status};
use netbpf_user::rig::{Namespace, Options, Rig};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::attacker::{Attacker, dropped};
pub(crate) use self::far::Far;
pub(crate) use self::footprint::Footprint;
pub(crate) use self::program::Outcome;
pub(crate) use self::seclusion::secluded;
pub(crate) use self::snapshot::Snapshot;
pub(crate) use netbpf_tests::namespace::OwnNamespace;
pub(crate) use netbpf_user::rig::Offloads;

/// Seconds after which a run of the program counts as hanging.
const PATIENCE: &str = "60";

/// What a host may have set before netbpf comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sysctls {
    pub(crate) ip_forward: bool,
    pub(crate) rp_filter: u8,
}

/// A host with an agent, and a machine outside, as one family of addresses finds them. An IPv6 lab has both families, an IPv4
/// lab IPv4 alone.
pub(crate) struct Lab {
    pub(crate) host: Place,
    pub(crate) ext: Place,
    pub(crate) host_ip: IpAddr,
    pub(crate) ext_ip: IpAddr,
    pub(crate) version: Version,
    bare: Option<Footprint>,
    prefix: String,
    // A started agent reads its settings again.
    files: TempDir,
    // Last: what the places hold ends before the rig does.
    rig: Rig,
}

/// A container, and a place to make sockets in.
pub(crate) struct Container {
    pub(crate) name: String,
    /// Its address of the lab's family.
    pub(crate) ip: IpAddr,
    pub(crate) ip4: Option<Ipv4Addr>,
    pub(crate) ip6: Option<Ipv6Addr>,
    pub(crate) mac: String,
    /// The device on the host's side.
    pub(crate) device: String,
    pub(crate) place: Place,
}

impl Container {
    /// Its address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }
}

/// How many mappings a SPEC without an address makes: one in each family.
pub(crate) const MAPPINGS: usize = 2;

impl Lab {
    /// A host as Linux comes: nothing is forwarded, and reverse paths are filtered.
    pub(crate) fn new<F: TestFamily>() -> Self {
        Self::configured::<F>("")
    }

    pub(crate) fn with<F: TestFamily>(sysctls: Sysctls) -> Self {
        Self::build(Version::of(F::HOST), sysctls, "", true)
    }

    /// As [`Lab::new`], with settings of the agent in TOML.
    pub(crate) fn configured<F: TestFamily>(settings: &str) -> Self {
        Self::build(Version::of(F::HOST), Sysctls { ip_forward: false, rp_filter: 1 }, settings, true)
    }

    /// As [`Lab::configured`], before the agent has started for the first time.
    pub(crate) fn without_agent<F: TestFamily>(settings: &str) -> Self {
        Self::build(Version::of(F::HOST), Sysctls { ip_forward: false, rp_filter: 1 }, settings, false)
    }

    fn build(version: Version, sysctls: Sysctls, settings: &str, is_started: bool) -> Self {
        // Names of namespaces are the machine's, not the rig's.
        static LABS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("t{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let Sysctls { ip_forward, rp_filter } = sysctls;
        let files = tempfile::tempdir().expect("a new directory");
        let config = files.path().join(agent::SETTINGS).to_str().expect("UTF-8").to_owned();
        let agent_flags = vec!["--config".into(), config];
        let agent_variables = vec![("NETBPF_FAILPOINT", files.path().join(agent::FAILPOINT))];
        let options =
            Options { ip_forward, rp_filter, agent_flags, agent_variables, ..Options::new(program::netbpf()) };
        let rig = Rig::without_agent(options).unwrap_or_else(|error| panic!("{error}"));
        let maker = Path::new(env!("CARGO_BIN_EXE_socket-maker"));
        let host = Place::with_cgroup(rig.host().clone(), version, &rig.cgroup(), maker);
        let host = host.expect("a socket maker on the host");
        let ext = Place::new(rig.ext().clone(), version);
        let (host_ip, ext_ip) = match version {
            Version::V4 => (Rig::HOST_IP.into(), Rig::EXT_IP.into()),
            Version::V6 => (Rig::HOST_IP6.into(), Rig::EXT_IP6.into()),
        };
        let mut lab = Self { host, ext, host_ip, ext_ip, version, bare: None, prefix, files, rig };
        lab.configure(settings);
        if agent::wants_xdp() {
            lab.offloads(Offloads::ExtTxChecksumOff);
        }
        lab.bare = Some(Footprint::of(&lab));
        if is_started {
            lab.start_agent();
        }
        lab
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        self.rig.log().expect("readable")
    }

    /// The footprint of the host before the agent came.
    pub(crate) fn bare(&self) -> &Footprint {
        self.bare.as_ref().expect("taken when the rig was made")
    }

    /// What it stands on.
    pub(crate) fn rig(&self) -> &Rig {
        &self.rig
    }

    // Names and devices.

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The host's device to the outside machine.
    pub(crate) fn uplink(&self) -> String {
        Rig::WIRE.to_owned()
    }

    /// MAC address of the host on the wire to the outside machine.
    pub(crate) fn host_mac(&self) -> Mac {
        mac_of(&self.host, &self.uplink())
    }

    /// MAC address that a container finds its gateway at.
    pub(crate) fn gateway_mac(&self, container: &Container) -> Mac {
        let mac = mac_of(&self.host, &container.device);
        assert_eq!(mac, mac_of(&self.host, "netbpf0"), "one gateway MAC for all");
        mac
    }

    /// The outside machine's end of the wire.
    pub(crate) fn ext_link(&self) -> Link {
        Link::open(&self.ext, Rig::WIRE)
    }

    /// A directory of the test's own, which ends with it.
    pub(crate) fn scratch(&self) -> TempDir {
        tempfile::tempdir().expect("a new directory")
    }

    // The command line.

    /// Runs the program on the host.
    pub(crate) fn netbpf(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.rig.host_command("timeout");
        command.args(["--signal=KILL", PATIENCE]).arg(self.rig.program());
        command.arg("--socket").arg(self.rig.socket()).args(arguments);
        self.host.run(|| Outcome::of(command))
    }

    /// Runs a line of a shell on the host, which finds the program and its agent; errors are among what it prints.
    pub(crate) fn shell(&self, directory: &Path, line: &str) -> Outcome {
        let programs = self.rig.program().parent().expect("a file").display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = self.rig.host_command("timeout");
        command.args(["--signal=KILL", PATIENCE, "sh", "-c", &format!("exec 2>&1\n{line}")]);
        command.current_dir(directory).env("PATH", path).env("NETBPF_SOCKET", self.rig.socket());
        self.host.run(|| Outcome::of(command))
    }

    /// Runs a program on the host as another user with these groups.
    pub(crate) fn as_member(&self, groups: &[u32], program: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.member(groups);
        command.arg(program).args(arguments);
        self.host.run(|| Outcome::of(command))
    }

    /// What runs the program that follows as that user.
    fn member(&self, groups: &[u32]) -> Command {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let groups = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={}", groups.join(",")) };
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", PATIENCE, "setpriv", "--reuid=65534", "--regid=65534", &groups]);
        command
    }

    /// Runs the program on the host as a user with these groups.
    pub(crate) fn netbpf_in(&self, groups: &[u32], arguments: &[&str]) -> Outcome {
        let program = self.rig.program().to_str().expect("UTF-8").to_owned();
        let socket = self.socket();
        self.as_member(groups, &program, &[&["--socket", socket.to_str().expect("UTF-8")], arguments].concat())
    }

    /// The agent's socket for those who may only look.
    pub(crate) fn read_socket(&self) -> PathBuf {
        self.socket().with_file_name("read.sock")
    }

    /// A directory on the lab's bpffs, which no agent uses.
    pub(crate) fn other_bpffs(&self) -> PathBuf {
        self.rig.bpffs().with_file_name("other")
    }

    /// The same as another user, who cannot move into the host's cgroup.
    pub(crate) fn netbpf_as(&self, user: u32, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", PATIENCE]).arg(self.rig.program());
        command.arg("--socket").arg(self.rig.socket()).args(arguments).uid(user).gid(user);
        self.host.run(|| Outcome::of(command))
    }

    /// Runs the program and gives what it prints.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let outcome = self.netbpf(arguments);
        assert_eq!(outcome.code, Some(0), "netbpf {}: {}{}", arguments.join(" "), outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// Runs the program, which must refuse in one line and change nothing; gives the line.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let what = format!("netbpf {}", arguments.join(" "));
        let before = self.snapshot();
        let line = self.netbpf(arguments).refusal(&what);
        self.unchanged(&before, &what);
        line
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.done(arguments);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{}: {error}: {printed}", arguments.join(" ")))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        // The exit code tells of problems, which are in the answer as well.
        let outcome = self.netbpf(&["status", "--json"]);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("status: {error}: {outcome:?}"))
    }

    /// What is not as desired.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.status().problems
    }

    /// Packets dropped for a reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        self.status().drops.get(reason).copied().unwrap_or(0)
    }

    /// How often something else has happened.
    pub(crate) fn event(&self, name: &str) -> u64 {
        self.status().events.get(name).copied().unwrap_or(0)
    }

    /// Flows of a container.
    #[track_caller]
    pub(crate) fn flows(&self, container: &Container) -> Vec<Flow> {
        serde_json::from_value(self.json(&["flows", "--container", &container.name, "--json"]))
            .expect("a list of flows")
    }

    /// The agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.rig.socket()
    }

    /// A container without process.
    #[track_caller]
    pub(crate) fn container(&self, name: &str, flags: &[&str]) -> Container {
        let name = self.name(name);
        self.done(&[&["create", "--name", &name][..], flags].concat());
        self.find(&name)
    }

    /// A container by its full name.
    #[track_caller]
    pub(crate) fn find(&self, name: &str) -> Container {
        let shown = self.json(&["inspect", name]);
        let text = |key: &str| shown[key].as_str().unwrap_or_else(|| panic!("`{key}` is no text: {shown}")).to_owned();
        // Where `ip netns` keeps it, also one that was taken in.
        let namespace = text("netns").strip_prefix("/run/netns/").expect("a named namespace").to_owned();
        let ip4 = shown["ip"].as_str().map(|ip| ip.parse().expect("an IPv4 address"));
        let ip6 = shown["ip6"].as_str().map(|ip| ip.parse().expect("an IPv6 address"));
        let ip = match self.version {
            Version::V4 => ip4.map(IpAddr::V4),
            Version::V6 => ip6.map(IpAddr::V6).or(ip4.map(IpAddr::V4)),
        };
        let ip = ip.expect("it has an address");
        Container {
            name: text("name"),
            ip,
            ip4,
            ip6,
            mac: text("mac"),
            device: text("device"),
            place: Place::new(Namespace::named(&namespace), Version::of(ip)),
        }
    }

    /// Published ports of a container.
    #[track_caller]
    pub(crate) fn ports(&self, name: &str) -> Vec<PortMapping> {
        serde_json::from_value(self.json(&["inspect", name])["ports"].clone()).expect("a list of publishes")
    }

    /// Directory of the instance on its bpffs.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.rig.bpffs()
    }

    /// Where the instance keeps what it is to be.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.rig.state_dir()
    }

    /// Where the instance keeps what a reboot may remove.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.rig.run_dir()
    }

    pub(crate) fn offloads(&self, offloads: Offloads) {
        self.rig.set_offloads(offloads).unwrap_or_else(|error| panic!("{error}"));
    }
}

pub(crate) fn mac_of(place: &Place, device: &str) -> Mac {
    let shown = place.command("ip", &["-json", "link", "show", "dev", device]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON of ip");
    parse_mac(shown[0]["address"].as_str().expect("an Ethernet device has an address"))
}
