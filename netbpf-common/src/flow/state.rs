//! What a packet does to the state of its flow.

use crate::abi::{Life, Timeout, Word};
use crate::wire::{Kind, L4, protocol, tcp_flags};

/// Which half of a flow a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From who began.
    Original,
    /// From who answers.
    Reply,
}

impl Direction {
    /// Of the packets that find an entry.
    #[inline(always)]
    pub const fn of(is_reply: u8) -> Self {
        if is_reply == 0 { Self::Original } else { Self::Reply }
    }
}

/// The state of a flow, as its word and its protocol tell it. Of TCP in the words of RFC 9293 section 3.3.2, as far as
/// somebody in between can tell: nf_conntrack has the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// TCP: opened, no answer yet.
    SynSent,
    /// TCP: answered, the handshake not complete.
    SynRecv,
    /// Confirmed: for TCP the handshake is complete, else the originator spoke again after a reply.
    Established,
    /// TCP: one side has closed; the other may go on for as long as it likes.
    FinWait,
    /// TCP: both sides have closed, the last FIN is not acknowledged.
    Closing,
    /// TCP: closed, and waiting for what is still under way.
    TimeWait,
    /// TCP: reset.
    Reset,
    /// No answer yet.
    Unreplied,
    /// One answer.
    Replied,
    /// No flow but an endpoint-independent mapping.
    Mapping,
    /// To be deleted.
    Dead,
}

impl State {
    /// Of a flow of this protocol.
    #[inline(always)]
    pub fn of(proto: u8, word: Word) -> Self {
        const BOTH: u64 = Word::FIN_ORIGINAL | Word::FIN_REPLY;
        match word.life() {
            Life::None | Life::Dead => Self::Dead,
            _ if word.has(Word::MAPPING) => Self::Mapping,
            _ if word.has(Word::RESET) => Self::Reset,
            _ if word.has(Word::TIME_WAIT) => Self::TimeWait,
            _ if word.0 & BOTH == BOTH => Self::Closing,
            _ if word.has(BOTH) => Self::FinWait,
            Life::Established => Self::Established,
            Life::Half => match (proto == protocol::TCP, word.has(Word::REPLIED)) {
                (true, false) => Self::SynSent,
                (true, true) => Self::SynRecv,
                (false, false) => Self::Unreplied,
                (false, true) => Self::Replied,
            },
        }
    }

    /// The name in listings and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynRecv => "syn-recv",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::Closing => "closing",
            Self::TimeWait => "time-wait",
            Self::Reset => "reset",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
            Self::Mapping => "mapping",
            Self::Dead => "dead",
        }
    }

    /// The timeout that a flow of this protocol is under.
    #[inline(always)]
    pub const fn timeout(self, proto: u8) -> Timeout {
        match (self, proto) {
            (Self::Mapping, _) => Timeout::Mapping,
            (Self::SynRecv, _) => Timeout::TcpSynRecv,
            (Self::FinWait, _) => Timeout::TcpFinWait,
            (Self::Closing, _) => Timeout::TcpClosing,
            (Self::TimeWait, _) => Timeout::TcpTimeWait,
            (Self::Reset, _) => Timeout::TcpReset,
            (Self::Established, protocol::TCP) => Timeout::TcpEstablished,
            (_, protocol::TCP) => Timeout::TcpSynSent,
            (Self::Established, protocol::UDP) => Timeout::UdpReplied,
            (_, protocol::UDP) => Timeout::UdpUnreplied,
            (Self::Established, protocol::SCTP) => Timeout::SctpReplied,
            (_, protocol::SCTP) => Timeout::SctpUnreplied,
            (_, protocol::ICMP | protocol::ICMPV6) => Timeout::Icmp,
            _ => Timeout::Other,
        }
    }
}

