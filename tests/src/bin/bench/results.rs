//! What was measured.

use serde::Serialize;

use crate::peer::Name;

/// What a number is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    /// Microseconds; fewer are better.
    #[serde(rename = "µs")]
    Micros,
    /// Milliseconds; fewer are better.
    #[serde(rename = "ms")]
    Millis,
    /// Gigabits per second.
    #[serde(rename = "Gbit/s")]
    Gigabits,
    /// Events per second.
    #[serde(rename = "/s")]
    PerSecond,
    /// Millions of packets per second.
    #[serde(rename = "Mpps")]
    Mpps,
    /// KiB of memory; fewer are better.
    #[serde(rename = "KiB")]
    Kibibytes,
    /// Bytes of memory; fewer are better.
    #[serde(rename = "bytes")]
    Bytes,
    /// Processes; fewer are better.
    #[serde(rename = "processes")]
    Processes,
}

impl Unit {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Gigabits => "Gbit/s",
            Self::PerSecond => "/s",
            Self::Mpps => "Mpps",
            Self::Kibibytes => "KiB",
            Self::Bytes => "bytes",
            Self::Processes => "processes",
        }
    }

    /// Whether more is better.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::Gigabits | Self::PerSecond | Self::Mpps)
    }
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Subject {
    /// The work, in words.
    pub(crate) work: String,
    /// Published ports, the one that is measured the last of them.
    pub(crate) ports: u32,
    /// Flows, each of which has packets in turn.
    pub(crate) flows: u32,
    /// What the numbers are of.
    pub(crate) unit: Unit,
}

impl Subject {
    /// Some work with one port and one flow.
    pub(crate) fn new(work: impl Into<String>, unit: Unit) -> Self {
        Self { work: work.into(), ports: 1, flows: 1, unit }
    }

    /// The same with so many ports and flows.
    pub(crate) fn with(self, ports: u32, flows: u32) -> Self {
        Self { ports, flows, ..self }
    }

    /// In words.
    pub(crate) fn words(&self) -> String {
        let mut words = self.work.clone();
        if self.ports > 1 {
            words += &format!(", {} ports", grouped(self.ports));
        }
        if self.flows > 1 {
            words += &format!(", {} flows", grouped(self.flows));
        }
        words
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| str::from_utf8(part).expect("digits")).collect();
    parts.join(",")
}

/// A subject at one peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// At whom.
    pub(crate) peer: Name,
    /// One number for each round.
    pub(crate) rounds: Vec<f64>,
}

impl Row {
    /// The middle of all rounds.
    pub(crate) fn median(&self) -> f64 {
        middle(self.rounds.clone())
    }

    /// This divided by another one: the middle of what the rounds say. A machine that becomes slow or fast does so for everybody of
    /// a round.
    pub(crate) fn ratio(&self, other: &Self) -> Option<f64> {
        let ratio = if self.rounds.len() == other.rounds.len() {
            middle(self.rounds.iter().zip(&other.rounds).map(|(own, other)| own / other).collect())
        } else {
            self.median() / other.median()
        };
        ratio.is_finite().then_some(ratio)
    }

    /// The least and the most of all rounds.
    pub(crate) fn ends(&self) -> (f64, f64) {
        let fold = |f: fn(f64, f64) -> f64, start| self.rounds.iter().copied().fold(start, f);
        (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len().is_multiple_of(2) { f64::midpoint(numbers[middle - 1], numbers[middle]) } else { numbers[middle] }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Results {
    /// Notes a number of this round.
    pub(crate) fn add(&mut self, subject: Subject, peer: Name, value: f64) {
        match self.rows.iter_mut().find(|row| row.peer == peer && row.subject == subject) {
            Some(row) => row.rounds.push(value),
            None => self.rows.push(Row { subject, peer, rounds: vec![value] }),
        }
    }

    /// Notes why something is not among the numbers.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What is to be said beside the numbers.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What was measured, each once, in the order in which it was.
    pub(crate) fn subjects(&self) -> Vec<&Subject> {
        let mut subjects: Vec<&Subject> = Vec::new();
        for row in &self.rows {
            if !subjects.contains(&&row.subject) {
                subjects.push(&row.subject);
            }
        }
        subjects
    }

    /// A subject at a peer.
    pub(crate) fn row(&self, subject: &Subject, peer: Name) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer == peer && row.subject == *subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_a_subject_are_one_row() {
        let mut results = Results::default();
        for value in [3.0, 1.0, 2.0] {
            results.add(Subject::new("work", Unit::Mpps), Name::Docker, value);
        }
        results.add(Subject::new("work", Unit::Mpps).with(1000, 1), Name::Docker, 9.0);
        assert_eq!(results.rows().len(), 2);
        let row = results.row(&Subject::new("work", Unit::Mpps), Name::Docker).expect("a row");
        assert_eq!((row.median(), row.ends()), (2.0, (1.0, 3.0)));
    }

    #[test]
    fn a_round_in_which_all_are_slow_changes_no_ratio() {
        let row = |rounds: [f64; 3]| Row {
            subject: Subject::new("work", Unit::Mpps),
            peer: Name::Docker,
            rounds: rounds.to_vec(),
        };
        assert_eq!(row([4.0, 2.0, 2.0]).ratio(&row([2.0, 1.0, 1.0])), Some(2.0));
        assert_eq!(row([8.0, 2.0, 3.9]).ratio(&row([4.0, 1.0, 2.0])), Some(2.0));
        assert_eq!(row([1.0; 3]).ratio(&row([0.0; 3])), None);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([1, 1000, 1_234_567].map(grouped), ["1", "1,000", "1,234,567"]);
    }
}
