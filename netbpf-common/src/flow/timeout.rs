//! How long a flow may be silent.

use super::State;
use crate::abi::{Config, Life, Word};

/// Whether a flow whose last packet of either direction came at `seen` has been silent too long.
/// Times are jiffies; a `seen` in the future (another CPU was faster) is not old.
#[inline(always)]
pub fn is_expired(config: &Config, proto: u8, word: Word, seen: u64, now: u64) -> bool {
    let limit = config.timeouts.get(State::of(proto, word).timeout(proto) as usize).copied().unwrap_or(0);
    now.saturating_sub(seen) > limit
}

/// Whether a flow is to make room for others of its container, which has so many confirmed ones: a closed connection waits
/// for what is still under way as long as those are no more than half of what it may have.
#[inline(always)]
pub fn makes_room(config: &Config, word: Word, confirmed: u64) -> bool {
    word.life() == Life::Established && word.has(Word::TIME_WAIT) && confirmed > u64::from(config.flow_limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Timeout;
    use crate::wire::protocol;

    #[test]
    fn a_closed_connection_is_under_a_shorter_timeout_than_an_open_one() {
        let open = Word::half(1).with(Word::REPLIED).established();
        let closed = open.with(Word::FIN_ORIGINAL).with(Word::FIN_REPLY).with(Word::TIME_WAIT);
        let mut config = Config::default();
        for (jiffies, seconds) in config.timeouts.iter_mut().zip(Timeout::DEFAULT_SECONDS) {
            *jiffies = u64::from(seconds) * 250;
        }
        assert!(!is_expired(&config, protocol::TCP, open, 0, 250 * 86_400));
        assert!(is_expired(&config, protocol::TCP, closed, 0, 250 * 86_400));
        assert!(!is_expired(&config, protocol::TCP, closed, 500, 400), "seen by a faster CPU");
    }
}
