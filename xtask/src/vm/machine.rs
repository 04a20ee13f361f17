//! A virtual machine: a kernel of Debian's over the root file system of this machine, which it can read and not write.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::fetch;
use crate::command::{output_of, target_dir};

/// What is to be loaded before there is a root file system, with what these need.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// The port that ends the emulator with an exit status.
const EXIT_PORT: u16 = 0xf4;

/// What the first process and the script of the second begin with.
const INIT: &str = include_str!("init.sh");
const STAGE: &str = include_str!("stage.sh");

/// What a line of the machine's output says once its script runs.
const UP: &str = "netbpf-vm: up, ";

/// Parts of a processor that cost more in emulation than they give: string instructions go byte by byte.
const EMULATED_CPU: &str = "max,-erms,-fsrm,-fzrm,-fsrs";

/// A kernel, ready to be booted.
pub(super) struct Machine {
    /// Series of its kernel, like 6.1.
    pub(super) series: &'static str,
    directory: PathBuf,
    emulator: PathBuf,
    release: String,
}

/// What a machine runs, in a file that it finds outside; there for as long as this.
pub(super) struct Script(PathBuf);

impl Drop for Script {
    fn drop(&mut self) {
        // Nobody reads it any more: what is left behind is in the way of nothing.
        _ = fs::remove_file(&self.0);
    }
}

/// How a machine runs.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// On the processor itself.
    pub(super) kvm: bool,
    /// Ended when it takes longer.
    pub(super) limit: Option<Duration>,
}

impl Machine {
    /// Fetches what is missing of it.
    pub(super) fn ready(series: &'static str) -> Result<Self> {
        let all = target_dir().join("vm");
        let (emulator, directory) = (all.join("qemu"), all.join(series));
        fetch::emulator(&emulator)?;
        fetch::kernel(series, &directory)?;
        let boot = directory.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let release = names.into_iter().find_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
        let release = release.with_context(|| format!("{} has no kernel", boot.display()))?;
        let machine = Self { series, directory, emulator, release };
        machine.make_initramfs().context("cannot make the initramfs")?;
        Ok(machine)
    }

    /// The emulator, started to run lines of bash and to end with their status. What the machine prints comes from its stdout, the first
    /// line by which [`booted`] knows it.
    pub(super) fn start(&self, lines: &str, manner: Manner) -> Result<(Command, Script)> {
        let script =
            format!("{{ echo \"{UP}$(uname -r)\"; {lines}\n}} </dev/null 2>&1 | cat\nend ${{PIPESTATUS[0]}}\n");
        let script = self.write_script(&script)?;
        let mut emulator = self.emulator(&script, manner);
        emulator.args(["-serial", "stdio"]).stdin(Stdio::null());
        Ok((emulator, script))
    }

    /// The emulator, started as a shell on this terminal.
    pub(super) fn shell(&self, manner: Manner) -> Result<(Command, Script)> {
        // A serial line knows no size.
        let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
        let size = size.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let size = size.split_once(' ').map(|(rows, columns)| format!("stty rows {rows} columns {columns}; "));
        let script = format!(
            "setsid --ctty --wait bash -c '{}cd \"$1\"; exec bash -i' - {} </dev/ttyS0 >/dev/ttyS0 2>&1\nend $?\n",
            size.unwrap_or_default(),
            crate::command::workspace().display(),
        );
        let script = self.write_script(&script)?;
        let mut emulator = self.emulator(&script, manner);
        // With the monitor on it, Ctrl-C is the shell's, and Ctrl-A X ends the machine.
        emulator.args(["-serial", "mon:stdio"]);
        Ok((emulator, script))
    }

