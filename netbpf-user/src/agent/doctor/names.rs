//! Whether a container that asks for a name is answered: whatever is in the way, this is where it shows.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::subject::Subject;
use crate::agent::state::State;
use crate::api::types::Finding;
use crate::error::{Context as _, Result};
use crate::net::namespace::Namespace;

const CHECK: &str = "names";

/// Where containers ask.
const PORT: u16 = 53;

/// How long an answer may take: it is the agent's own.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the question is asked: a datagram may be lost.
const TRIES: u32 = 2;

/// The one container that is asked, and whom it asks.
pub(super) struct Asker {
    name: String,
    namespace: Namespace,
    gateway: IpAddr,
}

impl Asker {
    /// The first that there is.
    pub(super) fn choose(state: &State) -> Option<Self> {
        state.endpoints().find_map(|(record, endpoint)| {
            let network = state.networks.of(endpoint);
            if !network.is_ours() || endpoint.is_tap {
                return None;
            }
            let address = endpoint.addresses().next()?;
            let gateway = network.record.addressing.of_family(address)?.gateway;
            let namespace = Namespace::open(record.netns()).ok()?;
            Some(Self { name: record.name.clone(), namespace, gateway })
        })
    }
}

/// Lets a container ask for its own name.
pub(super) async fn look(subject: &Subject, asker: Option<Asker>) -> Finding {
    if subject.dns_port.is_none() {
        return Finding::well(CHECK, "the resolver of containers is switched off");
    }
    let Some(Asker { name, namespace, gateway }) = asker else {
        return Finding::well(CHECK, "not looked at: there is no container to ask");
    };
    let question = question(&name);
    let begin = Instant::now();
    let asked = namespace.run(move || ask(gateway, &question)).await;
    judge(&name, gateway, asked.map_err(|error| error.to_string()), begin.elapsed())
}

fn ask(gateway: IpAddr, question: &[u8]) -> Result<bool> {
    let what = || format!("ask {gateway}");
    let any: IpAddr = if gateway.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).context(what)?;
    socket.connect(SocketAddr::new(gateway, PORT)).context(what)?;
    socket.set_read_timeout(Some(PATIENCE)).context(what)?;
    for _ in 0..TRIES {
        let mut answer = [0; 512];
        let sent = socket.send(question);
        if sent.is_ok() && socket.recv(&mut answer).is_ok_and(|length| length >= 2) && answer[..2] == question[..2] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A question for addresses of a name (RFC 1035 section 4.1).
fn question(name: &str) -> Vec<u8> {
    let id: [u8; 2] = rand::random();
    let mut question = id.to_vec();
    // One question, recursion desired.
    question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').map(str::as_bytes).filter(|label| !label.is_empty()) {
        let label = &label[..label.len().min(63)];
        question.push(label.len() as u8);
        question.extend(label);
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}

fn judge(name: &str, gateway: IpAddr, asked: std::result::Result<bool, String>, took: Duration) -> Finding {
    match asked {
        Ok(true) => {
            Finding::well(CHECK, format!("container {name} is answered by {gateway} in {} ms", took.as_millis()))
        }
        Ok(false) => Finding::amiss(
            CHECK,
            format!("container {name} asks {gateway} for its own name and gets no answer"),
            "something of the host drops what comes in by netbpf0: see `firewall` and `routes` here, rules of iptables-legacy, and \
             `netbpf status`",
        ),
        Err(why) => Finding::well(CHECK, format!("not looked at: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_of_dns() {
        let question = question("web.example");
        assert_eq!(question[2..], *b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07example\x00\x00\x01\x00\x01");
    }

    #[test]
    fn silence_is_a_finding() {
        let gateway = [172, 30, 0, 1].into();
        assert!(judge("web", gateway, Ok(true), PATIENCE).ok);
        let silent = judge("web", gateway, Ok(false), PATIENCE);
        assert!(!silent.ok && silent.advice.contains("firewall"));
        assert!(judge("web", gateway, Err("it is gone".into()), PATIENCE).found.contains("not looked at"));
    }
}
