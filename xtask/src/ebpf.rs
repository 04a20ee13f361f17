//! Finding what builds the eBPF crate, and the one way to call it.
//!
//! Compiled into xtask and, by path, into the build script of netbpf-user: it uses nothing but std.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the kernel programs are compiled for: the BPF of a little-endian machine.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The package with the kernel programs, and the name of the object it becomes.
pub(crate) const PACKAGE: &str = "netbpf-ebpf";
/// The linker that the programs are known to verify with.
pub(crate) const LINKER_VERSION: &str = "0.10.3";
/// The LLVM that linker is made for. It reads the bitcode of the compiler, so theirs must be the same.
const LLVM_MAJOR: &str = "22";

/// A Rust compiler that can make BPF code.
pub(crate) struct Compiler {
    /// How to call it when talking to people.
    pub(crate) name: String,
    cargo: PathBuf,
    rustc: PathBuf,
    core: Core,
    /// The library that bpf-linker loads.
    llvm: PathBuf,
}

/// Where the `core` of the target comes from.
#[derive(PartialEq)]
enum Core {
    Prebuilt,
    Source,
}

/// Why a compiler was not taken.
struct Unusable(String);

/// Compiler and linker.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, bpf-linker {LINKER_VERSION}", self.compiler.name)
    }
}

impl Toolchain {
    /// The toolchain of this machine, or one line that says what is missing and what to do.
    pub(crate) fn find() -> Result<Self, String> {
        let missing = match (Compiler::find(), linker()) {
            (Ok(compiler), Ok(linker)) => return Ok(Self { compiler, linker }),
            (Err(compiler), Err(linker)) => format!("{compiler}; {linker}"),
            (Err(missing), Ok(_)) | (Ok(_), Err(missing)) => missing,
        };
        Err(format!(
            "cannot build the eBPF programs: {missing}. Run `cargo xtask setup` as root, which installs what is missing"
        ))
    }

    /// `cargo build` or `cargo clippy` of the eBPF crate. Its target directory is its own, so that it
    /// does not wait for the lock of the cargo that may have started us; debug and release share it.
    pub(crate) fn cargo(&self, subcommand: &str, workspace: &Path, target_dir: &Path) -> io::Result<Command> {
        let mut command = match subcommand {
            "build" => Command::new(&self.compiler.cargo),
            // By path: cargo would look for it in the user's ~/.cargo/bin first, where it is rustup's.
            _ => Command::new(self.compiler.cargo.with_file_name(format!("cargo-{subcommand}"))),
        };
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(describes_another_build) {
                command.env_remove(name);
            }
        }
        let linker = format!("linker={}", self.linker.display());
        // v3 has the compare-and-swap that the flow table needs, and Linux 5.12 already takes it.
        let flags = ["-C", &linker, "-C", "link-arg=--btf", "-C", "debuginfo=2", "-C", "target-cpu=v3"];
        command
            .current_dir(workspace)
            .args([subcommand, "--quiet", "--package", PACKAGE, "--release", "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO", &self.compiler.cargo)
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", llvm_alone(&self.compiler.llvm, target_dir)?);
        if self.compiler.core == Core::Source {
            command.args(["-Z", "build-std=core"]);
        }
        Ok(command)
    }
}

/// Variables by which a cargo tells its children about the build it is at. What the user says about
/// registries, proxies and directories stays.
fn describes_another_build(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    let cargo = name == "CARGO" || name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept));
    cargo
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS"
        || name == "RUSTUP_TOOLCHAIN"
}

/// A directory with the one library in it: bpf-linker opens the first libLLVM* it meets in the
/// directories of LD_LIBRARY_PATH, whatever its version.
fn llvm_alone(llvm: &Path, target_dir: &Path) -> io::Result<PathBuf> {
    let directory = target_dir.join("llvm");
    let link = directory.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|to| to == llvm) {
        return Ok(directory);
    }
    fs::create_dir_all(&directory)?;
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match std::os::unix::fs::symlink(llvm, &link) {
        // Another build of the same tree came first, with the same library.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(directory),
    }
}

impl Compiler {
    /// Whether it can also lint.
    pub(crate) fn has_clippy(&self) -> bool {
        self.cargo.with_file_name("cargo-clippy").exists()
    }

