//! A sequence of frames at any hooks of one world: any bytes, and frames that were right before they were
//! damaged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netbpf_common::abi::{ConfigFlags, NetworkFlags, generation};
use netbpf_common::path::HostSocket;
use netbpf_common::wire::protocol;

use super::tape::{Tape, choice};
use super::{CAPACITIES, MODES, RINGS, Story, begun, steps};
use crate::damage::Damage;
use crate::family::TestFamily;
use crate::fixture::{self, Hook};
use crate::frame::Frame;
use crate::gateway;
use crate::headers::{Headers, leave_checksum_to_device};
use crate::in_family;
use crate::instance::{PORTS, SECONDS, SERVICES, SPEECHES, addresses, senders};
use crate::journey::{Arrival, Speech, Tuple, collect, frame_on, link_on};
use crate::memory::Memory;
use crate::packet::IcmpError;
use crate::survival::{forgets, survives};
use crate::talk::{at, egress};
use crate::world::{C1, C2, C3, ETHERNET};

/// More would be slow and show nothing new.
const LONGEST: usize = 64;
/// Where frames set out.
const HOOKS: [Hook; 6] = [Hook::Uplink, egress(C1), egress(C2), egress(C3), Hook::Host, Hook::Forwarded];
/// Times to live that matter.
const TTLS: [u8; 4] = [64, 1, 2, 0];
/// Protocols that are no speech.
const PROTOCOLS: [u8; 8] =
    [protocol::SCTP, protocol::ICMP, protocol::TCP, protocol::UDP, protocol::DCCP, protocol::UDP_LITE, 47, 50];
/// Epochs, and rules of publishes.
const GENERATIONS: [u32; 6] = [
    generation::ROUTE_EPOCH,
    generation::PUBLISH_EPOCH,
    generation::FIRST_RULE + 1,
    generation::FIRST_RULE + 2,
    generation::FIRST_RULE + 3,
    generation::FIRST_RULE + 4,
];
/// What networks are made with beside masquerading.
const WISHES: [u32; 4] =
    [0, NetworkFlags::CLAMP_MSS, NetworkFlags::FULL_CONE, NetworkFlags::CLAMP_MSS | NetworkFlags::FULL_CONE];
/// The bit of the same byte that leaves C1 with IPv4 alone.
const WITHOUT_IPV6: u8 = 0x10;
/// What chooses an error about what has arrived; less chooses one of the others, as often as each other.
const ERROR: u8 = 0xe0;
/// What errors say.
const ERRORS: [IcmpError; 6] = [
    IcmpError::PORT_UNREACHABLE,
    IcmpError::HOST_UNREACHABLE,
    IcmpError::PROHIBITED,
    IcmpError::TIME_EXCEEDED,
    IcmpError::fragmentation_needed(1400),
    IcmpError::PARAMETER_PROBLEM,
];
/// What chooses bytes as they are.
const RAW: u8 = 0;
/// How a frame is on its device when nothing is special about it.
const ORDINARY: u8 = 0;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A frame meets a path.
    Frame(Hook, Frame),
    /// Seconds pass.
    Sleep(u64),
    /// The collector looks at all flows.
    Collect,
    /// A process of the host has a socket for such packets from outside.
    Bind(Tuple, HostSocket),
    /// Something that flows rest on is not as it was.
    Change(u32),
}

/// The target.
///
/// # Panics
/// When a frame upsets a path.
pub fn run(bytes: &[u8]) {
    let tape = Tape::new(bytes);
    in_family!(tape.family(), F => play::<F>(tape));
}

