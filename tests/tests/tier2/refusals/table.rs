//! How a table of refusals is read: a row is a command, and words of the line that refuses it.

use crate::lab::{Lab, Outcome, Snapshot};

/// Exit code of a command that was refused.
pub(super) const REFUSED: i32 = 1;

/// Exit code of a command that was not understood.
pub(super) const USAGE: i32 = 2;

/// A command as a shell has it, and what its refusal says: each of several words, with `|` between them. `@NAME` stands for a
/// name of this lab, and `''` for an empty argument.
pub(super) type Row = (&'static str, &'static str);

/// Lets every command be refused with its exit code and in one line, and nothing change by any of them.
pub(super) fn refuses(lab: &Lab, code: i32, rows: &[Row]) {
    let before = lab.snapshot();
    for (command, words) in rows {
        let command = lab.named(command);
        let arguments: Vec<&str> =
            command.split(' ').map(|argument| if argument == "''" { "" } else { argument }).collect();
        let outcome = lab.netbpf(&arguments);
        check(&command, &outcome, code, &lab.named(words));
        unchanged(lab, &before, &command);
    }
}

fn check(command: &str, outcome: &Outcome, code: i32, words: &str) {
    assert_eq!(outcome.code, Some(code), "netbpf {command}: {}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.stdout, "", "netbpf {command}: a refusal prints nothing else");
    one_line(command, &outcome.stderr, words);
}

/// One line, and every word in it.
pub(super) fn one_line(what: &str, text: &str, words: &str) {
    assert_eq!(text.lines().count(), 1, "{what}: one line, not\n{text}");
    for word in words.split('|') {
        assert!(text.contains(word), "{what}: `{word}` is not named: {text}");
    }
}

fn unchanged(lab: &Lab, before: &Snapshot, by: &str) {
    // What was refused at once has changed nothing for a moment either.
    for (view, now) in lab.snapshot() {
        assert_eq!(now, before[view], "netbpf {by} has changed `{view}`");
    }
}