/// The word of a flow after a packet; equal to `word` when the packet changes nothing, which is
/// the rule. `flags` are the control bits of a TCP segment as far as they are believed.
///
/// A flow is confirmed when the originator speaks again after the reply: for TCP the ACK that
/// completes the handshake, else any packet. A SYN-ACK, a RST or a single answer confirms nothing,
/// since a container answers every packet of a flood.
#[inline(always)]
pub fn advance(word: Word, direction: Direction, kind: Kind, flags: u8) -> Word {
    if matches!(kind, Kind::Error | Kind::Fragment) {
        // An error is about a flow and not part of it (RFC 5508 section 4.2); of a fragmented packet the first counts.
        return word;
    }
    let mut next = word;
    match direction {
        Direction::Original if word.life() == Life::Half && word.has(Word::REPLIED) && confirms(word, kind, flags) => {
            next = next.established();
        }
        Direction::Original => {}
        Direction::Reply => next = next.with(Word::REPLIED),
    }
    if kind == Kind::Tcp { close(next, direction, flags) } else { next }
}

/// What a segment does to the end of its connection.
#[inline(always)]
fn close(word: Word, direction: Direction, flags: u8) -> Word {
    const BOTH: u64 = Word::FIN_ORIGINAL | Word::FIN_REPLY;
    if flags & tcp_flags::RST != 0 {
        return word.with(Word::RESET);
    }
    let mut next = word;
    if flags & (tcp_flags::ACK | tcp_flags::SYN) == tcp_flags::ACK {
        // Who goes on has not taken the RST (RFC 5961 section 3.2), or answers it.
        next = next.without(Word::RESET);
    }
    if flags & tcp_flags::FIN != 0 {
        next.with(match direction {
            Direction::Original => Word::FIN_ORIGINAL,
            Direction::Reply => Word::FIN_REPLY,
        })
    } else if word.0 & BOTH == BOTH && flags & (tcp_flags::ACK | tcp_flags::SYN) == tcp_flags::ACK {
        next.with(Word::TIME_WAIT)
    } else {
        next
    }
}

#[inline(always)]
fn confirms(word: Word, kind: Kind, flags: u8) -> bool {
    const BITS: u8 = tcp_flags::ACK | tcp_flags::SYN | tcp_flags::RST;
    kind != Kind::Tcp || flags & BITS == tcp_flags::ACK && !word.has(Word::RESET)
}

