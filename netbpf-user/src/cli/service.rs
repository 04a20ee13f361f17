//! What a service manager is told (sd_notify(3)); without one there is nobody to tell.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use netbpf_user::agent::Engine;
use sd_notify::NotifyState;

/// How often the line of state is looked at where no watchdog asks.
const GLANCE: Duration = Duration::from_secs(10);

/// The agent is ready, or on its way out.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot tell the service manager {states:?}: {error}");
    }
}

/// Tells of the engine until this is dropped: what it serves, and, where a watchdog asks for it, that it does.
pub(super) async fn report(engine: Arc<Engine>) {
    let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
    // Three checks may fail before it bites.
    let interval = watchdog.map_or(GLANCE, |interval| interval / 4);
    let check = || {
        let engine = engine.clone();
        async move {
            engine.check_health(interval).await?;
            Ok(engine.headline())
        }
    };
    let mut before = String::new();
    let ping = |line: Option<String>| {
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        if let Some(line) = line.filter(|line| *line != before) {
            tell(&[NotifyState::Status(&line)]);
            before = line;
        }
    };
    pulse(interval, check, ping).await;
}

/// Pings for as long as the check succeeds; says once why it does not, and once that it does again.
async fn pulse<F: Future<Output = Result<Option<String>, String>>>(
    interval: Duration,
    mut check: impl FnMut() -> F,
    mut ping: impl FnMut(Option<String>),
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_well = true;
    loop {
        ticks.tick().await;
        match check().await {
            Ok(line) => {
                if !was_well {
                    tracing::info!("the engine serves again");
                }
                was_well = true;
                ping(line);
            }
            Err(why) => {
                if was_well {
                    tracing::error!("the engine does not serve: {why}");
                }
                was_well = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn pings_come_while_the_engine_serves_and_at_no_other_time() {
        let healthy = [true, true, false, false, true];
        let (mut checks, mut pings) = (0, Vec::new());
        let (over, end) = tokio::sync::oneshot::channel();
        let mut over = Some(over);
        let check = || {
            let health = healthy.get(checks).copied();
            checks += 1;
            if health.is_none() {
                _ = over.take().map(|over| over.send(()));
            }
            async move {
                match health {
                    Some(true) => Ok(Some(checks.to_string())),
                    Some(false) => Err("a request holds it".to_owned()),
                    None => pending().await,
                }
            }
        };
        tokio::select! {
            () = pulse(Duration::from_millis(1), check, |line| pings.extend(line)) => {}
            _ = end => {}
        }
        assert_eq!(pings, ["1", "2", "5"]);
    }
}
