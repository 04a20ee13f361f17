//! Messages as bytes: reading a question, writing an answer, and telling whether an answer fits.

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// Longest answer over UDP that we make ourselves, and what we say that we take: it fits in a packet of IPv6 anywhere.
const UDP_PAYLOAD: u16 = 1232;

/// What everybody takes (RFC 1035, 4.2.1).
const MINIMUM: u16 = 512;

/// Bytes of the smallest answer to AAAA; that to A is smaller.
const RECORD: usize = 28;

/// Number of the option of RFC 8914.
const EXTENDED_ERROR: u16 = 15;

/// How long a stub may keep an answer, in seconds. A container is replaced by one with another address at any time, and
/// asking again costs some microseconds; nothing at all would make those who renew by it spin.
pub(super) const TTL: u32 = 1;

/// How a message is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query with one question.
pub(super) struct Asked<'a> {
    bytes: &'a [u8],
    header: Header,
    /// What is asked.
    pub(super) question: Query,
}

/// Why a message is no query that we look into.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Nobody waits for an answer: an answer itself, or too short to have an identifier.
    Silent,
    /// This is to be sent back.
    Answer(Vec<u8>),
}

/// Why we answer what we do, for who reads it (RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    code: u16,
    text: &'static str,
}

impl Reason {
    /// Blocked.
    pub(super) const INTERNAL: Self = Self { code: 15, text: "the networks of this container are internal" };
    /// No reachable authority.
    pub(super) const UPSTREAM: Self = Self { code: 22, text: "no upstream server of netbpf answered" };
    /// Other.
    pub(super) const LIMIT: Self = Self { code: 0, text: "too many queries in flight in netbpf" };
}

impl<'a> Asked<'a> {
    /// Reads no more than the question: what follows is for the upstream server to understand.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| Unreadable::Silent)?;
        if header.message_type == MessageType::Response {
            return Err(Unreadable::Silent);
        }
        let refuse = |code| {
            let mut answer = Message::new(header.id, MessageType::Response, header.op_code);
            answer.metadata = Metadata::response_from_request(&header);
            answer.metadata.response_code = code;
            Unreadable::Answer(answer.to_vec().unwrap_or_default())
        };
        if header.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        if header.counts.queries != 1 {
            return Err(refuse(ResponseCode::FormErr));
        }
        let question = Query::read(&mut decoder).map_err(|_| refuse(ResponseCode::FormErr))?;
        Ok(Self { bytes, header, question })
    }

    /// An answer of our own. Records are left out at the end, and that is told, when they do not all fit.
    pub(super) fn answer(
        &self,
        transport: Transport,
        code: ResponseCode,
        data: impl IntoIterator<Item = RData>,
        reason: Option<Reason>,
    ) -> Vec<u8> {
        let mut answer = Message::new(self.header.id, MessageType::Response, OpCode::Query);
        answer.metadata = Metadata::response_from_request(&self.header);
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.add_query(self.question.clone());
        let mut longest = MINIMUM;
        match Message::from_vec(self.bytes) {
            Err(_) if code == ResponseCode::ServFail => {}
            Err(_) => answer.metadata.response_code = ResponseCode::FormErr,
            Ok(whole) => {
                let mut data = Some(data);
                if let Some(theirs) = whole.edns {
                    longest = theirs.max_payload().clamp(MINIMUM, UDP_PAYLOAD);
                    answer.set_edns(edns(&theirs, reason));
                    if theirs.version() != 0 {
                        answer.metadata.response_code = ResponseCode::BADVERS;
                        data = None;
                    }
                }
                let name = &self.question.name;
                let record = |data| Record::from_rdata(Name::clone(name), TTL, data);
                answer.add_answers(data.into_iter().flatten().map(record));
            }
        }
        let is_ours = matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        answer.metadata.authoritative = is_ours && reason.is_none();
        fit(answer, usize::from(if transport == Transport::Udp { longest } else { u16::MAX }))
    }
}

fn edns(theirs: &Edns, reason: Option<Reason>) -> Edns {
    let mut ours = Edns::new();
    ours.set_max_payload(UDP_PAYLOAD);
    // RFC 3225, 3: it is copied.
    ours.set_dnssec_ok(theirs.flags().dnssec_ok);
    if let Some(reason) = reason {
        let text = [&reason.code.to_be_bytes()[..], reason.text.as_bytes()].concat();
        ours.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, text));
    }
    ours
}

fn fit(mut answer: Message, longest: usize) -> Vec<u8> {
    loop {
        let bytes = answer.to_vec().unwrap_or_default();
        let excess = bytes.len().saturating_sub(longest);
        if excess == 0 || answer.answers.is_empty() {
            return bytes;
        }
        let fewer = answer.answers.len().saturating_sub(excess.div_ceil(RECORD));
        answer.answers.truncate(fewer);
        answer.metadata.truncation = true;
    }
}

/// The identifier of a message that has a header.
pub(super) fn id(message: &[u8]) -> [u8; 2] {
    [message[0], message[1]]
}

/// Gives it another.
pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    message[..2].copy_from_slice(&id);
}

/// What a server says about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An answer, for better or worse.
    Final,
    /// This server cannot, another may.
    Failed,
}

