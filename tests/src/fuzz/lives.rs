//! Well-formed packets of all sides, restarts, publishes, routes and time in any order: see
//! [`crate::instance`].

use super::tape::{Tape, choice, port};
use super::{CAPACITIES, RINGS, Story, steps};
use crate::fixture::Step;
use crate::instance::{ADDRESSES, ALSO_HOST, Happening, Instance, PORTS, SECONDS, SENDERS, SERVICES, SPEECHES};
use crate::journey::{Speech, Tuple};
use crate::survival::forgets;
use crate::talk::at;
use crate::world::{CONTAINERS, HOST, PUBLISHES};

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
    let mut tape = Tape::new(bytes);
    let mut instance = Instance::new(tape.choose(&RINGS), tape.choose(&CAPACITIES));
    let mut story = Story(Vec::new());
    for _ in 0..LONGEST {
        if tape.is_over() {
            break;
        }
        let happening = happening(&mut tape);
        story.0.push(happening.clone());
        instance.happens(&happening);
    }
    forgets(&instance.memory);
}

fn happening(tape: &mut Tape<'_>) -> Happening {
    match tape.byte() % 16 {
        SPEAK..ANSWER => {
            let (hook, source) = tape.choose(&SENDERS);
            let (speech, from) = (tape.choose(&SPEECHES), at(source, tape.port(&PORTS)));
            Happening::Speak { hook, speech, from, to: at(tape.choose(&ADDRESSES), tape.port(&SERVICES)) }
        }
        ANSWER..7 => Happening::Answer { arrival: tape.byte().into(), speech: tape.choose(&SPEECHES) },
        7 | 8 => Happening::Repeat { arrival: tape.byte().into(), speech: tape.choose(&SPEECHES) },
        9 => Happening::Remove(tape.choose(&CONTAINERS)),
        10 => Happening::Create(tape.choose(&CONTAINERS)),
        11 => Happening::Publish(tape.choose(&PUBLISHES), tape.choose(&CONTAINERS)),
        12 => Happening::Unpublish(tape.choose(&PUBLISHES)),
        13 => Happening::Renumber(tape.choose(&[HOST, ALSO_HOST])),
        14 => Happening::Sleep(tape.choose(&SECONDS)),
        _ => Happening::Collect,
    }
}

/// What each packet of the fixtures begins, when it is answered and goes on.
pub fn seeds() -> Vec<Vec<u8>> {
    let beginnings = steps().iter().filter_map(beginning);
    let mut seeds: Vec<_> = beginnings
        .map(|(speech, beginning)| {
            let chosen = |speech| choice(&SPEECHES, &speech).expect("one of the speeches");
            let (answer, next) = (chosen(speech), chosen(speech.next()));
            let (again, collect) = (7, 15);
            [&[2, 2], &beginning[..], &[ANSWER, 0, answer, again, 0, next, ANSWER, 1, next, collect]].concat()
        })
        .collect();
    seeds.sort();
    seeds.dedup();
    seeds
}

/// The bytes that let this packet be sent, if it is one that can be.
fn beginning(step: &Step) -> Option<(Speech, Vec<u8>)> {
    let tuple = Tuple::read(&step.input)?;
    let speech = *SPEECHES.iter().find(|speech| speech.protocol() == tuple.protocol)?;
    let sender = choice(&SENDERS, &(step.hook, *tuple.from.ip()))?;
    let address = choice(&ADDRESSES, tuple.to.ip())?;
    let (from, to) = (port(&PORTS, tuple.from.port()), port(&SERVICES, tuple.to.port()));
    let bytes = [&[SPEAK, sender, choice(&SPEECHES, &speech)?], &from[..], &[address], &to[..]].concat();
    Some((speech, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_its_fixture_says() {
        let mut tried = 0;
        for step in steps() {
            let Some((speech, bytes)) = beginning(step) else { continue };
            let tuple = Tuple::read(&step.input).expect("it has a beginning");
            let mut tape = Tape::new(&bytes);
            match happening(&mut tape) {
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
