//! The page for users of Docker: its commands run as they stand there, and give what it shows.

use std::fs;
use std::path::Path;

use netbpf_common::path::V4;
use netbpf_tests::wait::poll;

use crate::lab::{Lab, Outcome, secluded};

/// Stands for whatever there is in a line of output, or alone in a line for any lines.
const ANYTHING: &str = "…";

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/docker-users.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A command of the page, and the lines that it shows below.
#[derive(Debug, PartialEq)]
struct Shown<'page> {
    command: &'page str,
    output: Vec<&'page str>,
}

/// What the blocks ```` ```console ```` show: a command behind `$ `, and what it prints.
fn shown(page: &str) -> Vec<Shown<'_>> {
    let mut all: Vec<Shown<'_>> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => is_inside = language == "console",
            None if !is_inside => {}
            None => match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => all.push(Shown { command, output: Vec::new() }),
                (None, Some(last)) => last.output.push(line),
                (None, None) => panic!("the page shows an output without a command: {line}"),
            },
        }
    }
    all
}

/// Whether a line is what the page shows; how many blanks there are is the width of a column.
fn is_line(shown: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, line) = (words(shown), words(line));
    let mut parts = shown.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
    }
    rest.ends_with(last)
}

fn is_output(shown: &[&str], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.trim() == ANYTHING => {
            (0..=lines.len()).any(|skip| is_output(rest, &lines[skip..]))
        }
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, others)| is_line(first, line) && is_output(rest, others))
        }
    }
}

impl Shown<'_> {
    /// Whether it only asks: a server that was just started may need a moment until it answers.
    fn asks(&self) -> bool {
        ["curl ", "netbpf exec ", "netbpf run --rm ", "ip netns exec "]
            .iter()
            .any(|verb| self.command.starts_with(verb))
    }

    fn is_shown_by(&self, outcome: &Outcome) -> bool {
        let is_refusal = self.output.first().is_some_and(|line| line.starts_with("netbpf: "));
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        outcome.code == Some(i32::from(is_refusal)) && is_output(&self.output, &lines)
    }
}

#[test]
fn the_page_for_docker_users_shows_what_happens() {
    let page = page();
    let all = shown(&page);
    assert!(all.len() > 30, "the commands of the page are not found: {all:?}");
    secluded(|| {
        let lab = Lab::new::<V4>();
        let directory = lab.scratch();
        for shown in &all {
            let outcome = match shown.asks() {
                true => poll(|| Some(lab.shell(directory.path(), shown.command)).filter(|it| shown.is_shown_by(it)))
                    .unwrap_or_else(|| lab.shell(directory.path(), shown.command)),
                false => lab.shell(directory.path(), shown.command),
            };
            let Outcome { code, stdout, .. } = &outcome;
            let Shown { command, output } = shown;
            assert!(
                shown.is_shown_by(&outcome),
                "$ {command}\n{stdout}(exit code {code:?}), and the page shows\n{}",
                output.join("\n")
            );
        }
    });
}

/// What stands between backticks in the second column of the page's tables.
fn ours(page: &str) -> impl Iterator<Item = &str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix('|')?.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2))
}

#[test]
fn every_flag_of_the_page_for_docker_users_is_taken() {
    let page = page();
    let flags: Vec<&str> = ours(&page).filter(|it| it.starts_with('-')).collect();
    assert!(flags.len() > 20, "the flags of the page are not found: {flags:?}");
    secluded(|| {
        let lab = Lab::new::<V4>();
        lab.done(&["network", "create", "--subnet", "10.5.0.0/24", "front"]);
        lab.done(&["network", "create", "--ipv6", "--subnet", "fd00:6::/64", "six"]);
        lab.done(&["create", "--name", "web"]);
        for line in flags {
            let flags: Vec<&str> = line.split(' ').collect();
            lab.done(&[&["create", "--name", "box"][..], &flags].concat());
            lab.done(&["rm", "box"]);
        }
    });
}

#[test]
fn an_output_is_compared_word_by_word_but_for_what_changes() {
    for (shown, printed, is_same) in [
        ("a  b", "a b ", true),
        ("a … c", "a b b c", true),
        ("a …", "b a c", false),
        ("… s", "12 s", true),
        ("… s", "12 min", false),
        ("eth0@… UP", "eth0@if3   UP", true),
        ("a…b…c", "a12c", false),
    ] {
        assert_eq!(is_line(shown, printed), is_same, "{shown} and {printed}");
    }
    assert!(is_output(&["a", ANYTHING, "d"], &["a", "b", "c", "d"]));
    assert!(!is_output(&["a", ANYTHING], &["b"]));
    assert!(!is_output(&["a"], &["a", "b"]));
    assert!(!is_output(&["a"], &[]));
}
