//! The rig as the tests see it: places, containers, and what the command line answers.

mod attacker;
mod far;
mod footprint;
mod namespace;
mod program;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
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
use netbpf_tests::wait::until;
use netbpf_user::api::types::{Flow, PortMapping, Status};
use netbpf_user::rig::{Namespace, Options, Rig};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::attacker::{Attacker, dropped};
pub(crate) use self::far::Far;
pub(crate) use self::footprint::Footprint;
pub(crate) use self::namespace::OwnNamespace;
pub(crate) use self::program::Outcome;
pub(crate) use netbpf_user::rig::Offloads;

/// Seconds after which a run of the program counts as hanging.
const PATIENCE: &str = "60";

/// What a host may have set before netbpf comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sysctls {
    pub(crate) ip_forward: bool,
    pub(crate) rp_filter: u8,
}

/// What the settings of an IPv6 lab begin with: addresses that a test can know beforehand.
const WITH_IPV6: &str =
    "ipv6 = true\nsubnet_v6 = \"fd00:172:30::/64\"\nvirtual_subnet_v6 = \"fd00:169:254:30::/120\"\n";

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

/// Where the agent's settings are.
const SETTINGS: &str = "settings.toml";

/// What a user sees of an instance, by where it is seen.
pub(crate) type Snapshot = BTreeMap<&'static str, String>;

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
        let config = files.path().join(SETTINGS).to_str().expect("UTF-8").to_owned();
        let agent_flags = vec!["--config".into(), config];
        let options = Options { ip_forward, rp_filter, agent_flags, ..Options::new(program::netbpf()) };
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

    // Names and addresses.

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub(crate) fn at_host(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host_ip, port)
    }

    pub(crate) fn at_ext(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ext_ip, port)
    }

    /// All addresses of whoever is asked.
    pub(crate) fn everywhere(&self, port: u16) -> SocketAddr {
        self.version.everywhere(port)
    }

    /// The host to itself.
    pub(crate) fn loopback(&self, port: u16) -> SocketAddr {
        self.version.loopback(port)
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::new(172, 30, 0, 1).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1).into(),
        }
    }

    pub(crate) fn at_gateway(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.gateway(), port)
    }

    /// The virtual address that stands for loopback.
    pub(crate) fn virtual_loopback(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::new(169, 254, 30, 1).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x169, 0x254, 0x30, 0, 0, 0, 1).into(),
        }
    }

    pub(crate) fn subnet(&self) -> &'static str {
        match self.version {
            Version::V4 => "172.30.0.0/16",
            Version::V6 => "fd00:172:30::/64",
        }
    }

    /// An address of the subnet, by what stands in its last 16 bits.
    pub(crate) fn nth(&self, number: u16) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::from_bits(0xac1e_0000 + u32::from(number)).into(),
            Version::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number).into(),
        }
    }

    /// The flag that gives a container an address of its choice.
    pub(crate) fn ip_flag(&self) -> &'static str {
        match self.version {
            Version::V4 => "--ip",
            Version::V6 => "--ip6",
        }
    }

    /// A SPEC on one address.
    pub(crate) fn spec_on(&self, address: impl Into<IpAddr>, ports: &str) -> String {
        match address.into() {
            IpAddr::V4(address) => format!("{address}:{ports}"),
            IpAddr::V6(address) => format!("[{address}]:{ports}"),
        }
    }

    /// A SPEC on loopback alone.
    pub(crate) fn on_loopback(&self, ports: &str) -> String {
        self.spec_on(self.loopback(0).ip(), ports)
    }

    /// A SPEC on the host's address on the wire alone.
    pub(crate) fn on_host(&self, ports: &str) -> String {
        self.spec_on(self.host_ip, ports)
    }

    /// How many mappings a SPEC without an address makes.
    pub(crate) fn families(&self) -> usize {
        match self.version {
            Version::V4 => 1,
            Version::V6 => 2,
        }
    }

    /// An address with the prefix length of the wire, as `ip` wants it.
    pub(crate) fn on_wire(&self, address: IpAddr) -> String {
        let length = match self.version {
            Version::V4 => 24,
            Version::V6 => 64,
        };
        format!("{address}/{length}")
    }

    /// A command `ip` about the lab's family.
    #[track_caller]
    pub(crate) fn ip(&self, place: &Place, line: &str) -> String {
        let words: Vec<&str> = [self.version.flag()].into_iter().chain(line.split(' ')).collect();
        place.command("ip", &words)
    }

    /// Gives a device of some place an address that can be used at once.
    #[track_caller]
    pub(crate) fn add_address(&self, place: &Place, address: &str, device: &str) {
        let nodad = match self.version {
            Version::V4 => "",
            Version::V6 => " nodad",
        };
        self.ip(place, &format!("address add {address} dev {device}{nodad}"));
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
    fn status(&self) -> Status {
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

    // What is there.

    /// What must be equal before and after something that changes nothing.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut status = self.status();
        // Traffic goes on.
        status.drops.clear();
        status.events.clear();
        const TRAFFIC: [&str; 6] = ["FLOWS_V4", "FLOWS_V6", "RING_V4", "RING_V6", "RING_HEAD", "COUNTERS"];
        status.maps.retain(|map| !TRAFFIC.contains(&map.name.as_str()));
        // A restarted agent is another process, with programs of its own on the same links.
        (status.pid, status.since) = (0, 0);
        for program in &mut status.programs {
            program.program_id = 0;
        }
        BTreeMap::from([
            ("ps", self.done(&["ps", "--json"])),
            ("status", serde_json::to_string_pretty(&status).expect("JSON")),
            ("links", device_names(&self.host.command("ip", &["-json", "link", "show"])).join("\n")),
            ("addresses", self.host.command("ip", &["-oneline", "address", "show"])),
            ("routes", routes(&self.host)),
            ("namespaces", self.own_namespaces().join("\n")),
        ])
    }

    /// Waits until all is as it was: devices of a removed namespace go a little later than the namespace.
    #[track_caller]
    pub(crate) fn unchanged(&self, before: &Snapshot, by: &str) {
        let after = netbpf_tests::wait::poll(|| Some(self.snapshot()).filter(|after| after == before));
        if after.is_none() {
            for (view, now) in self.snapshot() {
                assert_eq!(now, before[view], "{by} has changed `{view}`");
            }
        }
    }

    fn own_namespaces(&self) -> Vec<String> {
        let entries = fs::read_dir("/run/netns").expect("the rig itself is there");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        let mut own: Vec<String> = names.filter(|name| name.starts_with(&format!("{}-", self.prefix))).collect();
        own.sort();
        own
    }

    fn own_mounts(&self) -> Vec<String> {
        let state = self.rig.state_dir();
        let directory = state.parent().and_then(Path::to_str).expect("of the rig");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter(|point| point.starts_with(directory) || point.contains(&self.prefix)).map(str::to_owned).collect()
    }

    fn attached_to_cgroup(&self) -> String {
        let cgroup = self.rig.cgroup();
        self.host.command("bpftool", &["cgroup", "show", cgroup.to_str().expect("UTF-8")])
    }

    // The agent.

    /// `kill -9`.
    pub(crate) fn kill_agent(&mut self) {
        self.rig.kill_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    /// `systemctl stop`.
    pub(crate) fn stop_agent(&mut self) {
        self.rig.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn start_agent(&mut self) {
        self.rig.start_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until the agent's process has ended by itself.
    pub(crate) fn agent_ends(&mut self) {
        let stat = format!("/proc/{}/stat", self.rig.agent_pid().expect("it was started"));
        // The rig, its parent, has not waited for it yet: it is a zombie.
        until("the agent has ended", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
        self.stop_agent();
    }

    /// Starts a second agent on the directories of the first.
    pub(crate) fn second_agent(&self) -> Outcome {
        self.instance("agent", &self.rig.instance_flags())
    }

    /// Starts an agent with its files in this directory and these flags.
    pub(crate) fn other_agent(&self, directory: &Path, flags: &[&str]) -> Outcome {
        let named = ["--state-dir", "--run-dir"].map(|flag| [flag.into(), directory.join(&flag[2..]).into_os_string()]);
        let flags = named.into_iter().flatten().chain(flags.iter().map(|flag| flag.into()));
        self.instance("agent", &flags.collect::<Vec<_>>())
    }

    /// Changes the settings of the next agent that is started here.
    pub(crate) fn configure(&self, settings: &str) {
        self.configure_with(self.family_settings(), settings);
    }

    /// The same without what makes the network of the lab's family, but for what is said of it.
    pub(crate) fn configure_with(&self, family: &str, settings: &str) {
        fs::write(self.settings(), format!("{family}{settings}")).expect("written");
    }

    /// The settings that make the network of the lab's family.
    pub(crate) fn family_settings(&self) -> &'static str {
        match self.version {
            Version::V4 => "",
            Version::V6 => WITH_IPV6,
        }
    }

    fn settings(&self) -> PathBuf {
        self.files.path().join(SETTINGS)
    }

    /// What an agent says that does not start here with these settings.
    #[track_caller]
    pub(crate) fn no_agent_with(&self, settings: &str) -> String {
        self.configure(settings);
        let config = ["--config".into(), self.settings().into_os_string()];
        let flags: Vec<OsString> = self.rig.instance_flags().into_iter().chain(config).collect();
        self.instance("agent", &flags).refusal(settings)
    }

    pub(crate) fn uninstall_without_agent(&self) {
        let outcome = self.instance("uninstall", &self.rig.instance_flags());
        assert_eq!(outcome.code, Some(0), "uninstall: {}{}", outcome.stdout, outcome.stderr);
    }

    fn instance(&self, verb: &str, flags: &[OsString]) -> Outcome {
        let mut command = self.rig.host_command("timeout");
        command.args(["--signal=KILL", PATIENCE]).arg(self.rig.program()).arg(verb).args(flags);
        self.host.run(|| Outcome::of(command))
    }

    pub(crate) fn offloads(&self, offloads: Offloads) {
        self.rig.set_offloads(offloads).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The routes of both families, in all tables.
fn routes(place: &Place) -> String {
    ["-4", "-6"].map(|version| place.command("ip", &[version, "route", "show", "table", "all"])).concat()
}

fn device_names(links: &str) -> Vec<String> {
    let links: Value = serde_json::from_str(links).expect("JSON of ip");
    let names =
        links.as_array().expect("a list").iter().map(|link| link["ifname"].as_str().expect("a name").to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

pub(crate) fn mac_of(place: &Place, device: &str) -> Mac {
    let shown = place.command("ip", &["-json", "link", "show", "dev", device]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON of ip");
    parse_mac(shown[0]["address"].as_str().expect("an Ethernet device has an address"))
}
