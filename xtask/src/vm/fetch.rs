//! Kernels and an emulator out of Debian's archive, unpacked below the target directory. Nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::machine::beside;
use crate::{
    command::{output_of, run_quietly},
    packages,
};

/// The emulator, its firmware, and a shell that needs no library.
const EMULATOR: [&str; 2] = ["qemu-system-x86", "busybox-static"];
/// Where the emulator comes from, and the newer of the kernels. The older ones are of the release itself.
const BACKPORTS: &str = "bookworm-backports";
const RELEASE: &str = "bookworm";
/// Always the newest kernel of its architecture: which, say its versions.
const NEWEST_KERNEL: &str = "linux-image-amd64";
/// What signs the archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks the emulator into a directory, unless that has been done.
pub(super) fn emulator(directory: &Path) -> Result<()> {
    unpacked(directory, |apt, partial| {
        let mut install = apt.get();
        install.args(["install", "--download-only", "--yes", "--no-install-recommends"]);
        run_quietly("fetching QEMU", install.args(["--target-release", BACKPORTS]).args(EMULATOR))?;
        extract_all(&apt.archives(), partial)
    })
}

/// Unpacks the newest kernel of a series, like 6.1, into a directory, unless that has been done.
pub(super) fn kernel(series: &str, directory: &Path) -> Result<()> {
    unpacked(directory, |apt, partial| {
        let package = apt.newest_kernel(series)?;
        let packages = apt.archives();
        fs::create_dir_all(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
        let mut download = apt.get();
        run_quietly(&format!("fetching {package}"), download.args(["download", &package]).current_dir(&packages))?;
        extract_all(&packages, partial)?;
        let release = package.strip_prefix("linux-image-").unwrap_or(&package);
        run_quietly(
            &format!("looking through the modules of {release}"),
            Command::new("depmod").arg("--basedir").arg(partial).arg(release),
        )
    })
}

/// Has a directory filled whole or not at all.
fn unpacked(directory: &Path, fill: impl FnOnce(&Apt, &Path) -> Result<()>) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    ensure!(cfg!(target_arch = "x86_64"), "virtual machines are made on x86_64 alone");
    ensure!(packages::is_debian(), "kernels and QEMU come out of Debian's archive, by apt-get: this system has none");
    let partial = beside(directory, "partial");
    let apt = Apt::new(beside(directory, "apt"))?;
    for begun in [&partial, &apt.archives()] {
        if begun.exists() {
            fs::remove_dir_all(begun).with_context(|| format!("cannot remove {}", begun.display()))?;
        }
        fs::create_dir_all(begun).with_context(|| format!("cannot make {}", begun.display()))?;
    }
    fill(&apt, &partial)?;
    fs::rename(&partial, directory).with_context(|| format!("cannot rename {}", partial.display()))?;
    fs::remove_dir_all(&apt.directory).with_context(|| format!("cannot remove {}", apt.directory.display()))
}

fn extract_all(packages: &Path, into: &Path) -> Result<()> {
    let entries = fs::read_dir(packages).with_context(|| format!("cannot read {}", packages.display()))?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    for package in entries.flatten().map(|entry| entry.path()).filter(is_package) {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut extract = Command::new("dpkg-deb");
        output_of(extract.arg("--extract").arg(&package).arg(into)).with_context(|| format!("cannot unpack {name}"))?;
    }
    Ok(())
}

/// An apt of its own, to which no package is installed.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// With the lists of this moment, of the archive that the machine itself uses.
    fn new(directory: PathBuf) -> Result<Self> {
        let apt = Self { directory };
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.directory.join(part)).context("cannot make the directories of an apt")?;
        }
        let [main, security] = ["", "-security"].map(archive);
        let (main, security) = (main?, security?);
        let sources = [(&main, RELEASE), (&main, BACKPORTS), (&security, "bookworm-security")]
            .map(|(archive, suite)| format!("deb [signed-by={KEYRING}] {archive} {suite} main\n"));
        for (file, text) in [("sources.list", sources.concat()), ("status", String::new())] {
            fs::write(apt.directory.join(file), text).with_context(|| format!("cannot write {file} of an apt"))?;
        }
        run_quietly("fetching lists of Debian's packages", apt.get().arg("update"))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let within = |part: &str| self.directory.join(part).display().to_string();
        for (name, value) in [
            ("Dir::State", within("state")),
            ("Dir::State::status", within("status")),
            ("Dir::Cache", within("cache")),
            ("Dir::Etc::sourcelist", within("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
            // The user of its downloads may not see our directories.
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("--option").arg(format!("{name}={value}"));
        }
        command
    }

    fn archives(&self) -> PathBuf {
        self.directory.join("cache/archives")
    }

    /// The package of the newest kernel of a series.
    fn newest_kernel(&self, series: &str) -> Result<String> {
        // A series beside the release's own gets its updates for security under its own name, before there are backports of them.
        let own = NEWEST_KERNEL.replace("image", &format!("image-{series}"));
        let names = output_of(self.command("apt-cache").args(["pkgnames", &own]))?;
        let newest = if names.lines().any(|name| name == own) { own.as_str() } else { NEWEST_KERNEL };
        let records = output_of(self.command("apt-cache").args(["show", newest]))?;
        let prefix = format!("{series}.");
        for record in records.split("\n\n") {
            let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
            if field("Version:").starts_with(&prefix) {
                let package = field("Depends:").split([' ', ',']).next().unwrap_or("");
                ensure!(!package.is_empty(), "{newest} {} depends on no kernel", field("Version:"));
                return Ok(package.into());
            }
        }
        bail!("Debian's archive has no kernel {series}")
    }
}

/// The archive of the machine's own packages, or that of their updates for security.
fn archive(kind: &str) -> Result<String> {
    let mut ask = Command::new("apt-get");
    let known = output_of(ask.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]))?;
    let mut sources = known.lines().filter_map(|line| line.split_once(' '));
    let archive = sources.find(|(suite, _)| if kind.is_empty() { !suite.contains('-') } else { suite.ends_with(kind) });
    let (_, archive) = archive.with_context(|| format!("apt's sources have no archive debian{kind}"))?;
    Ok(archive.into())
}
