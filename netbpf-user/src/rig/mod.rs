//! A private topology for the demo and for tests: a host with an agent, and a machine outside.
//!
//! ```text
//! ext (198.18.0.2) eth0 ──── eth0 host (198.18.0.1) ── containers (172.30.0.0/16)
//!     (2001:db8:198::2)          (2001:db8:198::1)
//! ```
//!
//! Everything lives in namespaces, a cgroup and directories of its own, so that many rigs stand beside each other and the
//! machine's own network is never touched. A rig removes all of it when dropped; what a killed process has left,
//! the next rig removes.

mod agent;
mod error;
mod interrupt;
mod layout;
mod membership;
mod namespace;
pub mod traffic;

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use error::RigError;
pub use interrupt::Interrupt;
pub use membership::Membership;
pub use namespace::Namespace;

use agent::Agent;
use error::Doing as _;
use layout::Layout;

/// What can be chosen of a rig.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `netbpf`.
    pub program: PathBuf,
    /// `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` of the host.
    pub ip_forward: bool,
    /// `net.ipv4.conf.*.rp_filter` of the host.
    pub rp_filter: u8,
    /// Offloads of the wire between host and ext.
    pub offloads: Offloads,
    /// Further flags of the agent.
    pub agent_flags: Vec<String>,
    /// Further variables of its environment.
    pub agent_variables: Vec<(&'static str, PathBuf)>,
}

impl Options {
    /// A host that forwards nothing and filters reverse paths, with all offloads.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            ip_forward: false,
            rp_filter: 1,
            offloads: Offloads::On,
            agent_flags: Vec::new(),
            agent_variables: Vec::new(),
        }
    }
}

/// What the network devices of a wire do by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Everything: packets carry partial checksums that nobody looks at.
    On,
    /// No transmit checksums on the host's end: the kernel computes what a network card would.
    HostTxChecksumOff,
    /// No transmit checksums on the outside's end: the host receives frames as a wire brings them.
    ExtTxChecksumOff,
    /// Nothing, on both ends.
    Off,
}

/// A host, its agent, and a machine outside.
#[derive(Debug)]
pub struct Rig {
    // Dropped in this order: the agent is asked to uninstall before it is killed.
    layout: Layout,
    agent: Option<Agent>,
    host: Namespace,
    ext: Namespace,
    options: Options,
}

