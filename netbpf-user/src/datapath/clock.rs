//! The datapath's clock, `bpf_jiffies64`, as user space can read it.

use nix::time::{ClockId, clock_getres};

use crate::error::{Context as _, Error, Result};

/// Ticks of jiffies per second: the coarse clocks advance by exactly one tick.
pub(crate) fn hz() -> Result<u32> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context(|| "ask for the length of a tick".into())?;
    let nanoseconds = u64::try_from(tick.tv_nsec()).unwrap_or(0);
    if tick.tv_sec() != 0 || nanoseconds == 0 {
        return Err(Error::Unsupported(format!(
            "the kernel's clock ticks in steps of {tick}: not a clock netbpf knows"
        )));
    }
    Ok(((1_000_000_000 + nanoseconds / 2) / nanoseconds) as u32)
}

/// Jiffies now. /proc/timer_list is the one place that shows them.
pub(crate) fn jiffies() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/timer_list").context(|| "read /proc/timer_list".into())?;
    newest_jiffies(&text).ok_or_else(|| Error::Internal("/proc/timer_list shows no jiffies".into()))
}

/// The global counter is printed once per CPU, later ones read later.
fn newest_jiffies(timer_list: &str) -> Option<u64> {
    timer_list.lines().filter_map(|line| line.strip_prefix("jiffies:")?.trim().parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_those_of_the_last_cpu() {
        let text = "cpu: 0\n  .last_jiffies   : 99\njiffies: 4294937298\n\ncpu: 1\njiffies: 4294937299\n";
        assert_eq!(newest_jiffies(text), Some(4_294_937_299));
        assert_eq!(newest_jiffies("Timer List Version: v0.10\n"), None);
    }

    #[test]
    fn this_kernel_ticks_at_a_usual_rate() {
        assert!((24..=1200).contains(&hz().unwrap()));
    }
}