fn play<F: TestFamily>(mut tape: Tape<'_>) {
    let mut memory = Memory::new(tape.choose(&RINGS));
    memory.capacity = tape.choose(&CAPACITIES);
    let byte = tape.byte();
    let wishes = WISHES[usize::from(byte) % WISHES.len()];
    gateway::change(&mut memory, MODES[usize::from(byte >> 2) % MODES.len()]);
    if byte & WITHOUT_IPV6 != 0 {
        memory.take_ipv6(C1);
    }
    for network in memory.networks.values_mut() {
        network.flags |= wishes;
    }
    if wishes & NetworkFlags::FULL_CONE != 0 {
        memory.config.flags |= ConfigFlags::MAPPINGS;
    }
    let mut arrivals = Vec::new();
    let mut story = Story(Vec::new());
    for _ in 0..LONGEST {
        if tape.is_over() {
            break;
        }
        let event = event::<F>(&mut tape, &arrivals);
        story.0.push(event.clone());
        match event {
            Event::Frame(hook, frame) => {
                let arrival = survives(&memory, hook, frame);
                arrivals.extend(arrival.way_back().is_some().then_some(arrival));
            }
            Event::Sleep(seconds) => memory.sleep(seconds),
            Event::Collect => {
                collect(&memory);
            }
            Event::Bind(tuple, socket) => memory.bind(&tuple, socket),
            Event::Change(generation) => memory.bump(generation),
        }
    }
    forgets(&memory);
}

/// The packets of each fixture, one after the other.
pub fn seeds() -> Vec<Vec<u8>> {
    let raw = |mut seed: Vec<u8>, step: &fixture::Step| {
        seed.extend([RAW, choice(&HOOKS, &step.hook).expect("one of the hooks"), ORDINARY]);
        seed.extend((step.input.len() as u16).to_be_bytes());
        seed.extend(&step.input);
        seed
    };
    // A long one is cut up: libFuzzer likes its inputs short.
    let seed = |steps: &[fixture::Step]| {
        let family = Headers::read(&steps[0].input).map_or(Ipv4Addr::UNSPECIFIED.into(), |headers| headers.source);
        steps.iter().fold([&begun(family)[..], &[0]].concat(), raw)
    };
    fixture::all().iter().flat_map(|f| f.steps.chunks(8)).map(seed).collect()
}

fn event<F: TestFamily>(tape: &mut Tape<'_>, arrivals: &[Arrival]) -> Event {
    let kind = tape.byte();
    let (hook, frame) = match kind % 14 {
        _ if kind >= ERROR => match error(tape, arrivals) {
            Some(error) => error,
            None => return Event::Collect,
        },
        RAW..4 => raw(tape),
        4 => {
            let step = &steps()[usize::from(tape.word()) % steps().len()];
            (step.hook, damaged(tape, step.hook, step.input.clone(), false))
        }
        5 | 6 => {
            let (hook, source) = tape.choose(&senders::<F>());
            let (from, to) = (at(source, tape.port(&PORTS)), at(tape.choose(&addresses::<F>()), tape.port(&SERVICES)));
            (hook, built(tape, hook, from, to))
        }
        7..10 => match arrived(tape, arrivals).and_then(|a| a.way_back().zip(Tuple::read(&a.bytes))) {
            Some((hook, seen)) => (hook, built(tape, hook, seen.to, seen.from)),
            None => return Event::Collect,
        },
        10 => return Event::Sleep(tape.choose(&SECONDS)),
        11 => {
            let (speech, from) = (tape.choose(&[Speech::ACK, Speech::Udp]), at(F::OUTSIDE, tape.port(&PORTS)));
            let tuple = Tuple::new(speech, from, at(F::HOST, tape.port(&SERVICES)));
            return Event::Bind(tuple, tape.choose(&[HostSocket::Connected, HostSocket::Listening]));
        }
        12 => return Event::Change(tape.choose(&GENERATIONS)),
        _ => return Event::Collect,
    };
    Event::Frame(hook, frame)
}

/// One of the packets that have arrived, the last first.
fn arrived<'a>(tape: &mut Tape<'_>, arrivals: &'a [Arrival]) -> Option<&'a Arrival> {
    let back = usize::from(tape.byte());
    arrivals.iter().rev().cycle().nth(back)
}

/// What its receiver, or a router on the way to it, says of a packet that has arrived.
fn error(tape: &mut Tape<'_>, arrivals: &[Arrival]) -> Option<(Hook, Frame)> {
    let arrival = arrived(tape, arrivals)?;
    let (hook, headers) = arrival.way_back().zip(Headers::read(&arrival.bytes))?;
    let (what, is_routers, quoted) = (tape.choose(&ERRORS), tape.byte() & 1 != 0, usize::from(tape.byte()));
    let router = in_family!(headers.source, F => F::OUTSIDE);
    let sayer = if is_routers { router } else { headers.destination };
    let end = headers.transport.end.min(headers.transport.start + quoted);
    let quote = &arrival.bytes[ETHERNET..end.min(arrival.bytes.len())];
    let bytes = link_on(hook).icmp_error(sayer, headers.source, TTLS[0], what, quote);
    Some((hook, damaged(tape, hook, bytes, false)))
}

