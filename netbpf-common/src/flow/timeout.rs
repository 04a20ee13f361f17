//! How long a flow may be silent.

use crate::abi::{Config, Life, Timeout, Word};
use crate::wire::protocol;

/// The timeout a flow of this protocol is under in this state.
#[inline(always)]
pub fn timeout_of(proto: u8, word: Word) -> Timeout {
    match proto {
        protocol::TCP => {
            if word.has(Word::RESET) {
                Timeout::TcpReset
            } else if word.has(Word::FIN_ORIGINAL) && word.has(Word::FIN_REPLY) {
                Timeout::TcpClosed
            } else if word.has(Word::CLOSING) {
                Timeout::TcpHalfClosed
            } else if word.life() == Life::Established {
                Timeout::TcpEstablished
            } else {
                Timeout::TcpOpening
            }
        }
        protocol::UDP if word.life() == Life::Established => Timeout::UdpReplied,
        protocol::UDP => Timeout::UdpUnreplied,
        protocol::ICMP | protocol::ICMPV6 => Timeout::Icmp,
        _ => Timeout::Other,
    }
}

/// Whether a flow whose last packet of either direction came at `seen` has been silent too long.
/// Times are jiffies; a `seen` in the future (another CPU was faster) is not old.
#[inline(always)]
pub fn is_expired(config: &Config, proto: u8, word: Word, seen: u64, now: u64) -> bool {
    let limit = config.timeouts.get(timeout_of(proto, word) as usize).copied().unwrap_or(0);
    now.saturating_sub(seen) > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_is_under_a_shorter_timeout_than_an_open_one() {
        let open = Word::half(1).with(Word::REPLIED).established();
        let closed = open.with(Word::FIN_ORIGINAL).with(Word::FIN_REPLY);
        let mut config = Config::default();
        for (jiffies, seconds) in config.timeouts.iter_mut().zip(Timeout::DEFAULT_SECONDS) {
            *jiffies = u64::from(seconds) * 250;
        }
        assert!(!is_expired(&config, protocol::TCP, open, 0, 250 * 86_400));
        assert!(is_expired(&config, protocol::TCP, closed, 0, 250 * 86_400));
        assert!(!is_expired(&config, protocol::TCP, closed, 500, 400), "seen by a faster CPU");
    }
}
