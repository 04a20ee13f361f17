//! What was measured.

use serde::Serialize;

use crate::peer::Name;

/// What a number is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    /// Nanoseconds; fewer are better.
    #[serde(rename = "ns")]
    Nanos,
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
            Self::Nanos => "ns",
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
    /// One number for each slice, in the order in which they were measured.
    pub(crate) slices: Vec<f64>,
}

impl Row {
    /// All slices.
    pub(crate) fn spread(&self) -> Spread {
        Spread::of(self.slices.clone())
    }

    /// This divided by another one, slice by slice: both were measured within the same moment, and a machine that becomes slow or fast does
    /// so for both.
    pub(crate) fn ratio(&self, other: &Self) -> Option<Spread> {
        let ratios: Vec<f64> = self.slices.iter().zip(&other.slices).map(|(own, other)| own / other).collect();
        let is_known = !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite());
        is_known.then(|| Spread::of(ratios))
    }

    /// The least and the most of all slices.
    pub(crate) fn ends(&self) -> (f64, f64) {
        let fold = |f: fn(f64, f64) -> f64, start| self.slices.iter().copied().fold(start, f);
        (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }
}

/// The middle of some numbers, and between which their middle half is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) middle: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How many there are.
    pub(crate) of: usize,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_unstable_by(f64::total_cmp);
        let at = |quarters: usize| {
            let place = (numbers.len() - 1) as f64 * quarters as f64 / 4.0;
            let (below, above) = (numbers[place.floor() as usize], numbers[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self { middle: at(2), low: at(1), high: at(3), of: numbers.len() }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rows: Vec<Row>,
    not_measured: Vec<NotMeasured>,
}

/// Why a number is missing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct NotMeasured {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) peer: Name,
    pub(crate) why: String,
}

impl Results {
    /// Notes a number of this round.
    pub(crate) fn add(&mut self, subject: Subject, peer: Name, value: f64) {
        match self.rows.iter_mut().find(|row| row.peer == peer && row.subject == subject) {
            Some(row) => row.slices.push(value),
            None => self.rows.push(Row { subject, peer, slices: vec![value] }),
        }
    }

    /// Notes why a number is missing.
    pub(crate) fn not_measured(&mut self, subject: Subject, peer: Name, why: &str) {
        if self.why_not(&subject, peer).is_none() {
            self.not_measured.push(NotMeasured { subject, peer, why: why.to_owned() });
        }
    }

    /// Why a number is missing, where somebody has said.
    pub(crate) fn why_not(&self, subject: &Subject, peer: Name) -> Option<&str> {
        self.not_measured.iter().find(|it| it.peer == peer && it.subject == *subject).map(|it| it.why.as_str())
    }

    /// All that is missing with a reason.
    pub(crate) fn missing(&self) -> &[NotMeasured] {
        &self.not_measured
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

    fn row(slices: &[f64]) -> Row {
        Row { subject: Subject::new("work", Unit::Mpps), peer: Name::Docker, slices: slices.to_vec() }
    }

    #[test]
    fn slices_of_a_subject_are_one_row() {
        let mut results = Results::default();
        for value in [3.0, 1.0, 2.0] {
            results.add(Subject::new("work", Unit::Mpps), Name::Docker, value);
        }
        results.add(Subject::new("work", Unit::Mpps).with(1000, 1), Name::Docker, 9.0);
        assert_eq!(results.rows().len(), 2);
        let row = results.row(&Subject::new("work", Unit::Mpps), Name::Docker).expect("a row");
        assert_eq!((row.spread().middle, row.ends()), (2.0, (1.0, 3.0)));
    }

    #[test]
    fn a_moment_in_which_all_are_slow_changes_no_ratio() {
        let middle = |own: &[f64], other: &[f64]| row(own).ratio(&row(other)).map(|ratio| ratio.middle);
        assert_eq!(middle(&[4.0, 2.0, 2.0], &[2.0, 1.0, 1.0]), Some(2.0));
        assert_eq!(middle(&[8.0, 2.0, 3.9], &[4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(&[1.0; 3], &[0.0; 3]), None);
    }

    #[test]
    fn who_was_measured_more_often_is_compared_by_what_both_have_done() {
        assert_eq!(
            row(&[2.0, 4.0, 100.0]).ratio(&row(&[1.0, 2.0])).map(|ratio| (ratio.middle, ratio.of)),
            Some((2.0, 2))
        );
    }

    #[test]
    fn the_middle_half_lies_between_the_quarters() {
        let spread = row(&[5.0, 1.0, 4.0, 2.0, 3.0]).spread();
        assert_eq!((spread.low, spread.middle, spread.high), (2.0, 3.0, 4.0));
        let spread = row(&[1.0, 2.0]).spread();
        assert_eq!((spread.low, spread.middle, spread.high), (1.25, 1.5, 1.75));
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([1, 1000, 1_234_567].map(grouped), ["1", "1,000", "1,234,567"]);
    }
}
