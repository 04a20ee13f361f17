//! Running other programs.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, IsTerminal, stderr},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// The directory of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package directory has a parent")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    workspace().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The cargo that runs us, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace());
    command
}

/// Whether we may do what tests and installs need.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Runs a command that talks to the user itself.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = shown(command);
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    ensure!(status.success(), "`{name}` failed ({status})");
    Ok(())
}

/// What a command prints that has nothing to say to the user.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let name = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{name}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name}` failed ({}): {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes the command, so that signals and exit status are its own. Returns only when that fails.
pub(crate) fn replace(command: &mut Command) -> Error {
    let error = command.exec();
    Error::new(error).context(format!("cannot start `{}`", shown(command)))
}

/// Runs a command whose words only matter when it fails: a spinner shows the last of them meanwhile.
pub(crate) fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    let name = shown(command);
    let started = Instant::now();
    let spinner = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}").expect("a valid template"),
    );
    spinner.set_prefix(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    if !stderr().is_terminal() {
        eprintln!("{what} ...");
    }

    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
    // The command keeps ends of the pipe for writing: the reader would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut said = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read from a pipe")?).trim_end().to_owned();
        spinner.set_message(line.clone());
        said.push(line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{name}`"))?;
    spinner.finish_and_clear();
    if !status.success() {
        let last = said[said.len().saturating_sub(20)..].join("\n");
        bail!("`{name}` failed ({status}), its last words:\n{last}");
    }
    eprintln!("{what}: done in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The path of a program in PATH or where system programs are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