impl Rig {
    /// Address of the host on the wire.
    pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    /// Address of the machine outside.
    pub const EXT_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    /// IPv6 address of the host on the wire.
    pub const HOST_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 1);
    /// IPv6 address of the machine outside.
    pub const EXT_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 2);
    /// Device of the wire, at both ends.
    pub const WIRE: &str = "eth0";

    /// Builds a rig and starts its agent.
    ///
    /// # Errors
    /// When anything cannot be made (root is needed) or the agent does not start. Nothing is left then.
    pub fn new(options: Options) -> Result<Self, RigError> {
        let mut rig = Self::without_agent(options)?;
        rig.start_agent()?;
        Ok(rig)
    }

    /// Builds a rig whose agent is not started yet.
    ///
    /// # Errors
    /// As [`Rig::new`].
    pub fn without_agent(options: Options) -> Result<Self, RigError> {
        layout::sweep(&options.program);
        // Everything below is named by the layout, so that its drop removes whatever was made when a step fails.
        let layout = Layout::make(&options.program)?;
        let host = Namespace::create(&layout.namespace("host"))?;
        let ext = Namespace::create(&layout.namespace("ext"))?;
        let rig = Self { agent: None, layout, host, ext, options };
        rig.connect()?;
        Ok(rig)
    }

    fn connect(&self) -> Result<(), RigError> {
        let Options { ip_forward, rp_filter, offloads, .. } = self.options;
        // A new namespace inherits from the machine's: what the rest rests on is said here.
        for (name, value) in [
            ("ipv4/ip_forward", u8::from(ip_forward)),
            ("ipv4/conf/all/rp_filter", rp_filter),
            ("ipv4/conf/default/rp_filter", rp_filter),
            ("ipv6/conf/all/forwarding", u8::from(ip_forward)),
        ] {
            self.host.sysctl(&format!("net/{name}"), &value.to_string())?;
        }
        let (wire, host_ip, ext_ip) = (Self::WIRE, Self::HOST_IP, Self::EXT_IP);
        // Both ends are ours: nobody else has the addresses, and nobody has to wait until that was asked.
        let (host_ip6, ext_ip6) = (Self::HOST_IP6, Self::EXT_IP6);
        self.host.ip(&[
            "link set lo up",
            &format!("link add {wire} type veth peer name {wire} netns {}", self.ext.name()),
        ])?;
        for end in [&self.host, &self.ext] {
            end.sysctl(&format!("net/ipv6/conf/{wire}/accept_dad"), "0")?;
        }
        self.host.ip(&[
            &format!("address add {host_ip}/24 dev {wire}"),
            &format!("address add {host_ip6}/64 dev {wire} nodad"),
            &format!("link set {wire} up"),
            &format!("route add default via {ext_ip}"),
            &format!("route add default via {ext_ip6}"),
        ])?;
        self.ext.ip(&[
            "link set lo up",
            &format!("address add {ext_ip}/24 dev {wire}"),
            &format!("address add {ext_ip6}/64 dev {wire} nodad"),
            &format!("link set {wire} up"),
        ])?;
        self.set_offloads(offloads)
    }

    /// Switches the offloads of the wire.
    ///
    /// # Errors
    /// When `ethtool` is missing or refuses.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), RigError> {
        let set = |namespace: &Namespace, features: &[&str]| {
            let arguments = [&["-K", Self::WIRE], features].concat();
            namespace.run("ethtool", &arguments).map(drop)
        };
        let all =
            |value: &'static str| ["rx", value, "tx", value, "sg", value, "tso", value, "gso", value, "gro", value];
        match offloads {
            Offloads::On => Ok(()),
            Offloads::HostTxChecksumOff => set(&self.host, &["tx", "off"]),
            Offloads::ExtTxChecksumOff => set(&self.ext, &["tx", "off"]),
            Offloads::Off => set(&self.host, &all("off")).and_then(|()| set(&self.ext, &all("off"))),
        }
    }

    /// The host.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The machine outside.
    pub fn ext(&self) -> &Namespace {
        &self.ext
    }

    /// The network namespace of a container.
    pub fn container(&self, name: &str) -> Namespace {
        Namespace::named(name)
    }

    /// The host's cgroup: processes in it are the host's, as its socket hooks see it.
    pub fn cgroup(&self) -> PathBuf {
        self.layout.cgroup()
    }

    /// Moves this process, with all its threads, into the host's cgroup until the membership is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join_cgroup(&self) -> Result<Membership<'_>, RigError> {
        Membership::join(&self.layout)
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.layout.run_dir().join("netbpf.sock")
    }

    /// The agent's `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.layout.state_dir()
    }

    /// The agent's `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.layout.run_dir()
    }

    /// The agent's `--bpffs`.
    pub fn bpffs(&self) -> PathBuf {
        self.layout.bpffs()
    }

    /// What the agents of this rig have logged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> io::Result<String> {
        std::fs::read_to_string(self.layout.log())
    }

    /// The command `netbpf VERB...` of this rig's agent, on the host and in its cgroup. To be spawned inside
    /// [`Namespace::enter`] of the host, or by [`Rig::netbpf`].
    pub fn netbpf_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.host_command(&self.options.program);
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs `netbpf VERB...` on the host to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn netbpf<S: AsRef<OsStr> + Sync>(&self, arguments: &[S]) -> Result<Output, RigError> {
        self.host
            .enter(|| self.netbpf_command(arguments).output())?
            .doing(|| format!("run {}", self.program().display()))
    }

    /// A command that moves into the host's cgroup before it starts.
    pub fn host_command(&self, program: impl AsRef<OsStr>) -> Command {
        in_cgroup(&self.cgroup(), program.as_ref())
    }

    /// The binary `netbpf`.
    pub fn program(&self) -> &Path {
        &self.options.program
    }

    /// Process id of the agent; none when it was stopped.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Agent::pid)
    }

    /// The flags that name this instance, of `agent` and of `uninstall`.
    pub fn instance_flags(&self) -> Vec<std::ffi::OsString> {
        self.layout.instance_flags()
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the last line of its log says why.
    pub fn start_agent(&mut self) -> Result<(), RigError> {
        let agent = self.host.enter(|| Agent::start(&self.options, &self.layout))??;
        self.agent = Some(agent);
        Ok(())
    }

    /// Stops the agent by SIGTERM and waits for its end; the datapath goes on.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop_agent(&mut self) -> Result<(), RigError> {
        self.agent.take().map_or(Ok(()), Agent::stop)
    }

    /// Kills the agent by SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_agent(&mut self) -> Result<(), RigError> {
        self.agent.take().map_or(Ok(()), Agent::kill)
    }
}

/// A command that moves into a cgroup before it starts: only a process can move itself without a race.
fn in_cgroup(cgroup: &Path, program: &OsStr) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(cgroup.join("cgroup.procs")).arg(program);
    command
}
