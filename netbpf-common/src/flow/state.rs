//! What a packet does to the state of its flow.

use crate::abi::{Life, Word};
use crate::wire::{Kind, L4, tcp_flags};

/// Which half of a flow a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From who began.
    Original,
    /// From who answers.
    Reply,
}

/// The word of a flow after a packet; equal to `word` when the packet changes nothing, which is
/// the rule.
///
/// A flow is confirmed when the originator speaks again after the reply: for TCP the ACK that
/// completes the handshake, else any packet. A SYN-ACK, a RST or a single answer confirms nothing,
/// since a container answers every packet of a flood.
#[inline(always)]
pub fn advance(word: Word, direction: Direction, l4: &L4) -> Word {
    let flags = l4.tcp_flags;
    let fin = flags & tcp_flags::FIN != 0;
    let mut next = word;
    match direction {
        Direction::Original => {
            if word.life() == Life::Half && word.has(Word::REPLIED) && confirms(l4, flags) {
                next = next.established();
            }
            if fin {
                next = next.with(Word::FIN_ORIGINAL);
            }
        }
        Direction::Reply => {
            next = next.with(Word::REPLIED);
            if fin {
                next = next.with(Word::FIN_REPLY);
            }
        }
    }
    if flags & tcp_flags::RST != 0 {
        next = next.with(Word::RESET);
    }
    next
}

#[inline(always)]
fn confirms(l4: &L4, flags: u8) -> bool {
    l4.kind != Kind::Tcp || flags & (tcp_flags::ACK | tcp_flags::SYN | tcp_flags::RST) == tcp_flags::ACK
}

/// Whether a packet of the originator opens a new connection on the key of one that is closing: a
/// client that uses its port again right after close (RFC 9293 section 3.6.1, RFC 6191). Never one of
/// the other side: whoever forges a RST and a SYN from there would take the port from a live flow.
#[inline(always)]
pub fn reopens(word: Word, l4: &L4) -> bool {
    let flags = l4.tcp_flags;
    word.has(Word::CLOSING) && flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ports;

    fn tcp(flags: u8) -> L4 {
        L4 { tcp_flags: flags, ..L4::new(Kind::Tcp, Ports::default()) }
    }

    const SYN: u8 = tcp_flags::SYN;
    const ACK: u8 = tcp_flags::ACK;

    #[test]
    fn a_handshake_confirms_with_its_third_packet() {
        let syn = advance(Word::half(7), Direction::Original, &tcp(SYN));
        assert_eq!(syn, Word::half(7));
        let syn_ack = advance(syn, Direction::Reply, &tcp(SYN | ACK));
        assert_eq!(syn_ack.life(), Life::Half);
        assert_eq!(advance(syn_ack, Direction::Original, &tcp(ACK)).life(), Life::Established);
    }

    #[test]
    fn neither_a_repeated_syn_nor_a_reset_confirms() {
        let replied = advance(Word::half(7), Direction::Reply, &tcp(tcp_flags::RST | ACK));
        for flags in [SYN, tcp_flags::RST, tcp_flags::RST | ACK, SYN | ACK] {
            assert_eq!(advance(replied, Direction::Original, &tcp(flags)).life(), Life::Half);
        }
    }

    #[test]
    fn udp_is_confirmed_by_the_second_packet_of_the_asking_side() {
        let udp = L4::new(Kind::Udp, Ports::default());
        let replied = advance(Word::half(7), Direction::Reply, &udp);
        assert_eq!(replied.life(), Life::Half);
        assert_eq!(advance(replied, Direction::Original, &udp).life(), Life::Established);
    }

    #[test]
    fn an_established_flow_does_not_change_with_every_packet() {
        let word = Word::half(7).with(Word::REPLIED).established();
        assert_eq!(advance(word, Direction::Original, &tcp(ACK)), word);
        assert_eq!(advance(word, Direction::Reply, &tcp(ACK)), word);
    }

    #[test]
    fn only_a_bare_syn_on_a_closing_flow_reopens() {
        let closing = Word::half(7).with(Word::FIN_REPLY);
        assert!(reopens(closing, &tcp(SYN)));
        assert!(!reopens(closing, &tcp(SYN | ACK)));
        assert!(!reopens(closing, &tcp(ACK)));
        assert!(!reopens(Word::half(7), &tcp(SYN)));
    }
}
