//! What of a TCP segment can be believed.
//!
//! A flow follows its connection without the receivers' say: what looks like its end, or like the end of its handshake,
//! may have been made by somebody who sees nothing of it and guesses. So such a segment acts on the flow only if its
//! numbers fit what the other side has said (RFC 9293 section 3.10.7.4, RFC 5961 section 3). One that does not fit is
//! passed on, for its receiver to judge, and changes nothing.

use super::Direction;
use crate::abi::{Life, Sent, Word};
use crate::wire::{L4, tcp_flags};

/// Shift count taken for a connection whose handshake was not seen: windows up to 16 MiB.
const UNKNOWN_SCALE: u8 = 8;
/// Bytes that may be under way to who closes, whatever its window has become.
const LARGE_WINDOW: u32 = 1 << 20;
/// The largest there is (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;

impl Sent {
    /// What is known of a sender after one more segment, with `payload` bytes of data. The last word counts, not the
    /// highest number: what somebody has forged is put right by the next true segment. A RST says nothing that lasts.
    #[inline(always)]
    #[must_use]
    pub fn after(self, l4: &L4, payload: u32) -> Self {
        let flags = l4.tcp_flags;
        if flags & tcp_flags::RST != 0 {
            return self;
        }
        let mut next = self;
        next.end = end(l4, payload);
        next.known = (next.known | Self::END) & !Self::SYN;
        if flags & tcp_flags::ACK != 0 {
            next.ack = l4.ack;
            next.window = l4.window;
            next.known |= Self::ACK;
        }
        if flags & tcp_flags::SYN != 0 {
            next.known |= Self::SYN | Self::SCALED;
            next.window = l4.window;
            next.scale = if l4.scale > MAX_SCALE { MAX_SCALE } else { l4.scale };
        }
        next
    }

    /// Bytes beyond [`Sent::ack`] that it takes. The window of a SYN is never scaled (RFC 7323 section 2.2).
    #[inline(always)]
    fn window_bytes(&self) -> u32 {
        let scale = match self.known & (Self::SYN | Self::SCALED) {
            0 => UNKNOWN_SCALE,
            Self::SCALED => self.scale,
            _ => 0,
        };
        u32::from(self.window) << (scale & 0xf)
    }
}

/// The sequence number after a segment.
#[inline(always)]
fn end(l4: &L4, payload: u32) -> u32 {
    let control = u32::from(l4.tcp_flags & tcp_flags::SYN != 0) + u32::from(l4.tcp_flags & tcp_flags::FIN != 0);
    l4.seq.wrapping_add(payload).wrapping_add(control)
}

/// Whether the numbers of a segment matter to the flow: it would end it, or confirm it.
#[inline(always)]
pub fn needs_proof(word: Word, direction: Direction, flags: u8) -> bool {
    flags & (tcp_flags::FIN | tcp_flags::RST) != 0
        || direction == Direction::Original && word.life() == Life::Half && word.has(Word::REPLIED)
}

