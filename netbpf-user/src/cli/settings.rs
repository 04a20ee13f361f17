//! The flags that name an instance and its settings.

use std::path::{self, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use netbpf_user::Settings;
use netbpf_user::config::{LogFormat, Xdp};

/// Where an instance lives: of `agent`, and of `uninstall` where no agent runs.
#[derive(clap::Args)]
pub(super) struct SettingsFlags {
    /// Settings in TOML; flags override them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Desired state, kept over reboots [default: /var/lib/netbpf]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The socket and what lives until a reboot [default: /run/netbpf]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Pinned programs, links and maps, on a bpffs [default: /sys/fs/bpf/netbpf]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Processes in this cgroup2 directory reach published ports of this host [default: all]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
}

/// How the agent serves uplinks.
#[derive(clap::Args)]
pub(super) struct UplinkFlags {
    /// Serve this device only, instead of every one that is not netbpf's own; may be repeated
    #[arg(long, value_name = "IF")]
    uplink: Vec<String>,
    /// XDP on the uplinks
    #[arg(long, value_enum)]
    xdp: Option<XdpFlag>,
}

/// How the agent logs.
#[derive(clap::Args)]
pub(super) struct LogFlags {
    /// Form of the log: lines for people and for the journal, or objects of JSON [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormatFlag>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormatFlag {
    Text,
    Json,
}

impl LogFlags {
    pub(super) fn apply(self, settings: &mut Settings) {
        if let Some(format) = self.log_format {
            settings.log_format = match format {
                LogFormatFlag::Text => LogFormat::Text,
                LogFormatFlag::Json => LogFormat::Json,
            };
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum XdpFlag {
    Off,
    Generic,
    Native,
}

impl SettingsFlags {
    pub(super) fn settings(self) -> anyhow::Result<Settings> {
        let Self { config, state_dir, run_dir, bpffs, cgroup } = self;
        let mut settings = config.map_or_else(|| Ok(Settings::default()), |path| Settings::load(&path))?;
        // In a flag a relative path means what it means to the shell; in the file it would mean nothing.
        let override_with = |place: &mut PathBuf, flag: Option<PathBuf>| -> anyhow::Result<()> {
            if let Some(flag) = flag {
                *place = path::absolute(&flag).context("an empty path names no directory")?;
            }
            Ok(())
        };
        override_with(&mut settings.state_dir, state_dir)?;
        override_with(&mut settings.run_dir, run_dir)?;
        override_with(&mut settings.bpffs, bpffs)?;
        settings.cgroup = cgroup.or(settings.cgroup);
        settings.validate()?;
        Ok(settings)
    }
}

impl UplinkFlags {
    pub(super) fn apply(self, settings: &mut Settings) {
        if !self.uplink.is_empty() {
            settings.uplinks = self.uplink;
        }
        if let Some(xdp) = self.xdp {
            settings.xdp = match xdp {
                XdpFlag::Off => Xdp::Off,
                XdpFlag::Generic => Xdp::Generic,
                XdpFlag::Native => Xdp::Native,
            };
        }
    }
}
