//! The program under test, and what a run of it comes to.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// None: it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs a command, but not for ever.
    pub(super) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self::from(output)
    }

    /// Asserts that it was refused, and gives the line that says why.
    #[track_caller]
    pub(crate) fn refusal(self, what: &str) -> String {
        assert_eq!(self.code, Some(1), "{what}: {}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{what}: one line, not\n{}", self.stderr);
        assert_eq!(self.stdout, "", "{what}: a refusal prints nothing else");
        self.stderr
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// The binary `netbpf`, built as these tests were built.
///
/// Cargo gives tests the binaries of their own package alone, and a stale one must not be tested: whoever has just built it, on a
/// machine that builds nothing, says where it is (`NETBPF_PROGRAM`).
pub(super) fn netbpf() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        if let Some(built) = env::var_os("NETBPF_PROGRAM") {
            return built.into();
        }
        let me = env::current_exe().expect("the path of this program");
        let directory = me.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/tier2");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "netbpf-user", "--bin", "netbpf"]);
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        let outcome = Outcome::of(cargo);
        assert_eq!(outcome.code, Some(0), "netbpf does not build:\n{}", outcome.stderr);
        directory.join("netbpf")
    };
    BUILT.get_or_init(build).clone()
}
