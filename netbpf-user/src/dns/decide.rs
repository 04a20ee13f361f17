//! What becomes of a query: the answer, the way upstream, or nothing.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, RData, RecordType};

use super::counters::Count;
use super::index::{Asker, Index, Reverse};
use super::message::{Asked, Reason, Transport, Unreadable};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// No word to who sent it.
    Ignore(Count),
    /// Send this back.
    Answer(Count, Vec<u8>),
    /// Ask another server.
    Forward(Forward),
}

/// A query that is none of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forward {
    /// Who asks.
    pub(super) container: Arc<str>,
    /// The servers of its own; the host's when empty.
    pub(super) upstreams: Vec<IpAddr>,
}

/// Decides on what has come from `source` to a gateway.
pub(super) fn decide(index: &Index, gateway: IpAddr, source: IpAddr, query: &[u8], transport: Transport) -> Decision {
    let Some(asker) = index.asker(gateway, source) else { return Decision::Ignore(Count::Strangers) };
    let asked = match Asked::read(query) {
        Ok(asked) => asked,
        Err(Unreadable::Silent) => return Decision::Ignore(Count::Malformed),
        Err(Unreadable::Answer(answer)) => return Decision::Answer(Count::Malformed, answer),
    };
    let answer = |code, data: Vec<RData>, reason| asked.answer(transport, code, data, reason);
    match known(&asker, &asked) {
        Known::Data(data) => Decision::Answer(Count::Answered, answer(ResponseCode::NoError, data, None)),
        Known::Nothing => Decision::Answer(Count::Answered, answer(ResponseCode::NXDomain, Vec::new(), None)),
        // A zone is many messages, and nobody's to copy here.
        Known::Unknown if matches!(asked.question.query_type, RecordType::AXFR | RecordType::IXFR) => {
            Decision::Answer(Count::Malformed, answer(ResponseCode::NotImp, Vec::new(), None))
        }
        // Not REFUSED: musl does not take it for an answer and waits five seconds; and not SERVFAIL: all ask again.
        Known::Unknown if !asker.may_forward() => {
            let refusal = answer(ResponseCode::NXDomain, Vec::new(), Some(Reason::INTERNAL));
            Decision::Answer(Count::KeptInside, refusal)
        }
        Known::Unknown => {
            Decision::Forward(Forward { container: asker.container().clone(), upstreams: asker.upstreams().to_vec() })
        }
    }
}

/// The answer to a query that could not be forwarded after all.
pub(super) fn failure(query: &[u8], transport: Transport, reason: Reason) -> Option<Vec<u8>> {
    let asked = Asked::read(query).ok()?;
    Some(asked.answer(transport, ResponseCode::ServFail, Vec::new(), Some(reason)))
}

/// What we know of a name.
enum Known {
    /// It exists, and has these of the type; none is an answer too.
    Data(Vec<RData>),
    /// It is ours to say that it does not exist.
    Nothing,
    /// It is not ours.
    Unknown,
}

fn known(asker: &Asker<'_>, asked: &Asked<'_>) -> Known {
    let (name, kind) = (&asked.question.name, asked.question.query_type);
    if asked.question.query_class != DNSClass::IN {
        return Known::Unknown;
    }
    if let Ok(net) = name.parse_arpa_name()
        && net.prefix_len() == net.max_prefix_len()
    {
        let wants = matches!(kind, RecordType::PTR | RecordType::ANY);
        return match asker.reverse(net.addr()) {
            Reverse::Held(name) if wants => Known::Data(vec![RData::PTR(PTR(name))]),
            Reverse::Held(_) | Reverse::Nameless => Known::Data(Vec::new()),
            Reverse::Free => Known::Nothing,
            Reverse::Foreign => Known::Unknown,
        };
    }
    // A family that is not asked for takes no turn.
    let v4 = || asker.v4(name).map(|all| all.into_iter().map(|address| RData::A(A(address))).collect::<Vec<_>>());
    let v6 = || asker.v6(name).map(|all| all.into_iter().map(|address| RData::AAAA(AAAA(address))).collect::<Vec<_>>());
    let data = match kind {
        RecordType::A => v4(),
        RecordType::AAAA => v6(),
        RecordType::ANY => v4().map(|data| [data, v6().unwrap_or_default()].concat()),
        _ => asker.knows(name).then(Vec::new),
    };
    data.map_or(Known::Unknown, Known::Data)
}
