//! The agent of a lab: its settings, its life and its end.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use netbpf_tests::version::Version;
use netbpf_tests::wait::until;

use super::{Lab, Outcome, PATIENCE};

/// Where the agent's settings are.
pub(super) const SETTINGS: &str = "settings.toml";

/// What the settings of an IPv6 lab begin with: addresses that a test can know beforehand.
const WITH_IPV6: &str =
    "ipv6 = true\nsubnet_v6 = \"fd00:172:30::/64\"\nvirtual_subnet_v6 = \"fd00:169:254:30::/120\"\n";

impl Lab {
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

    /// Runs a verb of the agent with flags that name an instance.
    pub(crate) fn instance(&self, verb: &str, flags: &[OsString]) -> Outcome {
        let mut command = self.rig.host_command("timeout");
        command.args(["--signal=KILL", PATIENCE]).arg(self.rig.program()).arg(verb).args(flags);
        self.host.run(|| Outcome::of(command))
    }
}
