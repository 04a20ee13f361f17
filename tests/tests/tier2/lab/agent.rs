//! The agent of a lab: its settings, its life and its end.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use netbpf_tests::version::Version;
use netbpf_tests::wait::until;
use nix::fcntl::{Flock, FlockArg};

use super::{Lab, Outcome, PATIENCE};

/// Where the agent's settings are.
pub(super) const SETTINGS: &str = "settings.toml";

/// Where the agent looks how many of its effects are left to it (netbpf-user/src/failpoint.rs).
pub(super) const FAILPOINT: &str = "failpoint";

/// What the settings of an IPv6 lab begin with: addresses that a test can know beforehand.
const WITH_IPV6: &str =
    "ipv6 = true\nsubnet_v6 = \"fd00:172:30::/64\"\nvirtual_subnet_v6 = \"fd00:169:254:30::/120\"\n";

impl Lab {
    /// `kill -9`.
    pub(crate) fn kill_agent(&mut self) {
        self.rig.kill_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    /// The agent dies before an effect, after it has had this many.
    pub(crate) fn dies_after(&self, effects: u32) {
        fs::write(self.files.path().join(FAILPOINT), effects.to_string()).expect("written");
    }

    /// The agent dies before its next effect of this name.
    pub(crate) fn dies_before(&self, effect: &str) {
        fs::write(self.files.path().join(FAILPOINT), effect).expect("written");
    }

    /// It dies no more. Gives where it has died, if it has.
    pub(crate) fn dies_no_more(&mut self) -> Option<String> {
        let place = self.died();
        if place.is_some() {
            self.agent_ends();
        }
        place
    }

    /// Where an agent has died that has never been ready.
    pub(crate) fn died(&self) -> Option<String> {
        let path = self.files.path().join(FAILPOINT);
        let file = fs::File::options().read(true).write(true).open(&path).expect("there");
        // An agent that is counting has it, and dies first if it must.
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("locked");
        let mut left = String::new();
        file.read_to_string(&mut left).expect("readable");
        file.set_len(0).expect("emptied");
        fs::remove_file(&path).expect("removed");
        left.strip_prefix("killed ").map(str::to_owned)
    }

    /// Whether an agent with these settings comes up.
    pub(crate) fn agent_starts(&mut self) -> bool {
        self.rig.start_agent().is_ok()
    }

    /// Why an agent with these settings does not come up.
    pub(crate) fn refuses_to_start(&mut self) -> String {
        self.rig.start_agent().expect_err("refused").to_string()
    }

    /// `systemctl stop`.
    pub(crate) fn stop_agent(&mut self) {
        self.rig.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn start_agent(&mut self) {
        self.rig.start_agent().unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.rig.agent_pid().expect("it was started")
    }

    /// Waits until the agent's process has ended by itself.
    pub(crate) fn agent_ends(&mut self) {
        let stat = format!("/proc/{}/stat", self.agent_pid());
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
        let is_free = !settings.contains("xdp") && !settings.contains("uplinks");
        let xdp = if wants_xdp() && is_free { "xdp = \"native\"\nuplinks = [\"eth0\"]\n" } else { "" };
        let device = if wants_netkit() && !settings.contains("device") { "device = \"netkit\"\n" } else { "" };
        fs::write(self.settings(), format!("{xdp}{device}{family}{settings}")).expect("written");
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

    /// Removes the named namespaces of this lab.
    pub(crate) fn remove_own_namespaces(&self) {
        for name in self.own_namespaces() {
            drop(super::OwnNamespace::found(name));
        }
    }

    /// What `doctor` says of this instance, as JSON, without its agent.
    pub(crate) fn doctor_without_agent(&self) -> Outcome {
        let flags: Vec<OsString> = [OsString::from("--json")].into_iter().chain(self.rig.instance_flags()).collect();
        self.instance("doctor", &flags)
    }

    /// Starts an agent with these variables in its environment, whose lines go where the caller wants them.
    pub(crate) fn agent_with(&self, variables: &[(&str, &OsStr)], flags: &[&str], log: Stdio) -> Child {
        let mut command = self.rig.host_command(self.rig.program());
        command.arg("agent").args(self.rig.instance_flags()).args(flags).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.host.run(|| command.spawn().expect("started"))
    }

    pub(crate) fn uninstall_without_agent(&self) {
        let outcome = self.instance("uninstall", &self.rig.instance_flags());
        assert_eq!(outcome.code, Some(0), "uninstall: {}{}", outcome.stdout, outcome.stderr);
    }

    /// Runs a verb of the agent with flags that name an instance.
    pub(crate) fn instance(&self, verb: &str, flags: &[OsString]) -> Outcome {
        let mut command = self.rig.host_command("timeout");
        command.args(["--signal=KILL", PATIENCE]).arg(self.rig.program()).arg(verb).args(flags);
        self.host.run(|| Outcome::of(command))
    }
}

/// Whether all labs are to have netkits for the devices of containers: for a run of the whole tier by hand.
fn wants_netkit() -> bool {
    std::env::var_os("NETBPF_LAB_NETKIT").is_some()
}

/// Whether all labs are to have XDP on their uplinks: for a run of the whole tier by hand.
pub(super) fn wants_xdp() -> bool {
    std::env::var_os("NETBPF_LAB_XDP").is_some()
}