/// The control bits of a segment as far as they can be believed, by what its sender (`own`) and the other side
/// (`other`) have said before: without FIN and RST if it lies outside the window, without ACK if it acknowledges what was
/// never sent.
#[inline(always)]
pub fn believed(word: Word, l4: &L4, payload: u32, own: &Sent, other: &Sent) -> u8 {
    let mut flags = l4.tcp_flags;
    if flags & tcp_flags::RST != 0 {
        let fits = if other.known & Sent::ACK != 0 {
            l4.seq.wrapping_sub(other.ack) <= other.window_bytes()
        } else {
            // The other side has sent a SYN and nothing else: only its acknowledgment can be right.
            other.known & Sent::END == 0 || flags & tcp_flags::ACK != 0 && l4.ack == other.end
        };
        if !fits {
            flags &= !tcp_flags::RST;
        }
    }
    if flags & tcp_flags::FIN != 0 && other.known & Sent::ACK != 0 {
        // The end of the segment: data before it may have been acknowledged already. And it acknowledges what was lately
        // sent: of one that is believed nothing can be taken back.
        let beyond = end(l4, payload).wrapping_sub(other.ack);
        let behind = other.end.wrapping_sub(l4.ack);
        let fits = beyond <= other.window_bytes().saturating_add(1)
            && flags & tcp_flags::ACK != 0
            && behind <= own.window_bytes().max(LARGE_WINDOW);
        if !fits {
            flags &= !tcp_flags::FIN;
        }
    }
    if word.life() == Life::Half && flags & tcp_flags::ACK != 0 {
        let behind = other.end.wrapping_sub(l4.ack);
        // The end of a handshake acknowledges the SYN and no more than that.
        let outstanding = if other.known & Sent::SYN != 0 { 0 } else { own.window_bytes() };
        if other.known & Sent::END == 0 || behind > outstanding {
            flags &= !tcp_flags::ACK;
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, Ports};

    const SYN: u8 = tcp_flags::SYN;
    const ACK: u8 = tcp_flags::ACK;
    const FIN: u8 = tcp_flags::FIN;
    const RST: u8 = tcp_flags::RST;

    fn segment(flags: u8, seq: u32, ack: u32) -> L4 {
        L4 { tcp_flags: flags, seq, ack, window: 1000, ..L4::new(Kind::Tcp, Ports::default()) }
    }

    /// Both sides after a handshake in which the client began at `u32::MAX - 1` and the server at 500.
    fn opened() -> (Sent, Sent, Word) {
        let client = Sent::default().after(&segment(SYN, u32::MAX - 1, 0), 0);
        let server = Sent::default().after(&segment(SYN | ACK, 500, u32::MAX), 0);
        (client.after(&segment(ACK, u32::MAX, 501), 0), server, Word::half(1).with(Word::REPLIED).established())
    }

    #[test]
    fn numbers_wrap_around() {
        let (client, server, _) = opened();
        assert_eq!((client.end, client.ack), (u32::MAX, 501));
        assert_eq!((server.end, server.ack), (501, u32::MAX));
        assert_eq!(client.after(&segment(ACK, u32::MAX, 501), 10).end, 9);
    }

    #[test]
    fn a_reset_is_believed_inside_the_window_alone() {
        let (client, server, word) = opened();
        let from_server = |seq| believed(word, &segment(RST, seq, 0), 0, &server, &client) & RST != 0;
        for (seq, expected) in [(501, true), (1501, true), (500, false), (1502, false), (1 << 31, false)] {
            assert_eq!(from_server(seq), expected, "{seq}");
        }
    }

    #[test]
    fn the_scale_of_a_syn_widens_the_windows_after_it_and_not_its_own() {
        let syn = L4 { scale: 2, ..segment(SYN, 0, 0) };
        let client = Sent::default().after(&syn, 0);
        assert_eq!(client.window_bytes(), 1000);
        assert_eq!(client.after(&segment(ACK, 1, 1), 0).window_bytes(), 4000);
        assert_eq!(Sent::default().after(&L4 { scale: 200, ..syn }, 0).scale, MAX_SCALE);
    }

    #[test]
    fn a_refusal_must_name_the_syn_that_it_refuses() {
        let client = Sent::default().after(&segment(SYN, 77, 0), 0);
        let refusal =
            |ack| believed(Word::half(1), &segment(RST | ACK, 0, ack), 0, &Sent::default(), &client) & RST != 0;
        assert!(refusal(78));
        assert!(!refusal(77) && !refusal(79));
    }

    #[test]
    fn a_fin_that_repeats_acknowledged_data_is_believed_and_one_beyond_the_window_is_not() {
        let (client, server, word) = opened();
        let fin_of =
            |flags, seq, ack, payload| believed(word, &segment(flags, seq, ack), payload, &server, &client) & FIN != 0;
        let fin = |seq, payload| fin_of(FIN | ACK, seq, u32::MAX, payload);
        assert!(!fin_of(FIN, 501, 0, 0), "no segment of an open connection is without ACK");
        assert!(!fin_of(FIN | ACK, 501, 1 << 30, 0), "it acknowledges what was never sent");
        assert!(fin(501, 0));
        assert!(fin(400, 200), "its end is new");
        assert!(!fin(1 << 30, 0));
        assert!(!fin(300, 100), "all of it is old");
    }

    #[test]
    fn a_handshake_is_completed_by_who_has_seen_the_syn_ack() {
        let client = Sent::default().after(&segment(SYN, 0, 0), 0);
        let server = Sent::default().after(&segment(SYN | ACK, 500, 1), 0);
        let word = Word::half(1).with(Word::REPLIED);
        let ack = |number| believed(word, &segment(ACK, 1, number), 0, &client, &server) & ACK != 0;
        assert!(ack(501));
        assert!(!ack(500) && !ack(502) && !ack(0));
        let silent = Sent::default();
        assert_eq!(believed(word, &segment(ACK, 1, 501), 0, &client, &silent) & ACK, 0, "a RST was all the answer");
    }

    #[test]
    fn a_connection_that_was_picked_up_is_confirmed_by_what_was_lately_sent() {
        let server = Sent::default().after(&segment(ACK, 10_000, 1), 1000);
        let client = Sent::default().after(&segment(ACK, 1, 9000), 0);
        let word = Word::half(1).with(Word::REPLIED);
        let ack = |number| believed(word, &segment(ACK, 1, number), 0, &client, &server) & ACK != 0;
        assert!(ack(11_000) && ack(10_000));
        assert!(!ack(11_001));
    }
}