/// Whether a message answers a query, and how. `None` when it belongs to another query, or is forged.
pub(super) fn verdict(query: &[u8], answer: &[u8]) -> Option<Verdict> {
    let read = |bytes| {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        let question = (header.counts.queries == 1).then(|| Query::read(&mut decoder).ok());
        Some((header, question))
    };
    let (asked, question) = read(query)?;
    let (header, same) = read(answer)?;
    let is_failure = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp]
        .iter()
        .any(|code| code.low() == header.response_code.low());
    if header.id != asked.id || header.message_type != MessageType::Response || header.op_code != asked.op_code {
        return None;
    }
    // Some servers leave out what they refuse to look into.
    let is_bare = header.counts.queries == 0 && (is_failure || header.response_code == ResponseCode::FormErr);
    let is_same = question.flatten().is_some_and(|question| same.flatten().as_ref() == Some(&question));
    (is_same || is_bare).then_some(if is_failure { Verdict::Failed } else { Verdict::Final })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::opt::EdnsCode;
    use hickory_proto::rr::rdata::{A, AAAA};

    use super::*;

    fn query(edns: Option<Edns>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_labels([&b"wEb"[..]]).unwrap(), RecordType::A));
        message.edns = edns;
        message.to_vec().unwrap()
    }

    fn payload(bytes: u16) -> Option<Edns> {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        Some(edns)
    }

    fn answer(query: &[u8], transport: Transport, data: Vec<RData>) -> (usize, Message) {
        let bytes = Asked::read(query).ok().unwrap().answer(transport, ResponseCode::NoError, data, None);
        (bytes.len(), Message::from_vec(&bytes).unwrap())
    }

    #[test]
    fn as_many_records_are_sent_as_fit_and_it_is_told_when_that_is_not_all() {
        let v4 = |count: u32| (0..count).map(|n| RData::A(A(Ipv4Addr::from_bits(n)))).collect::<Vec<_>>();
        let v6 = |count: u128| (0..count).map(|n| RData::AAAA(AAAA(Ipv6Addr::from_bits(n)))).collect::<Vec<_>>();
        // A record is 16 bytes of A and 28 of AAAA; header and question are 21, and an OPT record 11.
        let rows = [
            (None, Transport::Udp, v4(30), 30, false),
            (None, Transport::Udp, v4(31), 30, true),
            (None, Transport::Udp, v6(18), 17, true),
            (payload(100), Transport::Udp, v4(31), 30, true),
            (payload(1232), Transport::Udp, v4(75), 75, false),
            (payload(65_535), Transport::Udp, v4(1000), 75, true),
            (None, Transport::Tcp, v4(1000), 1000, false),
        ];
        for (edns, transport, data, expected, truncated) in rows {
            let what = format!("{} for {edns:?} over {transport:?}", data.len());
            let (length, answer) = answer(&query(edns), transport, data);
            assert_eq!((answer.answers.len(), answer.truncation), (expected, truncated), "{what}: {length} bytes");
        }
        let (length, whole) = answer(&query(None), Transport::Tcp, v4(5000));
        assert!(whole.truncation && length <= usize::from(u16::MAX));
    }

    #[test]
    fn an_answer_repeats_what_was_asked_and_speaks_edns_to_who_does() {
        let (_, plain) = answer(&query(None), Transport::Udp, Vec::new());
        assert!(plain.edns.is_none());
        assert!(plain.recursion_desired && plain.recursion_available && plain.authoritative);
        assert_eq!(plain.queries[0].name.to_ascii(), "wEb.", "a stub may have chosen the case to know its answer");

        let mut theirs = Edns::new();
        theirs.set_dnssec_ok(true);
        let asked = query(Some(theirs.clone()));
        let (_, answered) = answer(&asked, Transport::Udp, Vec::new());
        assert!(answered.edns.unwrap().flags().dnssec_ok);
        let bytes = Asked::read(&asked).ok().unwrap().answer(
            Transport::Udp,
            ResponseCode::NXDomain,
            [],
            Some(Reason::INTERNAL),
        );
        let refused = Message::from_vec(&bytes).unwrap();
        assert!(!refused.authoritative);
        assert!(refused.edns.unwrap().option(EdnsCode::Unknown(EXTENDED_ERROR)).is_some());

        theirs.set_version(1);
        let (_, newer) = answer(&query(Some(theirs)), Transport::Udp, vec![RData::A(A(Ipv4Addr::LOCALHOST))]);
        assert_eq!((u16::from(newer.response_code), newer.answers.len()), (16, 0), "BADVERS");
    }

    #[test]
    fn an_answer_fits_its_query_or_is_none() {
        let asked = query(None);
        let reply = |change: &dyn Fn(&mut Message)| {
            let mut message = Message::from_vec(&asked).unwrap().into_response();
            change(&mut message);
            verdict(&asked, &message.to_vec().unwrap())
        };
        let with = |code| reply(&|message| message.metadata.response_code = code);
        assert_eq!(with(ResponseCode::NoError), Some(Verdict::Final));
        assert_eq!(with(ResponseCode::NXDomain), Some(Verdict::Final));
        assert_eq!(with(ResponseCode::FormErr), Some(Verdict::Final), "the asker may ask without EDNS");
        for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
            assert_eq!(with(code), Some(Verdict::Failed));
        }
        assert_eq!(reply(&|message| message.metadata.id = 8), None);
        assert_eq!(reply(&|message| message.metadata.message_type = MessageType::Query), None);
        assert_eq!(reply(&|message| message.metadata.op_code = OpCode::Notify), None);
        assert_eq!(reply(&|message| message.queries[0].query_type = RecordType::AAAA), None);
        assert_eq!(reply(&|message| message.queries[0].name = Name::from_labels(["other"]).unwrap()), None);
        let lower = |message: &mut Message| message.queries[0].name = Name::from_labels(["web"]).unwrap();
        assert_eq!(reply(&lower), Some(Verdict::Final), "some servers write it small");
        let bare = |code| {
            reply(&|message: &mut Message| {
                message.queries.clear();
                message.metadata.response_code = code;
            })
        };
        assert_eq!(bare(ResponseCode::Refused), Some(Verdict::Failed));
        assert_eq!(bare(ResponseCode::NoError), None);
        assert_eq!(verdict(&asked, &asked[..11]), None);
    }
}