    fn emulator(&self, script: &Script, manner: Manner) -> Command {
        let root = |part: &str| self.emulator.join(part);
        let libraries =
            ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|part| root(part).display().to_string());
        let mut command = match manner.limit {
            // What does not come to an end by itself has failed.
            Some(limit) => {
                let mut command = Command::new("timeout");
                command.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(root("lib64/ld-linux-x86-64.so.2"));
                command
            }
            None => Command::new(root("lib64/ld-linux-x86-64.so.2")),
        };
        command.args(["--library-path", &libraries.join(":")]).arg(root("usr/bin/qemu-system-x86_64"));
        for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(root(firmware));
        }
        let (accelerator, processor) = if manner.kvm { ("kvm", "host") } else { ("tcg,thread=multi", EMULATED_CPU) };
        command.args(["-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", "3G"]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(self.directory.join("boot").join(format!("vmlinuz-{}", self.release)));
        command.arg("-initrd").arg(self.initramfs());
        let console = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0";
        command.arg("-append").arg(format!("{console} netbpf.script={}", script.0.display()));
        command.args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")]);
        command.args(["-virtfs", "local,path=/,mount_tag=outside,security_model=none,readonly=on,multidevs=remap"]);
        command
    }

    fn write_script(&self, script: &str) -> Result<Script> {
        let modules = self.modules_directory();
        let settings = format!(
            "modules={}\nexit_port={EXIT_PORT}\n",
            modules.parent().expect("a directory of directories").display()
        );
        // Several may run at the same time.
        let path = beside(&self.directory, &format!("script-{}", std::process::id()));
        fs::write(&path, format!("{settings}{STAGE}{script}"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Script(path))
    }

    fn modules_directory(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }

    fn initramfs(&self) -> PathBuf {
        beside(&self.directory, "cpio")
    }

    /// What the kernel begins with: a shell, the modules that lead to the root file system, and the first process.
    fn make_initramfs(&self) -> Result<()> {
        let busybox = ["bin/busybox", "usr/bin/busybox"].map(|part| self.emulator.join(part));
        let busybox = busybox.iter().find(|path| path.exists()).context("there is no busybox")?;
        let stage = beside(&self.directory, &format!("initramfs-{}", std::process::id()));
        for part in ["bin", "modules", "proc", "sys", "dev", "outside", "layer", "merged"] {
            fs::create_dir_all(stage.join(part))?;
        }
        fs::copy(busybox, stage.join("bin/busybox"))?;
        fs::write(stage.join("init"), INIT)?;
        fs::set_permissions(stage.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let order = self.load_order()?;
        for module in &order {
            let compressed = module.ends_with(".xz");
            let decompress = Command::new(busybox)
                .arg(if compressed { "xzcat" } else { "cat" })
                .arg(self.modules_directory().join(module))
                .stdout(fs::File::create(stage.join("modules").join(file_name(module)))?)
                .status()?;
            ensure!(decompress.success(), "cannot read the module {module}");
        }
        let order: Vec<_> = order.iter().map(|module| file_name(module)).collect();
        fs::write(stage.join("modules/order"), order.join("\n") + "\n")?;
        let archive = beside(&self.initramfs(), &std::process::id().to_string());
        let pack = format!("{0} find . | {0} cpio -o -H newc >{1}", busybox.display(), archive.display());
        output_of(Command::new("sh").args(["-c", &pack]).current_dir(&stage))?;
        fs::rename(archive, self.initramfs())?;
        fs::remove_dir_all(stage)?;
        Ok(())
    }

    /// [`MODULES`] after those that each needs, as paths within the modules of the kernel.
    fn load_order(&self) -> Result<Vec<String>> {
        let read = |name: &str| {
            let path = self.modules_directory().join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        order(&MODULES, &read("modules.dep")?, &read("modules.builtin")?)
    }
}

/// A path of the same name with more behind it: a kernel's name has a point.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    path.with_file_name(format!("{}.{more}", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// The kernel's release, when this line is a machine's first.
pub(super) fn booted(line: &str) -> Option<&str> {
    line.split_once(UP).map(|(_, release)| release)
}

/// The exit status of what ran inside, by the emulator's; nothing when the machine ended otherwise.
pub(super) fn inner_status(emulator: Option<i32>) -> Option<u8> {
    let status = u8::try_from(emulator?).ok()?;
    (status % 2 == 1).then_some(status / 2)
}

/// Modules after those that each needs, as they are in modules.dep (modules.dep(5)).
fn order(wanted: &[&str], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let lines = || dependencies.lines().filter_map(|line| line.split_once(':'));
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        if builtin.lines().any(|path| module_name(path) == *name) {
            continue;
        }
        let line = lines().find(|(path, _)| module_name(path) == *name);
        let (path, needs) = line.with_context(|| format!("the kernel has no module {name}"))?;
        // What is named last needs nothing of what stands before it.
        for part in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == part) {
                order.push(part.into());
            }
        }
    }
    Ok(order)
}

/// Its name, as modules are asked for.
fn module_name(path: &str) -> String {
    file_name(path).trim_end_matches(".ko").replace('-', "_")
}

/// Its file's name once it is not compressed any more.
fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.trim_end_matches(".xz").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                            kernel/net/9p/9pnet.ko.xz:\nkernel/fs/netfs/netfs.ko.xz:\n\
                            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n";
        let order = order(&["9pnet_virtio", "9p", "virtio_pci"], dependencies, "kernel/drivers/virtio-pci.ko\n");
        let order: Vec<_> = order.expect("all are there").iter().map(|path| module_name(path)).collect();
        assert_eq!(order, ["9pnet", "9pnet_virtio", "netfs", "9p"]);
        assert!(super::order(&["absent"], dependencies, "").is_err());
    }

    #[test]
    fn only_a_script_that_has_ended_gives_a_status() {
        assert_eq!([0, 1, 3, 255].map(|status| inner_status(Some(status))), [None, Some(0), Some(1), Some(127)]);
        assert_eq!(inner_status(None), None, "killed");
    }
}
