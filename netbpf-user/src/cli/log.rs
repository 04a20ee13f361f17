//! Where events go: stderr, for people, for the journal or for programs.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::os::unix::fs::MetadataExt as _;

use netbpf_user::config::LogFormat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where systemd says which file the journal reads, as `device:inode` (systemd.exec(5)).
const JOURNAL: &str = "JOURNAL_STREAM";

/// Begins to log; `verbosity` counts from warnings on.
pub(super) fn start(verbosity: u8, format: LogFormat) {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into()).with_env_var("NETBPF_LOG").from_env_lossy();
    // The level of these lines is the setting datapath_log: what has come out of the kernel is shown.
    let filter = filter.add_directive("netbpf_ebpf=trace".parse().expect("a target and a level"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        LogFormat::Text if is_journal() => log.with_ansi(false).event_format(ForJournal::default()).init(),
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).with_target(false).init(),
    }
}

/// Whether the journal reads what this process writes to stderr.
fn is_journal() -> bool {
    let stream = std::env::var(JOURNAL).ok();
    let own = std::fs::metadata("/proc/self/fd/2").map(|file| format!("{}:{}", file.dev(), file.ino()));
    stream.is_some_and(|stream| own.is_ok_and(|own| own == stream))
}

/// Lines without a time, which the journal has, and with the priority by which it sorts them (sd-daemon(3)).
struct ForJournal(Format<Full, ()>);

impl Default for ForJournal {
    fn default() -> Self {
        Self(Format::default().without_time().with_target(false).with_level(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_no_times() {
        let memory = Memory::default();
        let writer = memory.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(ForJournal::default())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::error!("broken");
            tracing::info!(container = "web", "made");
            tracing::trace!("seen");
        });
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>broken\n<6>made container=\"web\"\n<7>seen\n");
    }
}
