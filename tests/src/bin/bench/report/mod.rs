//! What was measured, told: a table, the aims, a page with plots, JSON.

mod aims;
mod page;
mod plot;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::aims::{Judged, judge};
use crate::machine::Machine;
use crate::peer::Name;
use crate::plan::Plan;
use crate::results::{NotMeasured, Results, Row, Spread, Unit};

/// Everybody else is compared with this one.
const COMPARED: Name = Name::Docker;

/// A number with three significant digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0..0.0995 => 4,
        ..0.995 => 3,
        ..9.95 => 2,
        ..99.5 => 1,
        _ => 0,
    };
    if value == 0.0 { "0".into() } else { format!("{value:.digits$}") }
}

/// The middle of all slices, and from the least to the most of them.
fn spread(row: &Row) -> String {
    let (least, most) = row.ends();
    let middle = number(row.spread().middle);
    if row.slices.len() == 1 || row.unit() == Unit::Processes {
        return middle;
    }
    format!("{middle} ({}–{})", number(least), number(most))
}

/// A ratio, and between which the middle half of all slices has it.
fn ratio_words(ratio: Spread) -> String {
    let Spread { middle, low, high, of } = ratio;
    if of < 3 { number(middle) } else { format!("{} ({}–{})", number(middle), number(low), number(high)) }
}

impl Row {
    fn unit(&self) -> Unit {
        self.subject.unit
    }
}

/// How many times better a row is than another one.
fn times_better(row: &Row, than: &Row) -> Option<Spread> {
    if row.unit().is_rate() { row.ratio(than) } else { than.ratio(row) }
}

/// Prints everything.
pub(crate) fn print(results: &Results, machine: &Machine, plan: &Plan) {
    println!("{}, {} GiB, Linux {}, {}", machine.processor, machine.memory, machine.kernel, machine.system);
    println!("netbpf was built {}; load when it began: {}", machine.build, machine.load);
    println!(
        "{} rounds of {} slices of {} ms, packets by {}: median (least–most), × as good as {COMPARED} (middle half)",
        plan.effort.rounds,
        plan.effort.slices,
        plan.effort.time.as_millis(),
        machine.maker
    );
    for subject in results.subjects() {
        println!("\n{} [{}]", subject.words(), subject.unit.name());
        let compared = results.row(subject, COMPARED);
        for peer in &plan.peers {
            if let Some(row) = results.row(subject, *peer) {
                let ratio = compared.filter(|_| row.peer != COMPARED).and_then(|compared| times_better(row, compared));
                let ratio = ratio.map_or(String::new(), |ratio| format!("× {}", ratio_words(ratio)));
                println!("    {peer:<12} {:>26}  {ratio}", spread(row));
            } else if let Some(why) = results.why_not(subject, *peer) {
                println!("    {peer:<12} not measured: {why}");
            }
        }
    }
    println!("\nAims");
    for Judged { aim, measured, is_met } in judge(results) {
        let measured = measured.map_or_else(|| "not measured".into(), ratio_words);
        println!("    {aim:<100} {measured:>20}  {}", verdict(is_met));
    }
}

fn verdict(is_met: Option<bool>) -> &'static str {
    match is_met {
        Some(true) => "met",
        Some(false) => "not met",
        None => "-",
    }
}

#[derive(Serialize)]
struct Written<'run> {
    machine: &'run Machine,
    rounds: u32,
    slices: u32,
    milliseconds: u128,
    aims: Vec<Judged>,
    rows: &'run [Row],
    not_measured: &'run [NotMeasured],
}

/// Writes page, plots and JSON.
pub(crate) fn write(directory: &Path, results: &Results, machine: &Machine, plan: &Plan) -> Result<()> {
    let cannot = || format!("cannot write the report to {}", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    let written = Written {
        machine,
        rounds: plan.effort.rounds,
        slices: plan.effort.slices,
        milliseconds: plan.effort.time.as_millis(),
        aims: judge(results),
        rows: results.rows(),
        not_measured: results.missing(),
    };
    let json = serde_json::to_string_pretty(&written)? + "\n";
    fs::write(directory.join("results.json"), json).with_context(cannot)?;
    let plots = plot::draw(directory, results, plan).with_context(cannot)?;
    fs::write(directory.join("report.md"), page::page(results, machine, plan, &plots)).with_context(cannot)?;
    eprintln!("the report is in {}", directory.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Subject;

    fn row(unit: Unit, value: f64) -> Row {
        Row { subject: Subject::new("work", unit), peer: Name::Docker, slices: vec![value] }
    }

    #[test]
    fn half_the_time_and_twice_the_rate_are_twice_as_good() {
        let middle = |row: &Row, than: &Row| times_better(row, than).map(|ratio| ratio.middle);
        assert_eq!(middle(&row(Unit::Micros, 5.0), &row(Unit::Micros, 10.0)), Some(2.0));
        assert_eq!(middle(&row(Unit::Mpps, 10.0), &row(Unit::Mpps, 5.0)), Some(2.0));
        assert_eq!(middle(&row(Unit::Mpps, 10.0), &row(Unit::Mpps, 0.0)), None);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers = [0.0, 0.1234, 1.234, 12.34, 123.4, 12_345.6].map(number);
        assert_eq!(numbers, ["0", "0.123", "1.23", "12.3", "123", "12346"]);
    }
}