    /// The first usable one: Debian's before any nightly, because it is one known version.
    pub(crate) fn find() -> Result<Self, String> {
        let mut reasons = Vec::new();
        match Self::debian() {
            Ok(compiler) => return Ok(compiler),
            Err(Unusable(reason)) => reasons.push(reason),
        }
        let nightlies = nightlies();
        if nightlies.is_empty() {
            reasons.push("rustup has no nightly toolchain".into());
        }
        for directory in nightlies {
            match Self::nightly(&directory) {
                Ok(compiler) => return Ok(compiler),
                Err(Unusable(reason)) => reasons.push(reason),
            }
        }
        Err(format!("no Rust compiler for {TARGET} ({})", reasons.join(", ")))
    }

    /// Debian's compiler with its package of prebuilt libraries.
    fn debian() -> Result<Self, Unusable> {
        let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        if !cargo.exists() || !rustc.exists() {
            return Err(Unusable("Debian's rustc-web and cargo-web are not installed".into()));
        }
        let version = llvm_checked(&rustc, "Debian's rustc")?;
        let libraries = output(&rustc, &["--print", "target-libdir", "--target", TARGET]).unwrap_or_default();
        if !contains(Path::new(libraries.trim()), |name| name.starts_with("libcore-") && name.ends_with(".rlib")) {
            return Err(Unusable(format!("Debian's rustc {version} lacks libstd-rust-web-dev-bpf")));
        }
        let multiarch = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
        let llvm = find_llvm(&[Path::new(&multiarch), Path::new("/usr/lib")], "Debian's rustc")?;
        Ok(Self {
            name: format!("Debian's rustc {version} with its core for BPF"),
            cargo,
            rustc,
            core: Core::Prebuilt,
            llvm,
        })
    }

    /// A nightly of rustup that has the source of `core`.
    fn nightly(directory: &Path) -> Result<Self, Unusable> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !directory.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Err(Unusable(format!("rustup's {name} lacks the component rust-src")));
        }
        let (cargo, rustc) = (directory.join("bin/cargo"), directory.join("bin/rustc"));
        llvm_checked(&rustc, &name)?;
        let llvm = find_llvm(&[&directory.join("lib")], &name)?;
        Ok(Self { name: format!("rustup's {name} with rust-src"), cargo, rustc, core: Core::Source, llvm })
    }
}

/// bpf-linker where cargo puts it, or in PATH; or why it cannot be used.
pub(crate) fn linker() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = cargo_bin().into_iter().chain(env::split_paths(&path));
    let Some(linker) = places.map(|place| place.join("bpf-linker")).find(|path| path.is_file()) else {
        return Err(format!("bpf-linker {LINKER_VERSION} is not installed"));
    };
    let version = output(&linker, &["--version"]).unwrap_or_default();
    match version.split_whitespace().nth(1) {
        Some(LINKER_VERSION) => Ok(linker),
        Some(other) => Err(format!("{} is version {other}, not {LINKER_VERSION}", linker.display())),
        None => Err(format!("{} does not run", linker.display())),
    }
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    Some(home.join("bin"))
}

fn nightlies() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")));
    let entries = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The release of a compiler whose LLVM is the linker's.
fn llvm_checked(rustc: &Path, name: &str) -> Result<String, Unusable> {
    let text = output(rustc, &["-vV"]).ok_or_else(|| Unusable(format!("{name} does not run")))?;
    let field = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or("unknown").trim();
    let llvm = field("LLVM version:");
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        return Err(Unusable(format!("{name} has LLVM {llvm}, bpf-linker {LINKER_VERSION} needs {LLVM_MAJOR}")));
    }
    Ok(field("release:").into())
}

fn find_llvm(directories: &[&Path], name: &str) -> Result<PathBuf, Unusable> {
    let is_llvm = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("libLLVM").is_some_and(|rest| rest.contains(".so") && rest.contains(LLVM_MAJOR))
    };
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    // A broken link, or the text file that is a linker script, is no library.
    let library = entries
        .map(|entry| entry.path())
        .filter(is_llvm)
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 1 << 20));
    library.ok_or_else(|| Unusable(format!("{name} has no libLLVM {LLVM_MAJOR} beside it")))
}

fn contains(directory: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| wanted(&name.to_string_lossy()))
}

fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    // cargo leads the loader to the libraries of its own compiler.
    command.args(arguments).env_remove("LD_LIBRARY_PATH").stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
