//! Well-formed packets of all sides, restarts, publishes, routes and time in any order: see
//! [`crate::instance`].

use super::tape::{Tape, choice, port};
use super::{CAPACITIES, MODES, RINGS, Story, begun, steps};
use crate::family::TestFamily;
use crate::fixture::Step;
use crate::in_family;
use crate::instance::{Happening, Instance, PORTS, SECONDS, SERVICES, SPEECHES, addresses, senders};
use crate::journey::{Speech, Tuple};
use crate::survival::forgets;
use crate::talk::at;
use crate::world::{CONTAINERS, PUBLISHES};

/// More would be slow and show nothing new.
const LONGEST: usize = 128;
/// What chooses the first kind of happening.
const SPEAK: u8 = 0;
/// What chooses the second.
const ANSWER: u8 = 4;

/// The target.
///
/// # Panics
/// When a flow is not whole, or leads to somebody it was not made for.
pub fn run(bytes: &[u8]) {
    let tape = Tape::new(bytes);
    in_family!(tape.family(), F => live::<F>(tape));
}

fn live<F: TestFamily>(mut tape: Tape<'_>) {
    let (ring, byte) = (tape.choose(&RINGS), tape.byte());
    let capacity = CAPACITIES[usize::from(byte) % CAPACITIES.len()];
    let mut instance = Instance::with_mode(ring, capacity, MODES[usize::from(byte >> 6)]);
    let mut story = Story(Vec::new());
    for _ in 0..LONGEST {
        if tape.is_over() {
            break;
        }
        let happening = happening::<F>(&mut tape);
        story.0.push(happening.clone());
        instance.happens(&happening);
    }
    forgets(&instance.memory);
}

fn happening<F: TestFamily>(tape: &mut Tape<'_>) -> Happening {
    match tape.byte() % 16 {
        SPEAK..ANSWER => {
            let (hook, source) = tape.choose(&senders::<F>());
            let (speech, from) = (tape.choose(&SPEECHES), at(source, tape.port(&PORTS)));
            Happening::Speak { hook, speech, from, to: at(tape.choose(&addresses::<F>()), tape.port(&SERVICES)) }
        }
        ANSWER..7 => Happening::Answer { arrival: tape.byte().into(), speech: tape.choose(&SPEECHES) },
        7 | 8 => Happening::Repeat { arrival: tape.byte().into(), speech: tape.choose(&SPEECHES) },
        9 => Happening::Remove(tape.choose(&CONTAINERS)),
        10 => Happening::Create(tape.choose(&CONTAINERS)),
        11 => Happening::Publish(tape.choose(&PUBLISHES), tape.choose(&CONTAINERS)),
        12 => Happening::Unpublish(tape.choose(&PUBLISHES)),
        13 => Happening::Renumber(tape.choose(&[F::HOST, F::ALSO_HOST])),
        14 => Happening::Sleep(tape.choose(&SECONDS)),
        _ => Happening::Collect,
    }
}

/// What each packet of the fixtures begins, when it is answered and goes on.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = steps()
        .iter()
        .filter_map(|step| {
            let tuple = Tuple::read(&step.input)?;
            let address = tuple.from.ip();
            let (speech, beginning) = in_family!(address, F => beginning::<F>(step, &tuple))?;
            let chosen = |speech| choice(&SPEECHES, &speech).expect("one of the speeches");
            let (answer, next) = (chosen(speech), chosen(speech.next()));
            let (again, collect) = (7, 15);
            let goes_on = [ANSWER, 0, answer, again, 0, next, ANSWER, 1, next, collect];
            Some([&begun(address)[..], &beginning, &goes_on].concat())
        })
        .collect();
    seeds.sort();
    seeds.dedup();
    seeds
}

/// The bytes that let this packet be sent, if it is one that can be.
fn beginning<F: TestFamily>(step: &Step, tuple: &Tuple) -> Option<(Speech, Vec<u8>)> {
    let speech = *SPEECHES.iter().find(|speech| speech.protocol(tuple.from.ip()) == tuple.protocol)?;
    let sender = choice(&senders::<F>(), &(step.hook, tuple.from.ip()))?;
    let address = choice(&addresses::<F>(), &tuple.to.ip())?;
    let (from, to) = (port(&PORTS, tuple.from.port()), port(&SERVICES, tuple.to.port()));
    let bytes = [&[SPEAK, sender, choice(&SPEECHES, &speech)?], &from[..], &[address], &to[..]].concat();
    Some((speech, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::for_both;

    for_both!(a_seed_says_what_its_fixture_says);

    fn a_seed_says_what_its_fixture_says<F: TestFamily>() {
        let mut tried = 0;
        for step in steps() {
            let Some(tuple) = Tuple::read(&step.input).filter(|tuple| tuple.from.is_ipv4() == F::HOST.is_ipv4()) else {
                continue;
            };
            let Some((speech, bytes)) = beginning::<F>(step, &tuple) else { continue };
            let mut tape = Tape::new(&bytes);
            match happening::<F>(&mut tape) {
                Happening::Speak { hook, speech: said, from, to } => {
                    assert_eq!((hook, said, from, to), (step.hook, speech, tuple.from, tuple.to));
                }
                other => panic!("{other:?}"),
            }
            assert!(tape.is_over());
            tried += 1;
        }
        assert!(tried > 20, "{tried}");
    }
}
