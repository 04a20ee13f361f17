//! A named network namespace, as `ip netns` knows it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::error::{Doing as _, RigError};

/// Where `ip netns` keeps them.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// The namespace of this name, which exists.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), path: Path::new(DIRECTORY).join(name) }
    }

    pub(super) fn create(name: &str) -> Result<Self, RigError> {
        run(&mut Command::new("ip"), &["netns", "add", name], "").map(|_| Self::named(name))
    }

    pub(super) fn delete(self) -> Result<(), RigError> {
        run(&mut Command::new("ip"), &["netns", "delete", &self.name], "").map(drop)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does something inside, in a thread of its own. Sockets and processes made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T, RigError> {
        let namespace = File::open(&self.path).doing(|| format!("open the namespace {}", self.name))?;
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).doing(|| format!("enter the namespace {}", self.name))?;
            Ok(action())
        };
        // There is no way back that cannot fail, so the thread ends there.
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command inside to its end, and gives what it wrote.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, RigError> {
        self.enter(|| run(&mut Command::new(program), arguments, ""))?
    }

    /// Runs `ip` commands inside.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn ip(&self, lines: &[&str]) -> Result<(), RigError> {
        self.enter(|| run(&mut Command::new("ip"), &["-batch", "-"], &lines.join("\n")))?.map(drop)
    }

    /// Sets a sysctl of the namespace, named as below /proc/sys.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), RigError> {
        // procfs shows the namespace of the thread that opens.
        self.enter(|| fs::write(Path::new("/proc/sys").join(name), value))?
            .doing(|| format!("set {name} in {}", self.name))
    }
}

fn run(command: &mut Command, arguments: &[&str], input: &str) -> Result<String, RigError> {
    let doing = format!("{} {}", command.get_program().display(), arguments.join(" "));
    let doing = || format!("run `{}`", if input.is_empty() { doing.clone() } else { input.replace('\n', "; ") });
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(doing)?;
    }
    let output = child.wait_with_output().doing(doing)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(RigError::new(doing(), errors));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