/// Bytes as they are on the tape.
fn raw(tape: &mut Tape<'_>) -> (Hook, Frame) {
    let hook = tape.choose(&HOOKS);
    let manner = tape.byte();
    let len = usize::from(tape.word()) % 2048;
    (hook, on_device(hook, manner, tape.bytes(len).to_vec()))
}

/// A frame that was right before it was damaged.
fn built(tape: &mut Tape<'_>, hook: Hook, from: SocketAddr, to: SocketAddr) -> Frame {
    let link = link_on(hook);
    let payload = vec![0x5a; usize::from(tape.byte()) * 6];
    let kind = usize::from(tape.byte()) % (SPEECHES.len() + 3);
    let speech = SPEECHES.get(kind);
    let bytes = match (speech, kind - kind.min(SPEECHES.len())) {
        (Some(speech), _) => speech.frame(link, from, to, tape.choose(&TTLS), &payload),
        (None, 0) => link.fragment(from.ip(), to.ip(), &payload),
        (None, 1) => link.protocol(tape.choose(&PROTOCOLS), from.ip(), to.ip(), &payload),
        (None, _) => match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => link.arp_request(from, to),
            (from, to) => link.protocol(tape.choose(&PROTOCOLS), from, to, &payload),
        },
    };
    damaged(tape, hook, bytes, matches!(speech, Some(Speech::Tcp(_) | Speech::Udp)))
}

/// A frame with damage. Without any, its checksum may be left to the device, where one does that: what is
/// finished blindly is right only if it was whole.
fn damaged(tape: &mut Tape<'_>, hook: Hook, bytes: Vec<u8>, is_checksummed: bool) -> Frame {
    let manner = tape.byte();
    let damage = damage(tape);
    let is_partial = is_checksummed && manner & 0x80 != 0 && damage == Damage::default();
    let mut frame = on_device(hook, manner, damage.done_to(bytes));
    if is_partial {
        leave_checksum_to_device(&mut frame.bytes);
        frame.partial_checksum = true;
    }
    frame
}

fn damage(tape: &mut Tape<'_>) -> Damage {
    let how = tape.byte();
    let bytes = (0..how & 3).map(|_| (tape.word(), tape.byte())).collect();
    Damage {
        bytes,
        cut: (how & 0x70 == 0x10).then(|| tape.word()),
        padding: if how & 0x70 == 0x20 { tape.byte() } else { 0 },
        is_covered_up: how & 0x80 != 0,
    }
}

/// A frame as a hook finds it, with what the kernel keeps beside it.
fn on_device(hook: Hook, manner: u8, bytes: Vec<u8>) -> Frame {
    let tagged = manner & 0x7f == 1;
    let gso_size = if manner & 0x7f == 2 { 536 } else { 0 };
    Frame { tagged, gso_size, ..frame_on(hook, bytes) }
}

#[cfg(test)]
mod tests {
    use netbpf_common::path::Verdict;

    use super::*;

    #[test]
    fn a_seed_plays_its_fixture() {
        let mut seeds = seeds().into_iter();
        for fixture in fixture::all() {
            let memory = Memory::new(RINGS[2]);
            for steps in fixture.steps.chunks(8) {
                let seed = seeds.next().expect("a seed for each chunk");
                let mut tape = Tape::new(&seed[3..]);
                for step in steps {
                    tape.byte();
                    let (hook, frame) = raw(&mut tape);
                    assert_eq!((hook, &frame.bytes), (step.hook, &step.input));
                    let arrival = survives(&memory, hook, frame);
                    // Of an echo reply from outside the fixture has what the host gets, the arrival the copy.
                    if !matches!(step.verdict, Verdict::Pass | Verdict::Drop(_)) {
                        assert_eq!((arrival.verdict, &arrival.bytes), (step.verdict, &step.output), "{}", step.says);
                    }
                }
                assert!(tape.is_over());
            }
        }
        assert_eq!(seeds.next(), None);
    }
}
