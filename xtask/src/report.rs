//! What tests came to.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};

/// What a set of tests came to.
#[derive(Default)]
pub(crate) struct Outcome {
    passed: u32,
    failed: u32,
    ignored: u32,
    pub(crate) time: Duration,
    /// Why it counts as failed beyond its failed tests.
    pub(crate) problem: Option<String>,
}

impl Outcome {
    /// What did not run at all.
    pub(crate) fn prevented(problem: impl fmt::Display) -> Self {
        Self { problem: Some(problem.to_string()), ..Self::default() }
    }

    /// Shows what tests print, gives each line to `look` before, and adds up their result lines.
    pub(crate) fn follow(&mut self, printed: impl Read, mut look: impl FnMut(&str)) -> Result<()> {
        for line in BufReader::new(printed).split(b'\n') {
            let line = line.context("cannot read what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            look(line);
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                self.passed += count(counts, "passed");
                self.failed += count(counts, "failed");
                self.ignored += count(counts, "ignored");
            }
        }
        Ok(())
    }

    /// Whether a test has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// What is wrong with a run that has ended well: a test that should run and does not is no success.
    pub(crate) fn lack(&self, is_filtered: bool) -> Option<String> {
        match self {
            Self { ignored: 1.., .. } => Some(format!("{} ignored", self.ignored)),
            Self { passed: 0, failed: 0, .. } if !is_filtered => Some("no test ran".into()),
            _ => None,
        }
    }
}

/// What ran and what it came to.
pub(crate) struct Report {
    /// What was run, by name.
    pub(crate) outcomes: Vec<(String, Outcome)>,
    /// What was in the names of the tests that were asked for.
    pub(crate) filter: Option<String>,
}

impl Report {
    /// Prints a line per outcome, what went wrong besides failed tests, and last `N passed, N failed`.
    /// `problems` are those of the caller.
    pub(crate) fn print(&self, mut problems: Vec<String>) -> ExitCode {
        println!("\n{:<24} {:>7} {:>7} {:>8}", "tests", "passed", "failed", "time");
        for (name, Outcome { passed, failed, time, problem, .. }) in &self.outcomes {
            println!("{name:<24} {passed:>7} {failed:>7} {:>6.1} s", time.as_secs_f64());
            problems.extend(problem.iter().map(|why| format!("{name}: {why}")));
        }
        let passed: u32 = self.outcomes.iter().map(|(_, outcome)| outcome.passed).sum();
        let failed: u32 = self.outcomes.iter().map(|(_, outcome)| outcome.failed).sum();
        if let (0, 0, Some(filter)) = (passed, failed, &self.filter) {
            problems.push(format!("no test has {filter:?} in its name"));
        }
        for problem in &problems {
            println!("error: {problem}");
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 && problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The number before `word` in libtest's "ok. 3 passed; 0 failed; 0 ignored; ...".
fn count(counts: &str, word: &str) -> u32 {
    let words: Vec<_> = counts.split([' ', ';', '.']).filter(|part| !part.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_result_line_are_read() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.02s";
        assert_eq!([count(line, "passed"), count(line, "failed"), count(line, "ignored")], [12, 3, 1]);
        assert_eq!(count("ok. ", "passed"), 0);
    }
}
