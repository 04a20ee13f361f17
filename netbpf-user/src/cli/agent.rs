//! `netbpf agent`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use netbpf_user::Settings;
use netbpf_user::agent::{Engine, privileges};
use netbpf_user::api::{self, Doors};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::settings::{LogFlags, SettingsFlags, UplinkFlags};
use super::{Global, log, service};

/// How long requests that were begun may take when the agent is told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// The daemon, in the foreground, for the network namespace it is started in
///
/// SIGTERM or SIGINT: stop managing, and leave the datapath running.
#[derive(Args)]
#[command(after_help = "\
Examples:
  netbpf agent
  netbpf agent --config /etc/netbpf/netbpf.toml --uplink eth0
  netbpf agent --state-dir /tmp/a/state --run-dir /tmp/a/run --bpffs /sys/fs/bpf/a    a second instance")]
pub(super) struct Agent {
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(flatten)]
    uplinks: UplinkFlags,
    #[command(flatten)]
    log: LogFlags,
}

impl Agent {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut settings = self.settings.settings()?;
        self.uplinks.apply(&mut settings);
        self.log.apply(&mut settings);
        settings.validate()?;
        // It tells of what it does; the other verbs keep quiet unless asked.
        log::start(global.verbose.saturating_add(1), settings.log_format);
        // Before the runtime makes threads: each has privileges of its own.
        privileges::keep_needed()?;
        open_many_files();
        // Whatever the shell has it at: nobody but root writes to what the agent makes.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        tokio::runtime::Runtime::new().context("cannot start the agent")?.block_on(serve(settings))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The resolver has a socket for each question that is on its way: as many as the administrator allows, not as few as programs get that
/// ask for no more.
fn open_many_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the number of open files: {error}");
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let (path, doors) = (settings.socket(), Doors::of(&settings)?);
    doors.check()?;
    let stop = Arc::new(Notify::new());
    stop_on_signal(stop.clone())?;
    let engine = Engine::start(settings).await?;
    // Anybody can be told to stop from here on, so nothing may return before `shutdown`.
    let served = listen(&path, doors, engine.clone(), stop).await;
    engine.shutdown().await;
    served
}

async fn listen(path: &Path, doors: Doors, engine: Arc<Engine>, stop: Arc<Notify>) -> anyhow::Result<()> {
    let doors = doors.open()?;
    tracing::info!("ready at {}", path.display());
    let headline = engine.headline().unwrap_or_default();
    service::tell(&[NotifyState::Ready, NotifyState::Status(&headline)]);
    let reports = tokio::spawn(service::report(engine.clone()));
    let stopping = Arc::new(Notify::new());
    let server = api::serve(doors, engine, stop, stopping.clone());
    let overdue = async {
        stopping.notified().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let served = tokio::select! {
        served = server => served.context("the socket failed"),
        () = overdue => {
            tracing::warn!("stopped while a request was open");
            Ok(())
        }
    };
    reports.abort();
    served
}

fn stop_on_signal(stop: Arc<Notify>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        service::tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        stop.notify_one();
    });
    Ok(())
}