/// Whether a packet of the originator opens a new connection on the key of one that is closing: a
/// client that uses its port again right after close (RFC 9293 section 3.6.1, RFC 6191). Never one of
/// the other side: whoever forges a RST and a SYN from there would take the port from a live flow.
#[inline(always)]
pub fn reopens(word: Word, l4: &L4) -> bool {
    word.has(Word::CLOSING) && l4.is_syn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ports;

    const SYN: u8 = tcp_flags::SYN;
    const ACK: u8 = tcp_flags::ACK;
    const FIN: u8 = tcp_flags::FIN;
    const RST: u8 = tcp_flags::RST;
    use Direction::{Original as O, Reply as R};

    /// The state after segments, each with who sends it.
    fn after(segments: &[(Direction, u8)]) -> State {
        let word = segments.iter().fold(Word::half(7), |word, (from, flags)| advance(word, *from, Kind::Tcp, *flags));
        State::of(protocol::TCP, word)
    }

    #[test]
    fn every_way_of_a_connection_leads_through_the_states_that_it_should() {
        let opened = [(O, SYN), (R, SYN | ACK), (O, ACK)];
        let both = [&opened[..], &[(O, FIN | ACK), (R, FIN | ACK)]].concat();
        for (name, state, segments) in [
            ("a SYN", State::SynSent, vec![(O, SYN)]),
            ("a SYN that is repeated", State::SynSent, vec![(O, SYN), (O, SYN)]),
            ("an ACK that nobody answers", State::SynSent, vec![(O, ACK), (O, ACK)]),
            ("a SYN-ACK", State::SynRecv, vec![(O, SYN), (R, SYN | ACK)]),
            ("a SYN after the SYN-ACK", State::SynRecv, vec![(O, SYN), (R, SYN | ACK), (O, SYN)]),
            ("a refusal", State::Reset, vec![(O, SYN), (R, RST | ACK)]),
            ("an ACK after a refusal", State::SynRecv, vec![(O, SYN), (R, RST | ACK), (O, ACK)]),
            ("a handshake", State::Established, opened.to_vec()),
            ("both open at once", State::SynRecv, vec![(O, SYN), (R, SYN), (O, SYN | ACK), (R, SYN | ACK)]),
            ("and speak", State::Established, vec![(O, SYN), (R, SYN), (O, SYN | ACK), (R, SYN | ACK), (O, ACK)]),
            ("the originator closes", State::FinWait, [&opened[..], &[(O, FIN | ACK)]].concat()),
            ("the other side closes", State::FinWait, [&opened[..], &[(R, FIN | ACK)]].concat()),
            ("half closed, data the other way", State::FinWait, [&opened[..], &[(O, FIN | ACK), (R, ACK)]].concat()),
            ("both close", State::Closing, both.clone()),
            ("a FIN that is repeated", State::Closing, [&both[..], &[(R, FIN | ACK)]].concat()),
            ("the last ACK", State::TimeWait, [&both[..], &[(O, ACK)]].concat()),
            ("a FIN in time-wait", State::TimeWait, [&both[..], &[(O, ACK), (R, FIN | ACK)]].concat()),
            ("a reset", State::Reset, [&opened[..], &[(R, RST)]].concat()),
            (
                "a reset that the other side did not take",
                State::Established,
                [&opened[..], &[(R, RST), (O, ACK)]].concat(),
            ),
            ("a SYN after a reset", State::Reset, [&opened[..], &[(R, RST), (O, SYN)]].concat()),
            ("a reset while closing", State::Reset, [&both[..], &[(O, RST)]].concat()),
        ] {
            assert_eq!(after(&segments), state, "{name}");
        }
    }

    #[test]
    fn neither_a_repeated_syn_nor_a_reset_confirms() {
        let replied = advance(Word::half(7), R, Kind::Tcp, RST | ACK);
        for flags in [SYN, RST, RST | ACK, SYN | ACK] {
            assert_eq!(advance(replied, O, Kind::Tcp, flags).life(), Life::Half);
        }
    }

    #[test]
    fn udp_is_confirmed_by_the_second_packet_of_the_asking_side() {
        let replied = advance(Word::half(7), R, Kind::Udp, 0);
        assert_eq!(replied.life(), Life::Half);
        assert_eq!(advance(replied, O, Kind::Udp, 0).life(), Life::Established);
    }

    #[test]
    fn errors_and_later_fragments_change_nothing() {
        for word in [Word::half(7), Word::half(7).with(Word::REPLIED), Word::half(7).established()] {
            for direction in [O, R] {
                for kind in [Kind::Error, Kind::Fragment] {
                    assert_eq!(advance(word, direction, kind, 0), word);
                }
            }
        }
    }

    #[test]
    fn an_established_flow_does_not_change_with_every_packet() {
        let word = Word::half(7).with(Word::REPLIED).established();
        assert_eq!(advance(word, O, Kind::Tcp, ACK), word);
        assert_eq!(advance(word, R, Kind::Tcp, ACK), word);
    }

    #[test]
    fn only_a_bare_syn_on_a_closing_flow_reopens() {
        let tcp = |flags| L4 { tcp_flags: flags, ..L4::new(Kind::Tcp, Ports::default()) };
        let closing = Word::half(7).with(Word::FIN_REPLY);
        assert!(reopens(closing, &tcp(SYN)));
        assert!(!reopens(closing, &tcp(SYN | ACK)));
        assert!(!reopens(closing, &tcp(ACK)));
        assert!(!reopens(Word::half(7), &tcp(SYN)));
    }
}
